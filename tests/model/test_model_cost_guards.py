"""What a forward of the model costs, counted in multiply-adds, bytes and calls; never timed.

The bounds are a little above what was counted when each saving was made; what it was before stands beside it.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, fast_operations
from transformers_samdetr.attention import SamDetrSharedKeyAttention
from transformers_samdetr.backbone import SamDetrBackbone
from transformers_samdetr.fast_resnet import features_in_strips

from ..models import MULTI_SCALE, TINY, Operations, fake_gpu, tiny_model


def is_map(shape: tuple[int, ...]) -> bool:
    """Whether it is that of feature maps of three images; no weight has 3 outputs, and boxes are 2 x 2."""
    return len(shape) == 4 and shape[0] == 3 and shape[2] == shape[3] > 2


def most_stored(given: Operations) -> int:
    """The elements of the largest tensor made."""
    return max(one.stored for one in given.made)


@pytest.mark.parametrize("smca", [False, True])
def test_no_large_attention_map_is_held_whole(smca):
    """300 queries of 8 heads over 24 x 32 pixels: the map of weights alone would have 300 · 8 · 768 numbers."""
    model = tiny_model(**{**TINY, "num_queries": 300, "smca": smca})
    cross_attention = next(m for m in model.modules() if isinstance(m, SamDetrSharedKeyAttention))
    sizes = []

    def watch(module, args):
        with Operations() as given:
            type(module).forward(module, *args)
        sizes.append(most_stored(given))

    handle = cross_attention.register_forward_pre_hook(watch)
    with torch.no_grad():
        model(torch.randn(1, 3, 768, 1024))
    handle.remove()
    assert 0 < sizes[0] <= 300 * 8 * 768 / 4, sizes


def test_frozen_norms_and_region_kernels_cost_nothing():
    model = tiny_model(smca=True)
    with Operations() as given, torch.no_grad():
        model(torch.randn(3, 3, 96, 96))
    # a ResNet-18 has 20 convolutions, and there is one projection; each frozen norm was a product and a sum of maps
    maps = [call.name for call in given.calls if any(is_map(one.shape) for one in call.made)]
    assert sum(name.startswith("aten.convolution") for name in maps) == 21
    assert not any(name.startswith("aten.mul") for name in maps), maps
    assert not any("grid_sampler" in name or "roi_align" in name for name in given.names)


def test_sampling_writes_no_sample():
    """Twelve samples of 32 channels a query and head: `grid_sample` writes them all, bags write the sums alone."""
    torch.manual_seed(0)
    sizes, batch = [(16, 16), (8, 8), (4, 4)], 1
    positions = sum(height * width for height, width in sizes)
    value = torch.randn(batch, positions, 8, 32)
    locations, weights = torch.rand(batch, positions, 8, 3, 4, 2), torch.rand(batch, positions, 8, 3, 4)
    with torch.no_grad():
        with Operations() as bags:
            fast_operations.sample_by_bags(value, sizes, locations, weights)
        with Operations() as grids:
            fast_operations.sample_by_grid(value, sizes, locations, weights)
    assert most_stored(bags) < most_stored(grids) / 4, (most_stored(bags), most_stored(grids))


@pytest.mark.parametrize(("fields", "bound"), [({}, 8.2e6), (MULTI_SCALE, 3.65e7)], ids=["single", "multi-scale"])
def test_multiply_adds_of_the_transformer(fields, bound):
    """The whole forward less the feature extractor, as PyTorch counts it (two a multiply-add).

    It counts no bags, but products with a whole map, which take the place of bags where a map is small.
    """
    model = tiny_model(**fields).requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 128, 128))
    counts = {name: sum(by.values()) for name, by in counter.get_flop_counts().items()}
    extractor = next(n for name, n in counts.items() if name.endswith("backbone.feature_extractor"))
    assert counts["Global"] - extractor <= bound, counts["Global"] - extractor


def test_no_map_of_the_backbone_is_larger_than_a_strip():
    """At 256 x 256 the map at stride 4 has 256 · 64 · 64 numbers; the one at stride 8, which is kept, half of that."""
    model, pixels = SamDetrBackbone(SamDetrConfig.from_preset("sam-detr-r50")).eval(), torch.randn(1, 3, 256, 256)
    with torch.no_grad(), Operations() as given:
        features_in_strips(model.feature_extractor, pixels, numbers_a_strip=200_000)
    maps = [one.numel for one in given.made if len(one.shape) == 4 and one.shape[0] == 1]  # weights have more outputs
    assert max(maps) == 512 * 32 * 32


VIEWS = "view _unsafe_view _reshape_alias expand permute transpose t unsqueeze squeeze slice select detach alias"
FREE = {*VIEWS.split(), "split", "split_with_sizes", "unbind", "device", "empty", "new_empty"}
"""Operations for which a GPU gets nothing to do."""


@pytest.mark.parametrize(
    ("preset", "kernels", "entries", "with_device"),
    [("sam-detr-r50", 800, 1780, 3400), ("sam-detr-pp-r50-smca", 990, 2100, 4200)],
)
def test_a_gpu_is_given_few_operations(preset, kernels, entries, with_device):
    """A picture at a time its host is what takes long: by this count there were 2215 and 2563 kernels of them.

    Entries of the dispatcher are kernels and views; tensors without numbers also enter it to read `.device`. What is
    kept from picture to picture is not counted.
    """
    with fake_gpu():
        model = SamDetrForObjectDetection(SamDetrConfig.from_preset(preset)).eval()
        pixels, mask = torch.randn(1, 3, 800, 1066), torch.ones(1, 800, 1066, dtype=torch.int64)
        model(pixels, mask)
        with Operations() as given:
            model(pixels, mask)
    assert sum(name not in FREE for name in given.names) <= kernels
    assert sum(name != "device" for name in given.names) <= entries
    assert len(given.names) <= with_device
