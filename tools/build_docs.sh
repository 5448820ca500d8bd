#!/usr/bin/env bash
# Builds the documentation site into docs/_build/html. Warnings, broken references among them, are
# errors. Needs no network; docs/figures/draw.py draws the figures.
#
#     tools/build_docs.sh [FOLDER]      FOLDER: instead of docs/_build
#
# Uses .venv, which tools/setup_env.sh makes, or the python that the variable PYTHON names.
set -euo pipefail

case "$#:${1-}" in
    0:) ;;
    1:-*) echo "usage: tools/build_docs.sh [FOLDER]"; [ "$1" = -h ] || [ "$1" = --help ]; exit ;;
    1:*) output=$(realpath -m "$1") ;;
    *) echo "usage: tools/build_docs.sh [FOLDER]" >&2; exit 2 ;;
esac

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "${PYTHON-}" ]; then
    "$folder/setup_env.sh"
    PYTHON=$folder/../.venv/bin/python
fi
docs=$(cd "$folder/../docs" && pwd)
output=${output-$docs/_build}

"$PYTHON" -W ignore -m sphinx -b html -n -W --keep-going -q -d "$output/doctrees" "$docs" "$output/html"
echo "build_docs: the pages are in $output/html, index.html first"
