#!/usr/bin/env bash
# Runs the tests, quick and slow, in .venv, which is made first where it is missing.
# All arguments go to pytest, with paths as seen from the project's folder:
#     tools/test.sh -m 'not slow' tests/modeling
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$folder/setup_env.sh"
cd "$folder/.."
# One process a core, of one thread each: the tensors of most tests are too small for more.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pytest -n "${GA_DETECTRON2_TEST_PROCESSES:-2}" --dist loadfile "$@"
