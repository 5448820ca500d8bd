#!/usr/bin/env bash
# Runs all tests in .venv, which is made first if it is missing.
# Arguments go to pytest; paths are relative to the project:
#     tools/test.sh -m 'not slow' tests/modeling
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$folder/setup_env.sh"
cd "$folder/.."
# Two processes of one thread each: the tensors of most tests are too small for more threads. Files
# run in their order, so that the longest, in benchmarks, come first.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pytest -n "${GA_DETECTRON2_TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
