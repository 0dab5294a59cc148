"""Pixels to projected feature levels, with their masks and positions; and weights of the bare backbone."""

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn
from transformers import AutoBackbone
from transformers import initialization as init

from .configuration_sam_detr import SamDetrConfig
from .geometry import embed_map
from .operations import extract_features, freeze_batch_norms, is_frozen_batch_norm, resize_mask
from .padding_masks import extract_masked_features, group_norm, hook_masks

EARLY_STRIDE = 4
"""Backbone stages up to this stride are not trained: the stem and the first stage of a ResNet."""
RESNET = "ResNetBackbone"
"""Transformers' own; known by its name, for an import would load it for those who never use it."""


@dataclass
class FeatureLevel:
    """One projected feature map of a batch, flattened row by row."""

    features: Tensor  # (B, H·W, C)
    positions: Tensor  # (B, H·W, C), sine embedding plus, with several levels, the level's own embedding
    mask: Tensor  # (B, H, W), True on valid positions
    valid_ratio: Tensor  # (B, 2), valid width / W and valid height / H
    valid_size: Tensor  # (B, 2), valid width and height, in positions
    size: tuple[int, int]  # (H, W)


def valid_ratio(mask: Tensor) -> Tensor:
    """`(B, 2)` float32: the share of valid pixels in the first row (x) and first column (y) of `(B, H, W)` masks."""
    height, width = mask.shape[1:]
    lengths = mask[:, 0].sum(-1, dtype=torch.float32), mask[:, :, 0].sum(-1, dtype=torch.float32)
    return torch.stack([lengths[0] / width, lengths[1] / height], dim=-1)


def valid_size(ratio: Tensor, size: tuple[int, int]) -> Tensor:
    """`(B, 2)` valid width and height of maps of this `size`, from their `(B, 2)` ratios."""
    height, width = size
    return torch.stack([ratio[:, 0] * width, ratio[:, 1] * height], dim=-1)


def drop_unread_stages(extractor: nn.Module) -> nn.Module:
    """Drops the stages after the last one that is read, in place, where timm and Transformers leave them.

    They cost time and never get a gradient, for which training on several processes would wait.
    """
    if type(extractor).__name__ == RESNET:
        read = [index for index, name in enumerate(extractor.stage_names) if name in extractor.out_features]
        del extractor.encoder.stages[read[-1] :]  # the first name is the stem's
    wrapped = getattr(extractor, "_backbone", None)
    if isinstance(wrapped, (EfficientNetFeatures, MobileNetV3Features)):
        del wrapped.blocks[max(feature["stage"] for feature in wrapped.feature_info.get_dicts()) :]  # counted from 1
    return extractor


class SamDetrInputProjection(nn.Module):
    """1x1 convolution to C channels, then GroupNorm with 32 groups where the config says so."""

    def __init__(self, config: SamDetrConfig, in_channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, config.d_model, kernel_size=1)
        self.norm = nn.GroupNorm(32, config.d_model) if config.input_projection_norm else nn.Identity()

    def forward(self, feature_map: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(B, channels, H, W)` to `(B, C, H, W)`; with a `(B, H, W)` mask the norm sees valid positions alone."""
        projected = self.convolution(feature_map)
        if mask is None or isinstance(self.norm, nn.Identity):
            return self.norm(projected)
        return group_norm(projected, mask, self.norm)


class SamDetrBackbone(nn.Module):
    """The feature extractor and one projection a level. Batch norms are frozen: statistics and scales are buffers."""

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.d_model = config.d_model
        self.feature_extractor = freeze_batch_norms(
            drop_unread_stages(AutoBackbone.from_config(config.backbone_config))
        )
        self.input_projections = nn.ModuleList(
            SamDetrInputProjection(config, channels) for channels in self.feature_extractor.channels
        )
        # with mask_padding, the stride of each level
        self.strides = hook_masks(self.feature_extractor) if config.mask_padding else None
        self.level_embeddings = None
        if config.num_feature_levels > 1:
            self.level_embeddings = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self._reset_batch_norms()
        self.unfreeze()

    def initialize(self):
        if self.level_embeddings is not None:
            init.normal_(self.level_embeddings)
        self._reset_batch_norms()  # those that a checkpoint lacks

    def _reset_batch_norms(self):
        for norm in self.feature_extractor.modules():
            if is_frozen_batch_norm(norm):
                # timm starts the last norm of a residual block at 0: frozen at that, the block could never learn
                init.ones_(norm.weight)
                init.zeros_(norm.bias)
                init.zeros_(norm.running_mean)
                init.ones_(norm.running_var)

    def freeze(self):
        """Stops training of the whole feature extractor; its projections go on."""
        self.feature_extractor.requires_grad_(False)

    def unfreeze(self):
        """Trains the feature extractor, but for its stem and what comes up to stride 4 (a ResNet's first stage)."""
        self.feature_extractor.requires_grad_(True)
        for name in self.frozen_parameter_names:
            self.get_parameter(name).requires_grad_(False)

    @property
    def frozen_parameter_names(self) -> list[str]:
        """Names of the parameters up to stride 4, which are never trained: general features, expensive to train."""
        extractor = self.feature_extractor
        names = [name for name, _ in extractor.named_parameters()]
        feature_info = getattr(getattr(extractor, "_backbone", None), "feature_info", None)
        if feature_info is not None:  # timm lists its stages in order, and so are the parameters
            early = [stage["module"] for stage in feature_info.info if stage["reduction"] <= EARLY_STRIDE]
            prefixes = tuple(f"_backbone.{form}." for module in early for form in (module, module.replace(".", "_")))
            last = max((index for index, name in enumerate(names) if name.startswith(prefixes)), default=-1)
            names = names[: last + 1]
        else:
            prefixes = ("embedder.", "encoder.stages.0.") if type(extractor).__name__ == RESNET else ()
            names = [name for name in names if name.startswith(prefixes)]
        return [f"feature_extractor.{name}" for name in names]

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[FeatureLevel]:
        """Feature levels, finest first, of `(B, channels, height, width)` normalised pixels, padded at the end.

        The mask `(B, height, width)` is 1 on real pixels.
        """
        if self.strides is None:  # the authors' code convolves and normalises padding too
            feature_maps = extract_features(self.feature_extractor, pixel_values)
            masks = [resize_mask(pixel_mask, feature_map.shape[-2:]) for feature_map in feature_maps]
            norm_masks = [None] * len(masks)
        else:
            pixel_mask = pixel_mask.bool()
            feature_maps = extract_masked_features(self.feature_extractor, pixel_values, pixel_mask)
            norm_masks = masks = [pixel_mask[:, ::stride, ::stride] for stride in self.strides]
        levels = []
        for index, (projection, feature_map) in enumerate(zip(self.input_projections, feature_maps, strict=True)):
            mask, size = masks[index], tuple(feature_map.shape[-2:])
            features = projection(feature_map, norm_masks[index]).flatten(2).transpose(1, 2)  # (B, H·W, C)
            positions = embed_map(mask, self.d_model).flatten(1, 2)
            if self.level_embeddings is not None:
                positions = positions + self.level_embeddings[index]
            ratio = valid_ratio(mask)
            positions = positions.to(features.dtype)
            levels.append(FeatureLevel(features, positions, mask, ratio, valid_size(ratio, size), size))
        return levels


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
    """Copies the weights into a Transformers backbone, or into the timm model it wraps; others, as heads, are ignored.

    Raises:
        ValueError: a tensor is missing or has another shape; the message lists some.
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
