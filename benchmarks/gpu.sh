#!/usr/bin/env bash
# Checks and measures the package on a machine with one NVIDIA GPU, in at most 8 minutes, the most
# important first. Every step has its own time limit and writes each result at once to OUT/STEP.json
# and what it prints to OUT/STEP.log; the summary at the end is also in OUT/summary.txt, and
# OUT/gpu_DEVICE.json has all numbers.
#
#     benchmarks/gpu.sh [OUT] [--device cuda|cpu] [--quick]      OUT: output/gpu by default
#
# --device cpu --quick tries every step in small on a CPU, in one process and about a minute. On a
# machine without internet that has Python 3.12, torch, torchvision, NumPy, OpenCV, matplotlib and
# pytest:
#
#     tools/pack_offline.sh --python 3.12        here
#     output/offline/install.sh                  there, in a copy of this folder
#     benchmarks/gpu.sh                          there
#
# PYTHON names another interpreter than python3.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
usage="usage: benchmarks/gpu.sh [OUT] [--device cuda|cpu] [--quick]"
out=""
options=()
total=480
quick=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) echo "$usage"; exit ;;
        --device) options+=(--device "${2-}"); shift 2 || exit 2 ;;
        --quick) options+=(--quick); quick=1; shift ;;
        -*) echo "gpu.sh: unknown option $1. $usage" >&2; exit 2 ;;
        *) out=$1; shift ;;
    esac
done
out=${out:-$root/output/gpu}
mkdir -p "$out" || exit 1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# Steps with their limits in seconds; a step that needs less leaves more to those after it.
steps=(checks:75 waiting:35 models:150 heads:40 quickstart:80 adaption:35 faster:60 export:40)
if [ -n "$quick" ]; then
    steps=(all:900)
    total=1000
fi
failed=0
for entry in "${steps[@]}"; do
    step=${entry%:*}
    limit=${entry#*:}
    rm -f "$out/$step.json"
    left=$((total - SECONDS - 10))
    if [ "$limit" -gt "$left" ]; then limit=$left; fi
    if [ "$limit" -lt 20 ]; then
        echo "gpu.sh: no time is left for $step"
        continue
    fi
    echo "gpu.sh: $step, at most $limit s (at $SECONDS s)"
    timeout --kill-after=5 "$limit" "$python" -W ignore "$root/benchmarks/gpu.py" "$step" "$out" \
        --seconds $((limit * 3 / 4)) "${options[@]}" >"$out/$step.log" 2>&1
    status=$?
    if [ $status -ne 0 ]; then
        failed=1
        echo "gpu.sh: $step ended with status $status (124: out of time); see $out/$step.log"
    fi
done
"$python" -W ignore "$root/benchmarks/gpu_summary.py" "$out" | tee "$out/summary.txt"
echo "gpu.sh: $SECONDS s"
exit $failed
