"""A ResNet in strips against timm's own way through the same weights."""

import pytest
import timm
import torch

from transformers_samdetr import resnet_in_strips
from transformers_samdetr.frozen_batch_norm import freeze_batch_norms
from transformers_samdetr.resnet_in_strips import FeaturesInStrips, InPlaceBottleneck, in_strips, save_memory


def features(name: str, **options) -> torch.nn.Module:
    """In double precision, with statistics off their start values, and with outputs of about 1."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, **options).double().eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for buffer in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                buffer.uniform_(0.5, 1.0)
    return freeze_batch_norms(model)


@pytest.mark.parametrize("size", [(96, 64), (97, 130), (161, 33), (8, 8)])
@pytest.mark.parametrize("options", [{"out_indices": (2, 3, 4)}, {"out_indices": (4,), "output_stride": 16}])
def test_strips_change_nothing(options, size, monkeypatch):
    model, pixels = features("resnet50", **options), torch.randn(2, 3, *size, dtype=torch.float64)
    given = pixels.clone()
    with torch.no_grad():
        expected = model(pixels)
        save_memory(model)
        assert type(model) is FeaturesInStrips
        for strip in (1, 30_000, resnet_in_strips.STRIP):
            monkeypatch.setattr(resnet_in_strips, "STRIP", strip)
            torch.testing.assert_close(model(pixels), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(pixels, given)


def test_a_gpu_has_strips_of_its_own_size(monkeypatch):
    """A device without numbers stands for it: eight rows at stride 8, two at a time or all at once."""
    model = features("resnet50", out_indices=(4,)).to("meta")
    save_memory(model)
    stems = []
    model["conv1"].register_forward_hook(lambda *_: stems.append(1))
    with torch.no_grad():
        for rows, expected in ((2, 4), (8, 1)):
            stems.clear()
            monkeypatch.setattr(resnet_in_strips, "STRIP_ELSEWHERE", rows * 64 * 4 * 32)
            shape = model(torch.zeros(1, 3, 64, 64, dtype=torch.float64, device="meta"))[0].shape
            assert len(stems) == expected and shape == (1, 2048, 2, 2)


def test_every_row_is_where_one_pass_has_it():
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 5, 2, 2), torch.nn.Conv2d(3, 4, 3, 2, 1)).double()
    x = torch.randn(1, 2, 45, 13, dtype=torch.float64)
    for height in (1, 2, 5, 12, 99):
        torch.testing.assert_close(in_strips(layers, x, stride=4, reach=4, height=height), layers(x))


def test_gradients_take_the_plain_way():
    model = features("resnet50", out_indices=(4,)).train()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for prepare in (lambda model: None, save_memory):
        prepare(model)
        model.zero_grad()
        model(pixels)[0].square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"out_indices": (1, 2, 3, 4)}),  # the map at stride 4 is asked for
        ("resnet50d", {"out_indices": (4,)}),  # three convolutions in its stem, pooling in its shortcuts
        ("resnet18", {"out_indices": (4,)}),  # other blocks
        ("resnet50", {"out_indices": (4,), "output_stride": 8}),  # stays at stride 8, without a stage at 16
        ("seresnet50", {"out_indices": (4,)}),
    ],
)
def test_other_networks_keep_their_way(name, options):
    model, pixels = features(name, **options), torch.randn(1, 3, 65, 95, dtype=torch.float64)
    with torch.no_grad():
        expected = model(pixels)
        save_memory(model)
        torch.testing.assert_close(model(pixels), expected, rtol=1e-9, atol=1e-9)
    if options.get("output_stride") != 8:
        assert type(model) is not FeaturesInStrips
    if name in ("resnet18", "seresnet50"):
        assert not any(isinstance(module, InPlaceBottleneck) for module in model.modules())
