"""The picture of a training log shows what the log says."""

import subprocess
import sys

import pytest
from matplotlib.image import imread

from transformers_samdetr.training.log import curve_figure, without_denoising

LINES = [
    {"variant": "a recipe", "epoch": 1, "train_loss": 9.0, "test_loss": 5.0, "AP": 1.0, "AP50": 3.0, "AP75": 0.5},
    {"variant": "a recipe", "epoch": 2, "train_loss": 6.0, "test_loss": 4.5, "AP": 2.0, "AP50": 4.0, "AP75": 1.5},
]
DENOISED = [line | {"train_loss_ce": 2.0, "train_dn_loss_ce": 1.5, "train_dn_loss_giou_0": 0.5} for line in LINES]


def drawn(lines):
    """What each line's label begins with, and its values."""
    return {
        line.get_label().split()[0]: list(line.get_ydata()) for axes in curve_figure(lines).axes for line in axes.lines
    }


def test_losses_and_precision():
    assert drawn(LINES) == {
        "training": [9.0, 6.0],
        "evaluation": [5.0, 4.5],
        "AP": [1.0, 2.0],
        "AP50": [3.0, 4.0],
        "AP75": [0.5, 1.5],
    }


def test_denoising_is_left_out_since_an_evaluation_has_none():
    assert drawn(DENOISED)["training"] == [7.0, 4.0]
    titles = [curve_figure(lines).axes[0].get_title() for lines in (LINES, DENOISED)]
    assert titles == ["Loss", "Loss, without its denoising part"]


def test_the_legend_has_the_last_values():
    losses, precision = curve_figure(DENOISED).axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["training   4.00", "evaluation   4.50"]
    assert [text.get_text() for text in precision.get_legend().get_texts()] == ["AP50   4.0", "AP75   1.5", "AP   2.0"]


@pytest.mark.parametrize(
    "lines", [[], LINES[:1], [{"variant": "a", "epoch": 1, "AP": None}]], ids=("none", "one", "AP")
)
def test_short_logs(lines, tmp_path):
    curve_figure(lines).savefig(tmp_path / "curve.png", dpi=120)
    assert imread(tmp_path / "curve.png").shape[:2] == (480, 1200)
    assert "evaluation" not in drawn(lines) or lines == LINES[:1]


def test_a_line_without_a_training_loss():
    assert without_denoising({"epoch": 1, "train_dn_loss_ce": 1.0}) is None


def test_training_waits_for_no_matplotlib():
    """It takes longer to import than all of the package's own modules, and one process of many draws, once an epoch."""
    code = "import sys, transformers_samdetr.training; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
