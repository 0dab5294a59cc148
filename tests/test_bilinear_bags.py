"""Bags of bilinear samples against `grid_sample`, with samples on, across and far off the maps."""

import pytest
import torch
from torch.autograd import gradcheck

from transformers_samdetr import bilinear_bags
from transformers_samdetr.deformable_attention import sample_grids, sample_levels, sample_patches

SIZES = [(7, 5), (4, 9), (1, 1)]


def inputs(batch_size=2, dtype=torch.float64, spread=1.6):
    """Value, locations and weights; with the spread of 1.6 a third of the samples lie off the maps."""
    torch.manual_seed(0)
    num_positions = sum(height * width for height, width in SIZES)
    value = torch.randn(batch_size, num_positions, 2, 3, dtype=dtype)
    locations = (torch.rand(batch_size, 6, 2, 3, 4, 2, dtype=dtype) - 0.5) * spread + 0.5
    locations[0, 0, 0, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-50.0, 0.5], [0.5, 1e6]], dtype=dtype)
    return value, locations, torch.rand(batch_size, 6, 2, 3, 4, dtype=dtype)


def test_equals_grid_sample():
    tensors = [tensor.requires_grad_() for tensor in inputs()]
    value, locations, weights = tensors
    bags = sample_levels(value, SIZES, locations, weights)
    grids = sample_grids(value, SIZES, locations, weights)
    torch.testing.assert_close(bags, grids, rtol=0, atol=1e-12)
    direction = torch.randn_like(bags)
    ours, theirs = (torch.autograd.grad(output, tensors, direction) for output in (bags, grids))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_what_programs_compute_equals_grid_sample():
    value, locations, weights = inputs()
    patches, grids = sample_patches(value, SIZES, locations, weights), sample_grids(value, SIZES, locations, weights)
    torch.testing.assert_close(patches, grids, rtol=0, atol=1e-12)
    locations[0, 1, 0, 1, 2, 0] = float("nan")  # ends in this sum alone, and is no place to read from
    found = sample_patches(value, SIZES, locations, weights).isnan()
    assert found[0, 1, :3].all() and found.sum() == 3


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_of_each_input_alone(needs):
    tensors = [tensor.requires_grad_(need) for tensor, need in zip(inputs(1, spread=0.7), needs, strict=True)]
    assert gradcheck(lambda v, x, w: sample_levels(v, SIZES, x, w), tensors)


def test_no_sample_reads_another_map():
    """Each map, head and image by itself: what stands in the others must not matter, nor become a gradient there."""
    value, locations, weights = inputs(spread=6.0)
    value = value.to(torch.float64)
    for level, start in enumerate((0, 35, 71)):
        alone = torch.zeros_like(weights)
        alone[0, :, 1, level] = weights[0, :, 1, level]
        poisoned = torch.full_like(value, 1e300)
        end = start + SIZES[level][0] * SIZES[level][1]
        poisoned[0, start:end, 1] = value[0, start:end, 1]
        found = sample_levels(poisoned, SIZES, locations, alone).unflatten(-1, (2, 3))[0, :, 1]
        wanted = sample_levels(value, SIZES, locations, alone).unflatten(-1, (2, 3))[0, :, 1]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_half_precision_values_keep_their_places():
    value, locations, weights = inputs(dtype=torch.float32)
    half = sample_levels(value.bfloat16(), SIZES, locations, weights)
    assert half.dtype == torch.bfloat16
    wanted = sample_levels(value.bfloat16().float(), SIZES, locations, weights)
    torch.testing.assert_close(half.float(), wanted, rtol=1e-2, atol=1e-2)


def test_the_table_holds_the_maps_among_zeros():
    value = inputs()[0].abs() + 1
    table = bilinear_bags.tabulate(value, SIZES)
    assert (table != 0).sum() == value.numel()
    assert table.shape[2] == sum(height + 3 for height, _ in SIZES) * 10 + 2
