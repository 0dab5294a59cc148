"""Puts `scripts/` on the path: tests of experiments and benchmarks import its packages."""

import sys
from pathlib import Path

from .accelerator_order import (  # noqa: F401, hooks of pytest
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_protocol,
    pytest_runtest_setup,
)

# last, since scripts/evaluate.py would hide the library `evaluate` otherwise
sys.path.append(str(Path(__file__).parents[1] / "scripts"))
