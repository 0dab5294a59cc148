#!/usr/bin/env bash
# Makes its own environment and runs style checks and all tests but those marked slow, network or accelerator.
# More arguments go to pytest: bash scripts/test.sh -m slow
# bash scripts/test.sh lowest: the core tests with the oldest versions that are supported, in .venv-lowest.
set -euo pipefail
cd "$(dirname "$0")/.."
# one thread a process: two workers share two cores
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
if [ "${1:-}" = lowest ]; then
    shift
    VENV="${VENV:-.venv-lowest}"
    export PIP_CONSTRAINT="$PWD/scripts/lowest_versions.txt"
    . scripts/environment.sh train
    python -m pip install --quiet hypothesis parameterized peft pycocotools pytest pytest-timeout pytest-xdist
    set -- tests/processing tests/hub tests/model/test_{configuration_sam_detr,loading,loss,modeling_sam_detr}.py "$@"
else
    . scripts/environment.sh train,quickstart,export,test
    ruff check .
    ruff format --check .
fi
export PYTHONPATH=
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal -q "$@"
