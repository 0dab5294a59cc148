"""All ways to compute RoIAlign against torchvision's, with boxes that touch, cross and leave the map."""

import pytest
import torch
from torchvision.ops import roi_align

from transformers_samdetr import region_bags, region_features
from transformers_samdetr.box_ops import box_to_pixel_corners
from transformers_samdetr.region_features import extract_region_features


def torchvision_regions(feature_map, boxes, valid_size, size):
    """The same, `(B, Q, size, size, C)`."""
    corners = box_to_pixel_corners(boxes, valid_size)
    maps = feature_map.permute(0, 3, 1, 2)
    regions = roi_align(maps, list(corners), size, spatial_scale=1.0, sampling_ratio=-1, aligned=True)
    return regions.unflatten(0, boxes.shape[:2]).permute(0, 1, 3, 4, 2)


def random_boxes(batch_size, num_boxes, dtype=torch.float64):
    """From specks to more than the whole image, some of them out of it."""
    centers = torch.rand(batch_size, num_boxes, 2, dtype=dtype) * 1.4 - 0.2
    return torch.cat([centers, torch.rand(batch_size, num_boxes, 2, dtype=dtype) ** 3], dim=-1)


@pytest.fixture(params=["bags", "products", "kernel"])
def way(request, monkeypatch):
    """On a CPU, what it does, what compiled code does, and what a GPU does."""
    if request.param == "products":
        monkeypatch.setattr(region_features, "bag_regions", region_features.multiply_regions)
    if request.param == "kernel":
        monkeypatch.setattr(region_features, "bag_regions", lambda *args: region_features.align_regions(*args[:3]))
    monkeypatch.setattr(region_features, "CHUNK", 20_000)  # several passes


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("shape", [(5, 9), (1, 1), (30, 41)])
def test_equals_torchvision(shape, size, way):
    torch.manual_seed(0)
    feature_map = torch.randn(2, *shape, 6, dtype=torch.float64, requires_grad=True)
    boxes = random_boxes(2, 50)
    edges = torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.5, 0, 0], [0, 0, 0.3, 0.3], [1, 1, 0.3, 0.3]], dtype=torch.float64)
    boxes = torch.cat([boxes, edges.expand(2, -1, -1)], dim=1)
    height, width = shape
    valid_size = torch.tensor([[width, height], [max(width - 2, 1), max(height - 1, 1)]], dtype=torch.float64)
    ours = extract_region_features([feature_map], boxes, valid_size, size)[0]
    theirs = torchvision_regions(feature_map, boxes, valid_size, size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    direction = torch.randn_like(ours)
    (our_gradient,) = torch.autograd.grad(ours, feature_map, direction)
    (their_gradient,) = torch.autograd.grad(theirs, feature_map, direction)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-11)


def test_several_maps_are_each_as_alone(way):
    """With their gradients, and where one of them is not used."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 9, channels, dtype=torch.float64, requires_grad=True) for channels in (6, 2)]
    boxes, valid_size = random_boxes(2, 20), torch.tensor([[9.0, 5.0], [7.0, 4.0]], dtype=torch.float64)
    together = extract_region_features(maps, boxes, valid_size, 3)
    for feature_map, regions in zip(maps, together, strict=True):
        (alone,) = extract_region_features([feature_map], boxes, valid_size, 3)
        assert torch.equal(regions, alone)
        direction = torch.randn_like(alone)
        (found,) = torch.autograd.grad(regions, feature_map, direction, retain_graph=True)
        (expected,) = torch.autograd.grad(alone, feature_map, direction)
        assert torch.equal(found, expected)


def test_boxes_get_no_gradient_and_autocast_does_not_coarsen(way):
    torch.manual_seed(0)
    feature_map, boxes = torch.randn(1, 6, 8, 4), random_boxes(1, 10, torch.float32).requires_grad_()
    valid_size = torch.tensor([[8.0, 6.0]])
    plain = extract_region_features([feature_map], boxes, valid_size, 7)[0]
    assert not plain.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract_region_features([feature_map], boxes, valid_size, 7)[0], plain)
    half = extract_region_features([feature_map.bfloat16()], boxes, valid_size, 7)[0]
    assert half.dtype == torch.float32


@pytest.mark.parametrize("way", ["bags", "products"], indirect=True)
def test_what_is_not_a_number_stays_so(way):
    feature_map, boxes = torch.randn(1, 6, 8, 4), torch.full((1, 3, 4), 0.5)
    boxes[0, 1, 0] = torch.nan
    regions = extract_region_features([feature_map], boxes, torch.tensor([[8.0, 6.0]]), 7)[0]
    assert regions.isnan().flatten(2).any(-1).tolist() == [[False, True, False]]
    assert extract_region_features([feature_map], boxes * torch.nan, torch.tensor([[8.0, 6.0]]), 7)[0].isnan().any()


def test_bags_hold_no_more_than_their_boxes_cover():
    """A small box in a large map costs what it would in a small one."""
    corners = torch.tensor([[[100.0, 100, 107, 107]] * 20])
    regions = region_bags.bag_regions([torch.zeros(1, 200, 200, 2, requires_grad=True)], corners, 7)[0]
    parts = regions.grad_fn.next_functions[0][0].parts
    assert sum(part.index.numel() for part in parts) <= 20 * 49 * 3 * 3
