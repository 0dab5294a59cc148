"""Puts `scripts/` on the path: tests of experiments and benchmarks import its packages."""

import sys
from pathlib import Path

# last, since scripts/evaluate.py would hide the library `evaluate` otherwise
sys.path.append(str(Path(__file__).parents[1] / "scripts"))
