"""The feature extractor of our models for another library's detector: same weights, same features, same training."""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BackboneOutput

from transformers_samdetr.backbone import SamDetrBackbone

from .configuration import PeerConfig


class SharedExtractor(nn.Module):
    """Our backbone without its projections: frozen batch norms, and stages up to stride 4 that are not trained.

    Transformers' DETR models would put plain frozen norms in place of timm's, whose activation goes with them, so that
    an EfficientNet explodes. The name of the attribute is what the optimizer knows a backbone by.
    """

    def __init__(self, config: PeerConfig):
        super().__init__()
        self.feature_extractor = SamDetrBackbone(config.like_ours()).feature_extractor
        self.channels = list(self.feature_extractor.channels)

    def forward(self, pixel_values: Tensor) -> BackboneOutput:
        """`(B, 3, height, width)` to `feature_maps`, `(B, C, H, W)` each, finest first."""
        # as our backbone does
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        return self.feature_extractor(pixel_values)
