#!/usr/bin/env bash
# Makes .venv, the environment that the project is developed and tested with: Python 3.10, the
# pinned packages of requirements.txt and this package itself (editable). Does nothing where that
# is done already, and starts over where requirements.txt or setup.py changed since.
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

# What the environment was made from. The folder belongs to it: an environment cannot be moved.
fingerprint=$({ echo "$root"; cat requirements.txt requirements/bootstrap.txt setup.py; } |
    sha256sum | cut -d ' ' -f 1)
if ! $fresh && [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
    exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || fail "requirements.txt is pinned for Linux on x86-64," \
    "this is $(uname -sm). Install torch, detectron2 and then this package (pip install -e .)" \
    "into an environment of your own instead; see README.md."
if [ -e "$venv" ] && [ ! -e "$stamp" ]; then
    fail "$venv is there, but was not made by this script. Move or remove it first."
fi

# Succeeds if the command "$1" is a Python 3.10 that can make environments.
is_python310() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 10))' \
        >/dev/null 2>&1
}

# Makes an empty .venv. With pyenv, .python-version in this folder makes python3 a Python 3.10.
make_venv() {
    local candidate
    for candidate in python3.10 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python3; do
        if is_python310 "$candidate"; then
            say "Making .venv with $("$candidate" -c 'import sys; print(sys.executable)')"
            "$candidate" -m venv "$venv"
            return
        fi
    done
    if uv --version >/dev/null 2>&1; then
        say "Making .venv with uv"
        uv venv --quiet --seed --python 3.10 "$venv" && return
    fi
    fail "No Python 3.10 found (with its modules venv and ensurepip). Install it, for example:" \
        "Ubuntu 22.04: apt install python3.10-venv; pyenv: pyenv install 3.10;" \
        "uv: uv python install 3.10; conda: conda create -n py310 python=3.10, then activate it."
}

rm -rf "$venv"
make_venv
echo unfinished >"$stamp"

# Hashes are checked for every file, and what builds the few packages that are published as source
# alone is pinned, too, by bootstrap.txt: nothing unpinned gets in.
say "Installing the packages of requirements.txt (some 3 GB, most of it torch and CUDA)"
# Progress where somebody watches, errors alone in a log.
quiet=(--quiet)
if [ -t 2 ]; then quiet=(); fi
pins=(--require-hashes --no-build-isolation -r requirements.txt)
"$python" -m pip install -qq --require-hashes -r requirements/bootstrap.txt
if ! "$venv/bin/uv" pip install "${quiet[@]}" --python "$python" "${pins[@]}"; then
    # uv does not read pip's configuration, for one thing, which may name the only way out.
    say "uv could not do it (see above); trying pip, which takes longer"
    "$python" -m pip install "${quiet[@]}" "${pins[@]}"
fi
"$python" -m pip install -qq --no-deps --no-build-isolation --editable .

"$python" -W ignore -c 'import cv2, detectron2.model_zoo, torch' ||
    fail "The environment was made, but does not work; the error is above."
echo "$fingerprint" >"$stamp"
say "Done in $SECONDS s."
