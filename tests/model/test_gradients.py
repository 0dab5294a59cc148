"""Numeric gradient checks in double precision. Points are kept off the kinks of bilinear sampling by chance alone, so
seeds are fixed."""

import pytest
import torch
from torch.autograd import gradcheck

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.attention import SamDetrSharedKeyAttention, gaussian_bias
from transformers_samdetr.fast_operations import sample_regions_by_grid
from transformers_samdetr.loss import prepare_targets, sam_detr_loss
from transformers_samdetr.operations import sample_levels, sample_regions
from transformers_samdetr.semantics_aligner import make_aligner

from ..models import TINY, targets


def small_config(**fields):
    return SamDetrConfig(**{**TINY, "d_model": 8, "input_projection_norm": False, "roi_size": 3, **fields})


def check_aligner(**fields):
    torch.manual_seed(0)
    config = small_config(encoder_attention_heads=2, decoder_attention_heads=2, num_keypoints=2, **fields)
    aligner, valid_size = make_aligner(config).double(), torch.tensor([[5.0, 3.0]], dtype=torch.float64)

    def run(features, queries, boxes):
        aligned = aligner(queries, boxes, features, valid_size)
        # the sine embeddings of the points carry no gradient
        bias = () if aligned.attention_bias is None else (aligned.attention_bias.dense(),)
        return tuple(each for each in (aligned.content, aligned.salient_points, *bias) if each.dtype == torch.float64)

    features = torch.randn(1, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.rand(1, 3, 4, dtype=torch.float64) * 0.4 + 0.3  # without gradient: RoIAlign gives them none
    assert gradcheck(run, (features, queries, boxes), atol=1e-5, rtol=1e-3)
    return run(features, queries, boxes)  # which every way of computing it agrees on


def test_aligner():
    check_aligner()


def test_aligner_with_smca():
    check_aligner(smca=True)


def test_aligner_that_samples_regions_as_a_gpu_does():
    expected = check_aligner(smca=True)
    with sample_regions.computed_by(sample_regions_by_grid):
        torch.testing.assert_close(check_aligner(smca=True), expected, rtol=0, atol=1e-12)


def test_aligner_searching_the_image():
    check_aligner(keypoint_search_range="image")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_shared_key_attention_with_gaussian_bias(implementation):
    torch.manual_seed(0)
    config = small_config(encoder_attention_heads=2, decoder_attention_heads=2, num_keypoints=2)
    config._attn_implementation = implementation
    attention = SamDetrSharedKeyAttention(config).double()

    def run(content, positions, features, centers, scales):
        bias = gaussian_bias(centers, scales, 2, 3)
        return attention(content, positions, features, features, torch.zeros(1, 1, 1, 6), bias)[0]

    shapes = [(1, 3, 2, 8), (1, 3, 2, 8), (1, 6, 8), (1, 3, 2, 2), (1, 3, 2, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(run, inputs)


def test_deformable_sampling():
    torch.manual_seed(0)
    sizes = [(3, 4), (2, 2)]
    value = torch.randn(1, 16, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(1, 5, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 5, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v, x, w: sample_levels(v, sizes, x, w), (value, locations, weights))


def test_loss():
    torch.manual_seed(0)
    config = SamDetrConfig(**TINY, num_denoising_groups=2)
    labels = prepare_targets(targets(2, 0, 3), 3, 5, torch.device("cpu"))

    def run(logits, boxes, noised_logits, noised_boxes):
        return sam_detr_loss(logits, boxes, labels, config, noised_logits, noised_boxes)[0]

    shapes = [(3, 2, 4, 5), (3, 2, 4, 4), (3, 2, 6, 5), (3, 2, 6, 4)]
    inputs = [(torch.rand(shape, dtype=torch.float64) * 0.5 + 0.2).requires_grad_() for shape in shapes]
    assert gradcheck(run, inputs)
