"""The model files are the plain way: which of several ways an operation runs is decided in `routes` alone."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "transformers_samdetr"
PLAIN = [
    PACKAGE / f"{name}.py"
    for name in (
        "modeling_sam_detr",
        "encoder",
        "decoder",
        "semantics_aligner",
        "backbone",
        "attention",
        "loss",
    )
]
FAST = sorted(PACKAGE.glob("fast_*.py"))
DECISIONS = (
    "is_compiling|is_exporting|is_tracing|is_cuda|is_grad_enabled|are_deterministic|is_current_stream|"
    r"device\.type|is_meta|cudnn|set_grad_enabled"
)
IN_TRAINING = r"dropout|num_denoising_groups"
"""What differs in training by definition, not by the way it is computed."""


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_no_condition_on_how_it_runs(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(DECISIONS, line)] == []
    assert [line for line in lines if "self.training" in line and not re.search(IN_TRAINING, line)] == []


def test_the_plain_model_is_short():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PLAIN) <= 1900


@pytest.mark.parametrize("path", FAST, ids=lambda path: path.stem)
def test_fast_ways_are_known_to_routes_alone(path):
    imports = re.compile(rf"\b{path.stem}\b.* import |import .*\b{path.stem}\b")
    importing = [other.name for other in PACKAGE.rglob("*.py") if imports.search(other.read_text(encoding="utf-8"))]
    assert importing == ["routes.py"]
    assert not re.search(DECISIONS, path.read_text(encoding="utf-8").replace("device.type", ""))
