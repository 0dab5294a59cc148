"""Weights of a bare backbone: read from a file, fetched by timm when asked for, and put in place."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from .configuration_sam_detr import SamDetrConfig


def read_state_dict(weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a `.pth` file that holds tensors and nothing that could run.

    Raises:
        FileNotFoundError: there is no such file.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise FileNotFoundError(f"There is no file with backbone weights at {weights}.")
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(weights)
    return torch.load(weights, map_location="cpu", weights_only=True)


def download_timm_weights(config: SamDetrConfig) -> dict[str, Tensor]:
    """The pretrained weights that timm has for the backbone (from the Hub, or its cache)."""
    backbone = config.backbone_config
    return timm.create_model(backbone.backbone, pretrained=True, in_chans=backbone.num_channels).state_dict()


def load_into(extractor: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies the weights into a Transformers backbone, or into the timm model it wraps.

    Raises:
        ValueError: a tensor is missing or has another shape; the message lists some. What is left over, such as a
            classifier or stages that are not used, is ignored.
    """
    target = getattr(extractor, "_backbone", extractor)
    wanted = {name: tensor for name, tensor in target.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = []
    for name, tensor in wanted.items():
        found = tuple(weights[name].shape) if name in weights else "nothing"
        if found != tuple(tensor.shape):
            wrong.append(f"{name} needs {tuple(tensor.shape)}, found {found}")
    if wrong:
        raise ValueError(
            f"These weights do not fit the backbone; {len(wrong)} of its {len(wanted)} tensors: "
            f"{'; '.join(wrong[:5])}{'; …' if len(wrong) > 5 else ''}."
        )
    target.load_state_dict({name: weights[name] for name in wanted}, strict=False)
