"""Nothing in the forward waits for the host, and compiled code serves every size of image."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from ..models import MULTI_SCALE, tiny_model

SMALL = {"encoder_layers": 1, "decoder_layers": 1, "smca": True}
variants = pytest.mark.parametrize("fields", [SMALL, {**SMALL, **MULTI_SCALE}], ids=["single", "multi-scale"])


def inputs(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(2, height, width, dtype=torch.int64)
    mask[1, :, -20:] = 0
    return torch.randn(2, 3, height, width), mask


def test_export_finds_no_branch_on_data():
    """`torch.export` refuses whatever has to be read back from the device: `.item()`, a branch or a size."""
    model = tiny_model(**SMALL)
    pixels, mask = inputs(64, 96)
    with torch.no_grad():
        program = torch.export.export(model, (pixels, mask), strict=False)
        exported, plain = program.module()(pixels, mask), model(pixels, mask)
    torch.testing.assert_close(exported.logits, plain.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(exported.pred_boxes, plain.pred_boxes, rtol=0, atol=1e-5)


def test_the_forward_is_one_graph_for_all_sizes():
    torch._dynamo.reset()
    model, counter = tiny_model(**SMALL), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in ((64, 96), (480, 640)):
            pixels, mask = inputs(*size)
            torch.testing.assert_close(compiled(pixels, mask).logits, model(pixels, mask).logits, rtol=0, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.slow
@variants
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_one_compilation_serves_all_sizes(fields, training):
    torch._dynamo.reset()
    model, counter = tiny_model(**fields).train(training), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.set_grad_enabled(training):
        for size in ((64, 96), (96, 160), (128, 128), (480, 640)):
            pixels, mask = inputs(*size)
            logits = compiled(pixels, mask).logits
            assert counter.frame_count == 1, size
            torch.testing.assert_close(logits, model(pixels, mask).logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_compiled_code_computes_the_same():
    torch._dynamo.reset()
    model = tiny_model(**{**SMALL, **MULTI_SCALE})
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        pixels, mask = inputs(64, 96)
        torch.testing.assert_close(compiled(pixels, mask).logits, model(pixels, mask).logits, rtol=0, atol=1e-4)
