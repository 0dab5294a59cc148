"""Every way of an operation against its reference, outputs and gradients, and the references against PyTorch's own."""

import copy
import math
from contextlib import ExitStack
from functools import partial

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch.autograd import gradcheck
from torchvision.ops import roi_align
from transformers import AutoBackbone, TimmBackboneConfig

from transformers_samdetr import (
    SamDetrConfig,
    fast_operations,
    fast_resnet,
    geometry,
    operations,
    reference_operations,
    routes,
)
from transformers_samdetr.attention import AxisBias, SamDetrSharedKeyAttention, additive_mask, gaussian_bias
from transformers_samdetr.geometry import box_to_pixel_corners
from transformers_samdetr.routes import ROUTED, STRIP

from ..models import MULTI_SCALE, TINY, VARIANTS, targets, tiny_model

SIZES = [(7, 5), (4, 9), (1, 1)]
LARGE = [(32, 40), (16, 20), (8, 10)]


def random_boxes(batch_size: int, num_boxes: int, dtype=torch.float64) -> torch.Tensor:
    """From specks to more than the whole image, some of them out of it, and some on its edges."""
    centers = torch.rand(batch_size, num_boxes, 2, dtype=dtype) * 1.4 - 0.2
    boxes = torch.cat([centers, torch.rand(batch_size, num_boxes, 2, dtype=dtype) ** 3], dim=-1)
    edges = torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.5, 0, 0], [0, 0, 0.3, 0.3], [1, 1, 0.3, 0.3]], dtype=dtype)
    return torch.cat([boxes, edges.expand(batch_size, -1, -1)], dim=1)


def regions_case(shape: tuple[int, int], size: int, ends: bool = False) -> tuple:
    height, width = shape
    feature_map = torch.randn(2, height, width, 6, dtype=torch.float64, requires_grad=True)
    valid_size = torch.tensor([[width, height], [max(width - 2, 1), max(height - 1, 1)]], dtype=torch.float64)
    return feature_map, box_to_pixel_corners(random_boxes(2, 50), valid_size), size, valid_size if ends else None


def reduced_case(case) -> tuple:
    reduction = torch.nn.Conv2d(6, 3, 1).double()
    return reduction, *case()


def levels_case(sizes=SIZES, batch_size: int = 2, spread: float = 1.6, num_queries: int = 6) -> tuple:
    """With the spread of 1.6 a third of the samples lie off the maps."""
    positions = sum(height * width for height, width in sizes)
    value = torch.randn(batch_size, positions, 2, 3, dtype=torch.float64)
    locations = (torch.rand(batch_size, num_queries, 2, 3, 4, 2, dtype=torch.float64) - 0.5) * spread + 0.5
    locations[0, 0, 0, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-50.0, 0.5], [0.5, 1e6]])
    weights = torch.rand(batch_size, num_queries, 2, 3, 4, dtype=torch.float64)
    return value.requires_grad_(), sizes, locations.requires_grad_(), weights.requires_grad_()


@operations.Operation
def align_reduce_and_sample(reduction, feature_map, corners, size, valid_size, points) -> torch.Tensor:
    """Both operations, one after the other."""
    regions, reduced = operations.align_and_reduce.reference(reduction, feature_map, corners, size, valid_size)
    return torch.cat([operations.sample_regions.reference(regions, points).flatten(), reduced.flatten()])


def sample_what_is_factored(reduction, feature_map, corners, size, valid_size, points) -> torch.Tensor:
    """The same where regions are factored."""
    regions, reduced = fast_operations.align_factored(reduction, feature_map, corners, size, valid_size)
    assert operations.sample_regions.route(regions, points) is fast_operations.sample_factored
    return torch.cat([fast_operations.sample_factored(regions, points).flatten(), reduced.flatten()])


def factored_case(case) -> tuple:
    """With points across the edges and, as they start, in the middle of the regions."""
    arguments = reduced_case(case)
    points = torch.rand(*arguments[2].shape[:2], 10, 2, dtype=torch.float64) * 2.6 - 1.3
    points[:, 0] = 0
    return *arguments, points.requires_grad_()


def points_case() -> tuple:
    """At random, across the edges, and on pixel centers, where salient points start and bilinear sampling has kinks."""
    points = torch.rand(3, 4, 10, 2, dtype=torch.float64) * 2.6 - 1.3
    points[0] = 0
    points[1, 0, :7, 0] = (2 * torch.arange(7, dtype=torch.float64) + 1) / 7 - 1
    return torch.randn(3, 4, 7, 7, 5, dtype=torch.float64, requires_grad=True), points.requires_grad_()


def attention_case(num_queries: int, height: int, width: int, biased: bool) -> tuple:
    module = SamDetrSharedKeyAttention(SamDetrConfig(**TINY)).double().eval()
    module.config._attn_implementation = "sdpa"
    shapes = [(2, 8, num_queries, 16), (2, height * width, 16), (2, 8, height * width, 4)]
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    allowed = torch.ones(2, 1, 1, height * width, dtype=torch.bool)
    allowed[1, ..., 13:] = False
    bias = None
    if biased:
        centers = torch.rand(2, num_queries, 8, 2, dtype=torch.float64) * torch.tensor([width, height])
        bias = gaussian_bias(centers, torch.rand(2, num_queries, 8, 2, dtype=torch.float64), height, width)
        bias = AxisBias(bias.along_x.requires_grad_(), bias.along_y.requires_grad_())
    return module, query, key, value, additive_mask(allowed, torch.float64), bias


REGIONS = {
    f"{shape}, {size} bins, ends early {ends}": partial(regions_case, shape, size, ends)
    for shape in ((5, 9), (1, 1), (30, 41))
    for size in (1, 7)
    for ends in (False, True)
}
WHOLE_REGIONS = {name: case for name, case in REGIONS.items() if name.endswith("False")}
FACTORED = {name: partial(factored_case, case) for name, case in REGIONS.items()}
REDUCED = {name: partial(reduced_case, case) for name, case in REGIONS.items()}
LEVELS = {"small": levels_case, "large": partial(levels_case, LARGE, num_queries=500)}
ATTENTION = {
    f"{num_queries} queries, biased {biased}": partial(attention_case, num_queries, *size, biased)
    for num_queries, size in ((1, (4, 5)), (24, (4, 5)), (60, (32, 40)))  # the last one is in four pieces
    for biased in (False, True)
}
WAYS = [
    (operations.region_align, fast_operations.align_by_bags, REGIONS),
    (operations.region_align, fast_operations.align_by_kernel, WHOLE_REGIONS),
    (operations.region_align, fast_operations.align_in_parts, REGIONS),
    (operations.align_and_reduce, fast_operations.align_reduced_by_bags, REDUCED),
    (align_reduce_and_sample, sample_what_is_factored, FACTORED),
    (operations.sample_regions, fast_operations.sample_regions_by_grid, {"": points_case}),
    (operations.sample_levels, fast_operations.sample_by_bags, LEVELS),
    (operations.sample_levels, fast_operations.sample_by_grid, LEVELS),
    (operations.shared_key_attention, fast_operations.attend_in_pieces, ATTENTION),
    (operations.shared_key_attention, fast_operations.attend_by_interface, ATTENTION),
]
"""Operation, way, and arguments by name; those of backbones have tests of their own below."""


@pytest.mark.parametrize(
    ("operation", "way", "case"),
    [
        pytest.param(operation, way, case, id=f"{operation.__name__}-{way.__name__}-{name}")
        for operation, way, cases in WAYS
        for name, case in cases.items()
    ],
)
def test_way_equals_reference(operation, way, case):
    torch.manual_seed(0)
    arguments = case()
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    tensors += [x for module in arguments if isinstance(module, torch.nn.Conv2d) for x in module.parameters()]
    tensors += [x for bias in arguments if isinstance(bias, AxisBias) for x in (bias.along_x, bias.along_y)]
    leaves, results = [x for x in tensors if x.requires_grad], []
    for function in (operation.reference, way):
        output = function(*arguments)
        if isinstance(output, tuple):
            output = torch.cat([part.flatten() for part in output[: 1 + (operation is operations.align_and_reduce)]])
        torch.manual_seed(1)
        direction = torch.randn(output.shape, dtype=output.dtype)
        results.append([output, *torch.autograd.grad(output, leaves, direction)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_parts_of_a_large_map_are_several(monkeypatch):
    arguments = regions_case((30, 41), 7)
    whole = fast_operations.align_in_parts(*arguments)
    monkeypatch.setattr(fast_operations, "CHUNK", 20_000)
    torch.testing.assert_close(fast_operations.align_in_parts(*arguments), whole)


@pytest.mark.parametrize("case", WHOLE_REGIONS.values(), ids=WHOLE_REGIONS)
def test_regions_are_those_of_torchvision(case):
    torch.manual_seed(0)
    feature_map, corners, size, _ = case()
    ours = operations.region_align.reference(feature_map, corners, size)
    theirs = roi_align(feature_map.permute(0, 3, 1, 2), list(corners), size, sampling_ratio=-1, aligned=True)
    theirs = theirs.unflatten(0, corners.shape[:2]).permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", [operations.region_align.reference, fast_operations.align_by_bags])
def test_nan_boxes_have_nan_regions(way):
    feature_map, corners = torch.randn(1, 6, 8, 4), torch.tensor([1.0, 1, 4, 5]).repeat(1, 3, 1)
    corners[0, 1, 0] = torch.nan
    assert way(feature_map, corners, 7).isnan().flatten(2).any(-1).tolist() == [[False, True, False]]
    assert way(feature_map, corners * torch.nan, 7).isnan().any()


def test_bags_hold_no_more_than_their_boxes_cover():
    """A small box in a large map costs what it would in a small one."""
    corners = torch.tensor([[[100.0, 100, 107, 107]] * 20])
    regions = fast_operations.align_by_bags(torch.zeros(1, 200, 200, 2, requires_grad=True), corners, 7)
    parts = regions.grad_fn.next_functions[0][0].parts
    assert sum(part.index.numel() for part in parts) <= 20 * 49 * 3 * 3


@pytest.mark.parametrize("way", [operations.sample_levels.reference, fast_operations.sample_by_bags])
def test_a_nan_location_makes_its_own_sum_nan(way):
    value, sizes, locations, weights = (x.detach() if isinstance(x, torch.Tensor) else x for x in levels_case())
    locations[0, 1, 0, 1, 2, 0] = torch.nan
    found = way(value, sizes, locations, weights).isnan()
    assert found[0, 1, :3].all() and found.sum() == 3


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
@pytest.mark.parametrize("way", [operations.sample_levels.reference, fast_operations.sample_by_bags])
def test_gradients_of_each_input_of_levels_alone(way, needs):
    torch.manual_seed(0)
    value, sizes, locations, weights = levels_case(batch_size=1, spread=0.7)
    tensors = [x.detach().requires_grad_(need) for x, need in zip((value, locations, weights), needs, strict=True)]
    assert gradcheck(lambda v, x, w: way(v, sizes, x, w), tensors)


def test_no_sample_reads_another_map():
    """Each map, head and image by itself: what stands in the others must not matter, nor become a gradient there."""
    value, sizes, locations, weights = (
        x.detach() if isinstance(x, torch.Tensor) else x for x in levels_case(spread=6.0)
    )
    for level, start in enumerate((0, 35, 71)):
        alone = torch.zeros_like(weights)
        alone[0, :, 1, level] = weights[0, :, 1, level]
        poisoned = torch.full_like(value, 1e300)
        end = start + sizes[level][0] * sizes[level][1]
        poisoned[0, start:end, 1] = value[0, start:end, 1]
        found = operations.sample_levels(poisoned, sizes, locations, alone).unflatten(-1, (2, 3))[0, :, 1]
        wanted = operations.sample_levels(value, sizes, locations, alone).unflatten(-1, (2, 3))[0, :, 1]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "way", [operations.sample_levels.reference, fast_operations.sample_by_bags, fast_operations.sample_by_grid]
)
def test_half_precision_values_keep_their_places(way):
    value, sizes, locations, weights = (x.detach().float() if isinstance(x, torch.Tensor) else x for x in levels_case())
    half = way(value.bfloat16(), sizes, locations, weights)
    assert half.dtype == torch.bfloat16
    wanted = way(value.bfloat16().float(), sizes, locations, weights)
    torch.testing.assert_close(half.float(), wanted, rtol=1e-2, atol=1e-2)


def test_the_table_of_levels_holds_the_maps_among_zeros():
    value = levels_case()[0].detach().abs() + 1
    table = fast_operations.tabulate(value, SIZES)
    assert (table != 0).sum() == value.numel()
    assert table.shape[2] == sum(height + 3 for height, _ in SIZES) * 10 + 2


def test_autocast_does_not_coarsen_regions():
    feature_map, corners, size, _ = (x.detach().float() if isinstance(x, torch.Tensor) else x for x in WHOLE())
    for way in (operations.region_align.reference, fast_operations.align_by_bags, fast_operations.align_by_kernel):
        plain = way(feature_map, corners, size)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(way(feature_map, corners, size), plain)


WHOLE = partial(regions_case, (6, 8), 7)


def half_attention(bias: AxisBias | None, arguments: tuple) -> torch.Tensor:
    module, query, key, value, mask, _ = arguments
    half = (x.detach().bfloat16() for x in (query, key, value))
    return fast_operations.attend_in_pieces(module, *half, mask.float(), bias)[0].float()


def test_pieces_in_half_precision_round_products_alone():
    torch.manual_seed(0)
    *arguments, bias = attention_case(60, 32, 40, biased=True)
    bias = AxisBias(bias.along_x.detach().float(), bias.along_y.detach().float())
    rounded = half_attention(bias, (*arguments, None))
    exact = fast_operations.attend_in_pieces(*arguments, AxisBias(bias.along_x.double(), bias.along_y.double()))[
        0
    ].float()
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03 * exact.abs().max().item())
    # a bias of a thousand for all keys alike: rounded to half precision it would drown what is left of a Gaussian
    shifted = half_attention(AxisBias(bias.along_x - 1000, bias.along_y), (*arguments, None))
    torch.testing.assert_close(shifted, rounded, rtol=0, atol=0.03 * exact.abs().max().item())


@pytest.mark.parametrize("way", [operations.shared_key_attention.reference, fast_operations.attend_in_pieces])
def test_dropout_of_attention_weights_in_training_alone(way):
    module, *arguments = attention_case(24, 4, 5, biased=False)
    module.attention_dropout = 0.5
    calm = way(module, *arguments)[0]
    assert torch.equal(way(module, *arguments)[0], calm)
    assert not torch.equal(way(module.train(), *arguments)[0], calm)


# Frozen backbones


def randomise_norms(model: torch.nn.Module, low: float = 0.5, high: float = 1.5) -> torch.nn.Module:
    """Statistics off their start values."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for buffer in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                buffer.uniform_(low, high)
    return model


def plain_and_frozen(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same double-precision features, of timm's frozen norms and of ours."""
    torch.manual_seed(0)
    model = randomise_norms(timm.create_model(name, features_only=True, out_indices=[4]).double())
    frozen = operations.freeze_batch_norms(copy.deepcopy(model))
    return freeze_batch_norm_2d(model).eval(), frozen.eval()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("resnet18", 1),
        ("resnet26d", 0.95),
        ("efficientnet_lite0", 0.95),
        ("tf_efficientnet_lite0", 0.8),
        ("resnetv2_50", 0),
    ],
)
def test_folding_changes_nothing(name, share):
    plain, folded = plain_and_frozen(name)
    assert plain.state_dict().keys() == folded.state_dict().keys()
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in folded.named_parameters()]
    is_norm = [hasattr(module, "running_var") for module in plain.modules()]
    assert sum(isinstance(m, operations.FrozenNorm2d) for m in folded.modules()) >= share * sum(is_norm)
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels), folded(pixels), rtol=1e-9, atol=1e-9)
    folded.train()
    for one, other in zip(plain(pixels), folded(pixels), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        one.square().mean().backward()
        other.square().mean().backward()
    for (key, one), other in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9, msg=key)


def test_a_copy_folds_its_own_norm():
    _, folded = plain_and_frozen("resnet18")
    twin = copy.deepcopy(folded)
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = folded(pixels)[0]
    for module in twin.modules():
        if isinstance(module, operations.FrozenConv2d):
            module.norm.weight.zero_()
            assert any(module.norm is other for other in twin.modules())
    assert torch.equal(folded(pixels)[0], before) and not torch.equal(twin(pixels)[0], before)


def test_gradients_in_evaluation_mode_are_the_authors_to_the_last_bit():
    plain, frozen = (model.float() for model in plain_and_frozen("resnet26d"))
    pixels = torch.randn(1, 3, 64, 64)
    results = []
    for model in (plain, frozen):
        (output,) = model(pixels)
        output.square().mean().backward()
        results.append([output, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    with torch.no_grad():
        assert not torch.equal(frozen(pixels)[0], results[0][0])  # folded, and so rounded otherwise
        with reference_operations():
            assert torch.equal(frozen(pixels)[0], results[0][0])


def features(name: str, **options) -> torch.nn.Module:
    """A Transformers backbone in double precision, with outputs of about 1."""
    torch.manual_seed(0)
    model = AutoBackbone.from_config(TimmBackboneConfig(backbone=name, **options)).double().eval()
    return operations.freeze_batch_norms(randomise_norms(model, high=1.0))


@pytest.mark.parametrize("size", [(97, 70), (161, 33), (8, 8)])
@pytest.mark.parametrize("options", [{"out_indices": (2, 3, 4)}, {"out_indices": (4,), "output_stride": 16}])
def test_strips_change_nothing(options, size):
    model, pixels = features("resnet26", **options), torch.randn(2, 3, *size, dtype=torch.float64)
    given = pixels.clone()
    assert fast_resnet.has_plain_start(model)
    with torch.no_grad():
        expected = operations.extract_features.reference(model, pixels)
        for strip in (1, 30_000, STRIP):
            found = fast_resnet.features_in_strips(model, pixels, strip)
            torch.testing.assert_close(list(found), list(expected), rtol=1e-9, atol=1e-9)
    assert torch.equal(pixels, given)


def test_a_strip_has_as_many_rows_as_it_may():
    """On a device without numbers: eight rows at stride 8, two at a time or all at once."""
    model = features("resnet50", out_indices=(4,)).to("meta")
    stems = []
    model._backbone["conv1"].register_forward_hook(lambda *_: stems.append(1))
    with torch.no_grad():
        for rows, expected in ((2, 4), (8, 1)):
            stems.clear()
            pixels = torch.zeros(1, 3, 64, 64, dtype=torch.float64, device="meta")
            (found,) = fast_resnet.features_in_strips(model, pixels, rows * 64 * 4 * 32)
            assert len(stems) == expected and found.shape == (1, 2048, 2, 2)


def test_every_row_of_a_strip_is_where_one_pass_has_it():
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 5, 2, 2), torch.nn.Conv2d(3, 4, 3, 2, 1)).double()
    x = torch.randn(1, 2, 45, 13, dtype=torch.float64)
    for height in (1, 2, 5, 12, 99):
        found = fast_resnet.in_strips(layers, x, stride=4, reach=4, height=height)
        torch.testing.assert_close(found, layers(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"out_indices": (1, 2, 3, 4)}),  # the map at stride 4 is asked for
        ("resnet50d", {"out_indices": (4,)}),  # three convolutions in its stem, pooling in its shortcuts
        ("resnet18", {"out_indices": (4,)}),  # other blocks
        ("resnet50", {"out_indices": (4,), "output_stride": 8}),  # stays at stride 8, without a stage at 16
        ("seresnet50", {"out_indices": (4,)}),
        ("tf_efficientnet_lite0", {"out_indices": (4,)}),
    ],
)
def test_other_networks_keep_their_way(name, options):
    model, pixels = features(name, **options), torch.randn(1, 3, 65, 95, dtype=torch.float64)
    with torch.no_grad():
        expected = operations.extract_features.reference(model, pixels)
        found = fast_resnet.features_in_strips(model, pixels, 30_000)
    torch.testing.assert_close(list(found), list(expected), rtol=1e-9, atol=1e-9)
    if options.get("output_stride") != 8:
        assert not fast_resnet.has_plain_start(model)


# What is kept


@pytest.fixture
def keeping(monkeypatch) -> torch.nn.Module:
    """A frozen network in evaluation mode that keeps its folded weights, as on a GPU."""
    monkeypatch.setattr(routes, "_may_keep", lambda x: True)
    return plain_and_frozen("resnet18")[1]


def first_conv(model: torch.nn.Module) -> operations.FrozenConv2d:
    return next(module for module in model.modules() if isinstance(module, operations.FrozenConv2d))


CHANGES = {
    "in place": lambda conv: conv.weight.mul_(2),
    "a norm in place": lambda conv: conv.norm.running_mean.add_(1),
    "another parameter": lambda conv: setattr(conv, "weight", torch.nn.Parameter(conv.weight * 2)),
    "other data": lambda conv: setattr(conv.weight, "data", conv.weight * 2),
    "load_state_dict": lambda conv: conv.load_state_dict({"weight": conv.weight * 2}),
    "load_state_dict, assigned": lambda conv: conv.load_state_dict({"weight": conv.weight * 2}, assign=True),
    "optimizer": lambda conv: step(conv),
    "float": lambda conv: (conv.float(), conv.norm.float()),
    "through .data, then eval": lambda conv: (conv.weight.data.mul_(2), conv.eval()),
    "through .data, then to": lambda conv: (conv.weight.data.mul_(2), conv.to("cpu")),
}


def step(conv: torch.nn.Module):
    conv.weight.grad = torch.ones_like(conv.weight)
    torch.optim.SGD([conv.weight], lr=0.1).step()


@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_no_stale_weights_are_kept(keeping, name):
    conv = first_conv(keeping)
    kept = operations.fold(conv)
    assert operations.fold(conv)[0] is kept[0]
    CHANGES[name](conv)
    found, expected = operations.fold(conv), operations.fold.reference(conv)
    assert not torch.equal(found[0], kept[0]) or not torch.equal(found[1], kept[1]) or found[0].dtype != kept[0].dtype
    assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(found, expected, strict=True))


def test_what_is_kept_serves_inference_alone(keeping):
    """A forward with gradients folds anew; a copy keeps its own; what inference mode made serves later passes."""
    conv = first_conv(keeping)
    with torch.inference_mode():
        kept = operations.fold(conv)
    assert not kept[0].is_inference() and not kept[0].requires_grad
    assert operations.fold(conv)[0].requires_grad
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        assert operations.fold(conv)[0] is kept[0] and operations.fold(twin)[0] is not kept[0]
    with torch.inference_mode():
        made_there = copy.deepcopy(conv).double()
        made_there.weight = torch.nn.Parameter(made_there.weight.clone())
        assert operations.fold(made_there)[0] is not operations.fold(made_there)[0]  # its changes are not counted
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        first, again = keeping(pixels)[0], keeping(pixels)[0]
        with reference_operations():
            plain = keeping(pixels)[0]
    assert torch.equal(first, again)
    torch.testing.assert_close(first, plain, rtol=1e-9, atol=1e-9)


CASES = [torch.tensor([0.0, 1e-7, 1e-5, 0.3, 0.5, 1 - 1e-6, 1.0, -0.5, 2.0]), torch.rand(2, 3, 4, 2)]


@torch.no_grad()
def test_ways_of_a_gpu_at_inference_are_within_rounding():
    torch.manual_seed(0)
    numbers, points = torch.cat([CASES[0], torch.rand(50)]), CASES[1]
    found, expected = fast_operations.logits_by_kernel(numbers), geometry.inverse_sigmoid.reference(numbers)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1.1e-5)
    torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), rtol=0, atol=1e-7)
    assert math.log(1 / geometry.BOX_EPSILON) == pytest.approx(fast_operations.MOST_LOGIT)
    assert fast_operations.logits_by_kernel(torch.tensor([torch.nan])).isnan().all()
    found, expected = fast_operations.embed_points_by_waves(points, 32), geometry.embed_points.reference(points, 32)
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("operation", "number"),
    [(operations.pixel_centers, 7), (operations.sine_wavelengths, 16), (operations.level_geometry, ((7, 5), (4, 9)))],
    ids=["centers", "wavelengths", "levels"],
)
def test_what_is_kept_is_the_references(operation, number):
    like = torch.empty(0)
    found = fast_operations.kept(operation, number, like)
    assert fast_operations.kept(operation, number, like) is found
    assert str(found) == str(operation.reference(number, like))
    assert fast_operations.kept(operation, number, like.double()) is not found


# Routes


def test_references_alone_run_within_reference_operations(monkeypatch):
    def refuse(*args):
        raise AssertionError("a way was asked for")

    model = tiny_model(**{**MULTI_SCALE, "smca": True}).train()
    for operation in ROUTED:
        monkeypatch.setattr(operation, "route", refuse)
    with reference_operations(), reference_operations():
        model(torch.randn(1, 3, 64, 64), labels=targets(2)).loss.backward()
    with pytest.raises(AssertionError, match="a way was asked for"):
        model(torch.randn(1, 3, 64, 64))


def test_a_way_that_is_set_for_a_while_is_forgotten():
    regions, points = (x.detach() for x in points_case())
    with ExitStack() as stack:
        stack.enter_context(operations.sample_regions.computed_by(lambda *args: "another"))
        assert operations.sample_regions(regions, points) == "another"
    torch.testing.assert_close(
        operations.sample_regions(regions, points), operations.sample_regions.reference(regions, points)
    )


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_the_whole_model_by_references(fields):
    """Outputs, loss and gradients, in double precision and off the kinks on which the multi-scale encoder starts."""
    model = tiny_model(**fields).double().train()
    for name, bias in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            torch.nn.init.normal_(bias, std=2)
    pixels, mask = torch.randn(2, 3, 64, 96, dtype=torch.float64), torch.ones(2, 64, 96, dtype=torch.int64)
    mask[1, 40:] = 0
    labels = [{**label, "boxes": label["boxes"].double()} for label in targets(3, 1)]
    results = []
    for plainly in (True, False):
        model.zero_grad()
        torch.manual_seed(1)
        with reference_operations() if plainly else ExitStack():
            outputs = model(pixels, mask, labels=labels)
            outputs.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": outputs.loss, "boxes": outputs.pred_boxes, **gradients})
    largest = max(x.abs().max().item() for x in results[0].values())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9 * largest)


def test_a_map_is_reduced_first_where_regions_have_twice_its_pixels():
    factored, bags = fast_operations.align_factored, fast_operations.align_reduced_by_bags
    for queries, width, way in ((2, 7, factored), (2, 8, None), (20, 45, factored), (20, 46, bags)):
        arguments = torch.nn.Conv2d(6, 3, 1), torch.zeros(1, 7, width, 6), torch.zeros(1, queries, 4), 7
        assert operations.align_and_reduce.route(*arguments) is way


def test_ways_of_a_cpu_and_of_compiled_code(monkeypatch):
    feature_map, corners = torch.randn(1, 6, 8, 4), torch.rand(1, 3, 4)
    levels = levels_case()
    assert operations.region_align.route(feature_map, corners, 7) is fast_operations.align_by_bags
    assert operations.sample_levels.route(*levels) is fast_operations.sample_by_bags
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert operations.region_align.route(feature_map, corners, 7) is None
    assert operations.sample_levels.route(*levels) is fast_operations.sample_by_grid
    monkeypatch.setattr(routes, "is_exporting", lambda: True)
    assert operations.sample_levels.route(*levels) is None
