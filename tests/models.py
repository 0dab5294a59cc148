"""Small models and targets that the tests share."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, fast_operations, routes

NEEDS_GPU = (
    pytest.mark.accelerator,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: PyTorch sees none"),
)
DEVICES = ("cpu", pytest.param("cuda", marks=NEEDS_GPU))
"""Where a test runs."""

TINY = {
    "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [4]},
    "d_model": 32,
    "num_queries": 12,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 3,
    "decoder_ffn_dim": 48,
    "num_labels": 5,
}
SMALL_BACKBONE = {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [4]}
"""A thirtieth of the parameters: for tests that save weights or start processes."""
MULTI_SCALE = {
    "num_feature_levels": 3,
    "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]},
}
VARIANTS = {
    "single": {},
    "smca": {"smca": True},
    "dilated": {"dilation": True, "backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50"}},
    "no projection norm": {"input_projection_norm": False},
    "multi-scale": MULTI_SCALE,
    "multi-scale smca": {**MULTI_SCALE, "smca": True},
    "multi-scale smca dn": {**MULTI_SCALE, "smca": True, "num_denoising_groups": 2},
    "denoising": {"num_denoising_groups": 3},
    "average": {"query_resampling": "average"},
    "max": {"query_resampling": "max"},
    "none": {"query_resampling": "none"},
    "multi-scale none": {**MULTI_SCALE, "query_resampling": "none"},
    "one keypoint": {"num_keypoints": 1, "smca": True},
    "two keypoints": {"num_keypoints": 2},
    "image search": {"keypoint_search_range": "image"},
    "image search smca": {**MULTI_SCALE, "keypoint_search_range": "image", "smca": True},
    "no reweighting": {"feature_reweighting": False},
    "fixed boxes": {"reference_boxes": "fixed"},
    "last layer loss": {"auxiliary_loss": False, "num_denoising_groups": 2},
}


class Made(NamedTuple):
    """A tensor that an operation returned.

    Attributes:
        shape, dtype, device: its own.
        numel: its elements.
        stored: the elements that its storage has room for.
        is_new: whether no input has the same storage.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    numel: int
    stored: int
    is_new: bool


class Operation(NamedTuple):
    """What PyTorch was given.

    Attributes:
        name: with its overload, such as `aten.add_.Tensor`.
        made: the tensors that it returned.
    """

    name: str
    made: tuple[Made, ...]

    @property
    def is_work(self) -> bool:
        """Whether it writes: views do not."""
        return any(one.is_new for one in self.made) or self.name.split(".")[1].endswith("_")

    def has_written(self, numel: int) -> bool:
        """Whether it wrote a tensor of so many elements or more."""
        new = [one for one in self.made if one.is_new]
        return self.is_work and any(one.numel >= numel for one in new or self.made)


class Operations(TorchDispatchMode):
    """All operations that PyTorch is given while it lasts, in their order."""

    def __init__(self):
        super().__init__()
        self.calls: list[Operation] = []

    @property
    def names(self) -> list[str]:
        """Of the operations without overload, such as `add_`."""
        return [call.name.split(".")[1] for call in self.calls]

    @property
    def made(self) -> list[Made]:
        return [one for call in self.calls for one in call.made]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = []
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                stored, is_new = storage.nbytes() // x.element_size(), storage._cdata not in known
                made.append(Made(tuple(x.shape), x.dtype, x.device.type, x.numel(), stored, is_new))
        self.calls.append(Operation(str(function), tuple(made)))
        return result


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """All tensors are on a GPU that need not be there, and have shapes but no numbers. They are kept as numbers are."""
    caches = [way for way in vars(fast_operations).values() if hasattr(way, "cache_clear")]
    with contextlib.ExitStack() as stack:
        for cache in caches:
            cache.cache_clear()
            stack.callback(cache.cache_clear)
        stack.enter_context(mock.patch.object(routes, "_may_keep", lambda x: True))
        for context in (FakeTensorMode(), torch.device("cuda"), torch.no_grad()):
            stack.enter_context(context)
        yield


def tiny_model(seed: int = 0, **fields) -> SamDetrForObjectDetection:
    """A tiny model in evaluation mode whose box heads are not at their zero start, so that layers differ."""
    torch.manual_seed(seed)
    model = SamDetrForObjectDetection(SamDetrConfig(**{**TINY, **fields}))
    for head in model.model.decoder.box_heads:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.2)
    return model.eval()


def targets(*counts: int, seed: int = 0, num_labels: int = 5) -> list[dict]:
    """Random objects, `counts` of them in each image."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "class_labels": torch.randint(num_labels, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
            "image_id": torch.tensor([100 + index]),
        }
        for index, count in enumerate(counts)
    ]
