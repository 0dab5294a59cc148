"""What a peer is made of: the sizes that all detectors of a comparison share, and its own published loss weights."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from transformers_samdetr import SamDetrConfig

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
