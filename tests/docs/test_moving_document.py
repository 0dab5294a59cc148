"""docs/moving.md: what it says of Transformers' detectors and of ours is so in the versions that are installed."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import ConditionalDetrConfig, DeformableDetrConfig, DetrConfig

from transformers_samdetr import SamDetrConfig, SamDetrImageProcessor
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput

DOCUMENT = (Path(__file__).parents[2] / "docs" / "moving.md").read_text(encoding="utf-8")
CONFIGS = (DetrConfig, ConditionalDetrConfig, DeformableDetrConfig, SamDetrConfig)


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its two first lines."""
    section = DOCUMENT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(cell: str) -> list[str]:
    return [name for code in re.findall(r"`([^`]*)`", cell) for name in re.findall(r"^\w+", code)]


@pytest.mark.parametrize(
    ("row", "field"), [("queries by default", "num_queries"), ("dropout by default", "dropout")], ids=lambda x: x
)
def test_defaults_at_a_glance(row, field):
    (cells,) = (cells for cells in rows("At a glance") if cells[0] == row)
    assert [float(re.match(r"[\d.]+", cell)[0]) for cell in cells[1:]] == [getattr(one(), field) for one in CONFIGS]


def test_levels_layers_with_a_loss_and_weights_at_a_glance():
    table = {cells[0]: cells[1:] for cells in rows("At a glance")}
    assert [one().auxiliary_loss for one in CONFIGS] == [False, False, False, True]
    assert table["layers with a loss by default"] == ["last", "last", "last", "**all** (`auxiliary_loss=True`)"]
    assert DeformableDetrConfig().num_feature_levels == int(table["feature levels"][2]) == 4
    assert ConditionalDetrConfig().cls_loss_coefficient == int(table["weight of the class loss"][1])
    assert SamDetrConfig().class_loss_coefficient == int(table["weight of the class loss"][3][0])


@pytest.mark.parametrize("cells", rows("Configuration"), ids=lambda cells: cells[0])
def test_fields_of_the_configuration(cells):
    theirs = {field.name for config in CONFIGS[:3] for field in fields(config)}
    ours = {field.name for field in fields(SamDetrConfig)}
    before, after = cells
    # Transformers reads the older names of a backbone, and keeps none of them as fields
    assert set(names(before)) <= theirs | {"use_timm_backbone", "backbone", "backbone_kwargs"}
    if after.startswith("gone"):
        assert not set(names(before)) & ours
    elif after == "the same names":
        assert set(names(before)) <= ours
    else:
        assert {name for name in names(after) if not name.isdigit()} <= ours


def test_outputs_and_post_processing():
    outputs = {field.name for field in fields(SamDetrObjectDetectionOutput)}
    table = {cells[0]: cells[1] for cells in rows("Outputs and post-processing")}
    same = next(before for before, after in table.items() if after == "the same names")
    assert all(name in outputs or hasattr(SamDetrObjectDetectionOutput, name) for name in names(same))
    assert {"reference_boxes", "salient_points"} <= outputs
    assert {"shortest_edge": 800, "longest_edge": 1333} == SamDetrImageProcessor.size
