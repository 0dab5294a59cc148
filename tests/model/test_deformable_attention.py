"""The place where a CUDA kernel goes, which cannot run here: Transformers' own module stands in for it."""

import pytest
import torch
from transformers.models.deformable_detr import modeling_deformable_detr
from transformers.utils import is_kernels_available

from transformers_samdetr.encoder import MultiScaleDeformableAttention

from ..models import MULTI_SCALE, VARIANTS, Operations, fake_gpu, tiny_model


def test_transformers_module_gives_the_same_numbers(monkeypatch):
    """Its arguments are the kernel's."""
    model = tiny_model(**MULTI_SCALE, encoder_layers=2).eval()
    pixels = torch.randn(2, 3, 64, 96)
    found = model(pixels)
    calls = []

    def theirs(module, value, shapes, sizes, starts, *args, **kwargs):
        assert shapes.tolist() == [list(size) for size in sizes]
        assert starts.tolist() == [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
        calls.append(module)
        return modeling_deformable_detr.MultiScaleDeformableAttention.forward(
            module, value, shapes, sizes, starts, *args, **kwargs
        )

    monkeypatch.setattr(MultiScaleDeformableAttention, "forward", theirs)
    wanted = model(pixels)
    assert len(calls) == 2, "a call for each layer"
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pred_boxes, wanted.pred_boxes, rtol=0, atol=1e-5)


def test_a_kernel_gets_numbers_of_one_kind(monkeypatch):
    model = tiny_model(**MULTI_SCALE, encoder_layers=1).eval()
    seen = []
    forward = MultiScaleDeformableAttention.forward

    def watching(module, value, shapes, sizes, starts, locations, weights, im2col_step):
        seen.append({value.dtype, locations.dtype, weights.dtype})
        return forward(module, value, shapes, sizes, starts, locations, weights, im2col_step)

    monkeypatch.setattr(MultiScaleDeformableAttention, "forward", watching)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(1, 3, 64, 96))
    assert seen == [{torch.float32}]


SAMPLERS = {"grid_sampler_2d", "roi_align"}


def samplers(**fields) -> set[str]:
    """Those of a GPU's kernels that add up gradients in any order which a model uses."""
    with fake_gpu():
        model = tiny_model(**fields)
        with Operations() as given:
            model(torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.int64))
    return SAMPLERS & set(given.names)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_where_determinism_is_asked_for_nothing_is_added_up_in_any_order(fields, monkeypatch):
    """But for points that are searched in the whole image: PyTorch refuses their gradient."""
    ordinary = samplers(**fields)
    assert ("roi_align" in ordinary) == (fields.get("query_resampling") != "none")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    searched = {"grid_sampler_2d"} if fields.get("keypoint_search_range") == "image" else set()
    assert samplers(**fields) == searched
    assert "grid_sampler_2d" in ordinary or not (searched or fields.get("num_feature_levels"))


def test_maps_that_end_early_are_not_for_torchvisions_kernel():
    assert samplers(mask_padding=True) == {"grid_sampler_2d"}


@pytest.mark.skipif(not is_kernels_available(), reason="needs the version of `kernels` that Transformers asks for")
def test_the_layer_is_known_to_the_kernels_package():
    assert MultiScaleDeformableAttention.kernel_layer_name == "MultiScaleDeformableAttention"
