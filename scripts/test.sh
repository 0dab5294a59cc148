#!/usr/bin/env bash
# Makes its own environment and runs style checks and all tests but those marked slow, network or accelerator.
# More arguments go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh train,quickstart,export,test
ruff check .
ruff format --check .
# one thread a process: two workers share two cores
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH=
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal -q "$@"
