"""Small models and targets that the tests share."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection

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


class Operations(TorchDispatchMode):
    """Names of all operations that PyTorch is given, in their order."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """All tensors are on a GPU that need not be there, and have shapes but no numbers."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
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
