"""The aligner as a module for other detectors, its example, and the pages that point at its functions."""

import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest
import torch

from transformers_samdetr import SamDetrConfig, SemanticsAligner
from transformers_samdetr.semantics_aligner import ImageSearchAligner, PooledAligner

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_example():
    example = (ROOT / "examples" / "aligner_in_dab_detr.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "aligner.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(from types.*?)```", page, re.DOTALL)
    assert len(shown) == 1 and shown[0] in example


@pytest.mark.parametrize(
    "aligner",
    [
        SemanticsAligner(32, 4, 4, smca=True),
        SemanticsAligner(32, 4, 2),
        ImageSearchAligner(32, 4, 4),
        PooledAligner(32, 4, "max"),
    ],
    ids=lambda aligner: type(aligner).__name__,
)
def test_without_a_valid_size_the_whole_map_is_valid(aligner):
    torch.manual_seed(0)
    queries, boxes, features = torch.randn(2, 5, 32), torch.rand(2, 5, 4), torch.randn(2, 6, 8, 32)
    found = aligner(queries, boxes, features)
    expected = aligner(queries, boxes, features, torch.tensor([[8.0, 6.0]] * 2))
    assert found.content.shape == found.positions.shape == (2, 5, 4, 32)
    for name in ("content", "positions", "salient_points"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    if found.attention_bias is not None:
        assert found.attention_bias.dense().shape == (2, 4, 5, 48)


def test_content_is_sampled_from_the_features_of_the_box():
    """Equations 2, 3 and 5: on a map that is constant within a box, content is that constant before reweighting."""
    aligner = SemanticsAligner(32, 4, 4, feature_reweighting=False)
    features = torch.zeros(1, 8, 8, 32)
    features[:, :, 4:] = 3.0  # the right half
    boxes = torch.tensor([[[0.8, 0.5, 0.2, 0.4], [0.2, 0.5, 0.2, 0.4]]])
    content = aligner(torch.randn(1, 2, 32), boxes, features).content
    torch.testing.assert_close(content[:, 0], torch.full((1, 4, 32), 3.0))
    torch.testing.assert_close(content[:, 1], torch.zeros(1, 4, 32))


def test_every_equation_has_its_function_which_names_it():
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| [^|]+ \| `(\w+)\.py` \| `([\w.]+)` \|$", text, flags=re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 9))
    for number, file, function in rows:
        found = attrgetter(function)(import_module(f"transformers_samdetr.{file}"))
        source = inspect.getsource(inspect.unwrap(found))
        named = " ".join(re.findall(r"equations? (\d(?:(?:, | and | to )\d)*)", source))
        assert number in named, (number, function)


def test_defaults_are_those_of_the_paper_s_models():
    config, aligner = SamDetrConfig(), SemanticsAligner()
    assert (aligner.d_model, aligner.num_heads) == (config.d_model, config.decoder_attention_heads)
    assert (aligner.num_points, aligner.roi_size) == (config.num_keypoints, config.roi_size)
    assert aligner.smca == config.smca and aligner.content_reweighting is not None and not aligner.ends_at_valid
