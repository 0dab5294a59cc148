"""What all peers share with our models: sizes, classes, backbone; and each peer's own published loss weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BackboneOutput

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.backbone import SamDetrBackbone

SHARED = (
    *("backbone_config", "d_model", "num_queries", "num_feature_levels", "id2label", "label2id"),
    *("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"),
    *("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"),
)
"""Fields that a peer takes from the configuration of ours beside it."""


@dataclass(frozen=True)
class Published:
    """A peer's own matching costs, loss weights and dropout, of its authors' training script.

    Transformers' losses give the class term of Conditional and Deformable DETR the weight 1, and Deformable DETR's
    matching the class cost 1, where the authors have 2; here they have 2. Its DAB-DETR has dropout 0.1, the authors 0.
    """

    class_cost: float = 2
    bbox_cost: float = 5
    giou_cost: float = 2
    class_loss_coefficient: float = 2
    bbox_loss_coefficient: float = 5
    giou_loss_coefficient: float = 2
    dropout: float = 0.1


PEERS: dict[str, Published] = {
    "detr": Published(class_cost=1, class_loss_coefficient=1),
    "conditional-detr": Published(),
    "dab-detr": Published(class_loss_coefficient=1, dropout=0.0),
    "deformable-detr": Published(),
    # no matching; the second group of its terms is the proposals'
    "faster-rcnn": Published(0, 0, 0, 1, 1, 0, 0.0),
}
"""The peers by name."""


class PeerConfig(PreTrainedConfig):
    """A peer's name, the sizes it shares with ours, and its loss weights under the names that ours has.

    `anchor_scale` is the pictures' size divided by 256 pixels; the anchors of Faster R-CNN grow with it.
    """

    model_type = "samdetr_peer"

    peer: str = "detr"
    backbone_config: dict | None = None
    d_model: int = 256
    num_queries: int = 300
    num_feature_levels: int = 1
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    dropout: float = 0.1
    class_cost: float = 2
    bbox_cost: float = 5
    giou_cost: float = 2
    class_loss_coefficient: float = 2
    bbox_loss_coefficient: float = 5
    giou_loss_coefficient: float = 2
    focal_alpha: float = 0.25
    class_weights: list | None = None
    auxiliary_loss: bool = True
    anchor_scale: float = 1.0
    category_ids: list | None = None

    @classmethod
    def beside(cls, ours: SamDetrConfig, peer: str) -> "PeerConfig":
        """The configuration of a peer with the backbone, sizes and classes of one of ours.

        Raises:
            ValueError: there is no such peer.
        """
        if peer not in PEERS:
            raise ValueError(f"peer={peer!r} is unknown: choose one of {', '.join(PEERS)}.")
        shared: dict[str, Any] = {name: getattr(ours, name) for name in SHARED}
        shared["backbone_config"] = ours.backbone_config.to_dict()
        return cls(peer=peer, **shared, **vars(PEERS[peer]))

    def like_ours(self) -> SamDetrConfig:
        """The configuration of a model of ours with this backbone, for what is built in the same way."""
        return SamDetrConfig(**{name: getattr(self, name) for name in SHARED})


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
