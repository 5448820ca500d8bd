#!/usr/bin/env bash
# Makes .venv, the environment that the project is developed and tested with: Python 3.10 to 3.13
# (python3 if it is one of them), the pinned packages of requirements.txt, detectron2 and this
# package (editable). Does nothing if .venv is up to date; starts over if a pin has changed.
#
#     tools/setup_env.sh [--fresh]      --fresh: start over in any case
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/ga_detectron2.stamp
cd "$root"

say() { printf 'setup_env: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

usage="usage: tools/setup_env.sh [--fresh]"
fresh=false
case "$#:${1-}" in
    0:) ;;
    1:--fresh) fresh=true ;;
    1:-h | 1:--help) echo "$usage"; exit ;;
    *) fail "$usage" ;;
esac

# What the environment is made from. The folder is part of it: an environment cannot be moved.
pins=(requirements.txt requirements/bootstrap.txt requirements/detectron2.txt)
fingerprint=$({ echo "$root"; cat "${pins[@]}" tools/pure_detectron2.py setup.py; } |
    sha256sum | cut -d ' ' -f 1)
if ! $fresh && [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
    exit 0
fi
if [ -e "$venv" ] && [ ! -e "$stamp" ]; then
    fail "$venv exists, but was not made by this script. Move or remove it first."
fi

# Succeeds if the command "$1" is a Python of a supported version that can make environments.
is_supported() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

make_venv() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if is_supported "$candidate"; then
            say "Making .venv with $("$candidate" -c 'import sys; print(sys.executable)')"
            "$candidate" -m venv "$venv"
            return
        fi
    done
    if uv --version >/dev/null 2>&1; then
        say "Making .venv with a Python of uv's"
        uv venv --quiet --seed --python ">=3.10,<3.14" "$venv" && return
    fi
    fail "No Python 3.10 to 3.13 with its modules venv and ensurepip was found, and no uv." \
        "On Debian and Ubuntu: apt install python3-venv. Elsewhere: install uv, which brings a Python."
}

rm -rf "$venv"
make_venv
echo unfinished >"$stamp"

# Every file is checked against its hash. What builds the few packages that are published as source
# alone is pinned, too, by bootstrap.txt: nothing unpinned gets in.
say "Installing the packages of requirements.txt (on Linux some 6 GB, most of it torch and CUDA)"
# Progress on a terminal, errors alone in a log.
quiet=(--quiet)
if [ -t 2 ]; then quiet=(); fi
options=(--require-hashes --no-build-isolation -r requirements.txt)
"$python" -m pip install -qq --require-hashes -r requirements/bootstrap.txt
if ! "$venv/bin/uv" pip install "${quiet[@]}" --python "$python" "${options[@]}"; then
    # uv does not read pip's configuration, which may name the only reachable index.
    say "uv failed (see above); trying pip, which takes longer"
    "$python" -m pip install "${quiet[@]}" "${options[@]}"
fi
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$python" -m pip install -qq --no-deps "$("$python" tools/pure_detectron2.py "$wheels")"
"$python" -m pip install -qq --no-deps --no-build-isolation --editable .

"$python" -W ignore -c 'import cv2, detectron2.model_zoo, torch' ||
    fail "The environment was made, but does not work; the error is above."
echo "$fingerprint" >"$stamp"
say "Done in $SECONDS s: $("$python" --version), in $venv"
