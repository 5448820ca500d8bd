#!/usr/bin/env bash
# From a fresh clone to a trained guided-anchoring detector: makes .venv where it is missing, trains
# a small GA-Faster R-CNN on the embedded drawn data on a CPU and scores it.
# Further arguments go to tools/train_net.py: tools/quickstart.sh --resume SOLVER.MAX_ITER 2000
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$folder/setup_env.sh"
cd "$folder/.."

output=output/quickstart
.venv/bin/python tools/train_net.py --config-file configs/quickstart_ga_faster_R_18.yaml \
    "$@" OUTPUT_DIR "$output"
echo "quickstart: trained and scored in $SECONDS s; the model, its log and its results are in $output"
