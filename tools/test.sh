#!/usr/bin/env bash
# Runs the tests, quick and slow, in .venv, which is made first where it is missing.
# All arguments go to pytest, with paths as seen from the project's folder:
#     tools/test.sh -m 'not slow' tests/modeling
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$folder/setup_env.sh"
cd "$folder/.."
exec .venv/bin/python -m pytest "$@"
