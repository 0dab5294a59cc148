"""The faster paths of attention and of the aligner against the plain ones."""

import pytest
import torch

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.attention import AxisBias, SamDetrSharedKeyAttention, additive_mask, gaussian_bias
from transformers_samdetr.semantics_aligner import bilinear_weights, sample_points

from .models import TINY


def shared_key_attention(implementation: str, dtype=torch.float64, **fields) -> SamDetrSharedKeyAttention:
    torch.manual_seed(0)
    config = SamDetrConfig(**{**TINY, **fields})
    config._attn_implementation = implementation
    return SamDetrSharedKeyAttention(config).to(dtype).eval()


def attention_inputs(num_queries=11, dtype=torch.float64):
    torch.manual_seed(1)
    content, positions = torch.randn(2, 2, num_queries, 8, 32, dtype=dtype).unbind()
    features, feature_positions = torch.randn(2, 2, 20, 32, dtype=dtype).unbind()
    allowed = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    allowed[1, ..., 13:] = False
    centers, scales = (4 * torch.rand(2, 2, num_queries, 8, 2, dtype=dtype)).unbind()
    return [content, positions, features, feature_positions, additive_mask(allowed, dtype)], (centers, scales)


@pytest.mark.parametrize("weights_a_piece", [100, 2**18], ids=["pieces", "one piece"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("num_queries", [1, 5, 24])
def test_pieces_equal_the_plain_path(num_queries, biased, weights_a_piece, monkeypatch):
    monkeypatch.setattr("transformers_samdetr.attention.WEIGHTS_A_PIECE", weights_a_piece)
    inputs, gaussian = attention_inputs(num_queries)
    leaves = [*inputs[:4], *gaussian]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for implementation in ("eager", "sdpa"):
        bias = gaussian_bias(*gaussian, 4, 5) if biased else None
        output, weights = shared_key_attention(implementation)(*inputs, bias)
        assert (weights is None) == (implementation == "sdpa")
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)])
    for one, other in zip(*results, strict=True):
        if biased or one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_pieces_in_half_precision_round_products_alone(monkeypatch):
    monkeypatch.setattr("transformers_samdetr.attention.WEIGHTS_A_PIECE", 100)
    inputs, gaussian = attention_inputs(dtype=torch.float32)
    exact = shared_key_attention("sdpa", torch.float32)(*inputs, gaussian_bias(*gaussian, 4, 5))[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = shared_key_attention("sdpa", torch.float32)(*inputs, gaussian_bias(*gaussian, 4, 5))[0]
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.02 * exact.abs().max().item())
    # a bias of a thousand for all keys alike: rounded to half precision it would drown what is left of a Gaussian
    shifted = AxisBias(gaussian_bias(*gaussian, 4, 5).along_x - 1000, gaussian_bias(*gaussian, 4, 5).along_y)
    with torch.autocast("cpu", torch.bfloat16):
        same = shared_key_attention("sdpa", torch.float32)(*inputs, shifted)[0]
    torch.testing.assert_close(same.float(), rounded.float(), rtol=0, atol=0.02 * exact.abs().max().item())


def test_dropout_of_the_pieces(monkeypatch):
    monkeypatch.setattr("transformers_samdetr.attention.WEIGHTS_A_PIECE", 100)
    inputs, _ = attention_inputs()
    attention = shared_key_attention("sdpa", attention_dropout=0.5)
    calm = attention(*inputs)[0]
    assert torch.equal(attention(*inputs)[0], calm)
    assert not torch.equal(attention.train()(*inputs)[0], calm)


def test_points_of_regions_equal_grid_sample():
    """At random, across the edges, and on pixel centers, where salient points start and bilinear sampling has kinks."""
    torch.manual_seed(0)
    points = torch.rand(3, 40, 2, dtype=torch.float64) * 2.6 - 1.3
    points[0] = 0
    points[1, :7, 0] = (2 * torch.arange(7, dtype=torch.float64) + 1) / 7 - 1
    points.requires_grad_()
    regions = torch.randn(3, 7, 7, 4, dtype=torch.float64, requires_grad=True)
    x, y = (bilinear_weights(axis, 7) for axis in points.unbind(-1))
    ours = (y[..., :, None] * x[..., None, :]).flatten(-2) @ regions.flatten(1, 2)
    theirs = sample_points(regions.permute(0, 3, 1, 2), points)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    direction = torch.randn_like(ours)
    gradients = [torch.autograd.grad(output, (regions, points), direction) for output in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
