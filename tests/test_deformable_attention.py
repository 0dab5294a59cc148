"""The place where a CUDA kernel goes, which cannot run here: Transformers' own module stands in for it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.deformable_detr import modeling_deformable_detr
from transformers.utils import is_kernels_available

from transformers_samdetr.deformable_attention import MultiScaleDeformableAttention

from .models import MULTI_SCALE, tiny_model


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


def test_where_determinism_is_asked_for_nothing_is_added_up_in_any_order(monkeypatch):
    """On a GPU that need not be there: `grid_sample` has no deterministic gradient, patches have."""
    names = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    def run():
        names.clear()
        with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
            model = tiny_model(**MULTI_SCALE)
            with Watch():
                model(torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.int64))
        return any("grid_sampler" in name or "roi_align" in name for name in names)

    assert run()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not run()


@pytest.mark.skipif(not is_kernels_available(), reason="needs the version of `kernels` that Transformers asks for")
def test_the_layer_is_known_to_the_kernels_package():
    assert MultiScaleDeformableAttention.kernel_layer_name == "MultiScaleDeformableAttention"
