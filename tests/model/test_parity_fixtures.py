"""Every variant against the committed numbers of `tests/fixtures/parity`, which `parity_fixtures.py` explains.

`-s` prints how far each case is off.
"""

from importlib import import_module

import pytest
import torch

from transformers_samdetr.attention import AxisBias

from .. import parity_fixtures as fixtures
from ..models import DEVICES
from ..parity import check_detections, deviation


@pytest.mark.parametrize("name", fixtures.CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_numbers_of_every_variant(name, device):
    expected = fixtures.read(name)
    model, outputs, norms = fixtures.run(name, device)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["num_trainable"]
    off = deviation(outputs, norms, expected)
    print(f"\n{name}: {off}")
    off.check()
    check_detections(
        outputs, fixtures.TARGET_SIZES, *(expected[f"detected_{key}"] for key in ("scores", "labels", "boxes"))
    )


def test_a_file_for_each_case_and_no_other():
    assert {file.stem for file in fixtures.FOLDER.glob("*.npz")} == set(fixtures.CASES)


def test_small_mistakes_are_noticed(monkeypatch):
    """Each of a factor of one percent, or of a padded image taken for a whole one."""
    expected = fixtures.read("dn_smca_ms.both")

    def slightly_off(module: str, name: str, wrong):
        right = getattr(import_module(f"transformers_samdetr.{module}"), name)
        monkeypatch.setattr(
            f"transformers_samdetr.{module}.{name}", lambda *args, **kwargs: wrong(right(*args, **kwargs))
        )
        _, outputs, norms = fixtures.run("dn_smca_ms.both")
        monkeypatch.undo()
        with pytest.raises(AssertionError):
            deviation(outputs, norms, expected).check()

    slightly_off("semantics_aligner", "gaussian_bias", lambda bias: AxisBias(1.01 * bias.along_x, bias.along_y))
    slightly_off("semantics_aligner", "embed_points", lambda embedding: 1.01 * embedding)
    slightly_off("loss", "average_num_boxes", lambda number: 1.01 * number)
    slightly_off("loss", "focal_loss", lambda loss: 1.01 * loss)
    slightly_off("backbone", "valid_ratio", torch.ones_like)
