"""Other libraries' detectors in the form that our trainer and evaluation take: same images, same backbone."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers.utils import ModelOutput

from transformers_samdetr.backbone import load_into

from .detr_relatives import CLASSES, DetrRelative, start_at
from .faster_rcnn import FasterRcnnPeer
from .shared import PEERS, PeerConfig

__all__ = ["PEERS", "PeerConfig", "PeerForObjectDetection", "PeerOutput"]

WEIGHTS = "model.safetensors"


@dataclass
class PeerOutput(ModelOutput):
    """What the trainer and the evaluation read.

    Attributes:
        loss: a scalar, where there were labels.
        loss_dict: its terms without their coefficients.
        logits: `(B, Q, K)`; their sigmoid is the score of each class. None of Faster R-CNN in training.
        pred_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid picture.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None


class PeerForObjectDetection(nn.Module):
    """The detector that the configuration names.

    No `PreTrainedModel`: the detectors inside have already started their weights, each in its own way, and share some.
    """

    def __init__(self, config: PeerConfig):
        super().__init__()
        self.config = config
        self.peer = DetrRelative(config) if config.peer in CLASSES else FasterRcnnPeer(config)

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, labels: list[dict[str, Tensor]] | None = None
    ) -> PeerOutput:
        """As `SamDetrForObjectDetection`."""
        return PeerOutput(**self.peer(pixel_values, pixel_mask, labels))

    def load_backbone_weights(self, weights: dict[str, Tensor]) -> None:
        """Loads a state dict of the bare backbone, as our models do."""
        load_into(self.peer.extractor.feature_extractor, weights)

    def set_reference_boxes(self, boxes: Tensor) -> None:
        """Starts each query at the center of a box; see `start_at`."""
        if not isinstance(self.peer, DetrRelative):
            raise ValueError(f"{self.config.peer} has no queries, and so no reference boxes.")
        start_at(self.peer.detector, boxes)

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Writes configuration and weights; `state_dict` in place of the model's own."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        model = self
        if state_dict is not None:
            model = copy.deepcopy(self)
            model.load_state_dict(state_dict)
        save_model(model, str(Path(folder) / WEIGHTS), metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PeerForObjectDetection":
        """The model that `save_pretrained` has written, in evaluation mode."""
        with torch.random.fork_rng():
            model = cls(PeerConfig.from_pretrained(folder))
        load_model(model, str(Path(folder) / WEIGHTS))
        return model.eval()
