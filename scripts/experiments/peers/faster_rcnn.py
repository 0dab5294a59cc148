"""torchvision's Faster R-CNN with our backbone, one stride or a feature pyramid, in the form of our models' forward."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from transformers_samdetr.geometry import center_to_corners

from .shared import PeerConfig, SharedExtractor

ANCHOR_SIZES = {1: ((16, 32, 64, 96, 160),), 3: ((16, 32), (48, 64), (96, 160))}
"""In pixels by the number of levels, for pictures of 256 pixels; at 800 nearly torchvision's 32 to 512."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)
DETECTIONS = 100
ROI_SIZE = 7


class _Backbone(nn.Module):
    """The feature maps by name, with a feature pyramid over several."""

    def __init__(self, config: PeerConfig):
        super().__init__()
        self.extractor = SharedExtractor(config)
        channels = self.extractor.channels
        self.pyramid = FeaturePyramidNetwork(channels, config.d_model) if len(channels) > 1 else None
        self.out_channels = config.d_model if self.pyramid else channels[0]

    def forward(self, pixel_values: Tensor) -> "OrderedDict[str, Tensor]":
        maps = OrderedDict((str(index), level) for index, level in enumerate(self.extractor(pixel_values).feature_maps))
        return self.pyramid(maps) if self.pyramid else maps


class FasterRcnnPeer(nn.Module):
    """Without torchvision's own resizing: the pictures are those of all others."""

    def __init__(self, config: PeerConfig):
        super().__init__()
        backbone = _Backbone(config)
        sizes = tuple(
            tuple(round(size * config.anchor_scale) for size in level)
            for level in ANCHOR_SIZES[config.num_feature_levels]
        )
        self.config = config
        self.detector = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes)),
            box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(len(sizes))], ROI_SIZE, sampling_ratio=2),
            # torchvision's width of 1024 goes with 256 channels
            box_head=TwoMLPHead(backbone.out_channels * ROI_SIZE**2, 4 * config.d_model),
            box_predictor=FastRCNNPredictor(4 * config.d_model, config.num_labels + 1),
            # AP counts detections of any score
            box_score_thresh=0.0,
            box_detections_per_img=DETECTIONS,
        )
        self.detector.transform = nn.Identity()  # never called

    @property
    def extractor(self) -> SharedExtractor:
        return self.detector.backbone.extractor

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, labels: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        """`loss`, `loss_dict`, `logits` whose sigmoid is the score of each class, and `pred_boxes`.

        In training there are no detections: `logits` and `pred_boxes` are None.
        """
        sizes = _valid_sizes(pixel_values, pixel_mask)
        images = ImageList(pixel_values, [tuple(size) for size in sizes.tolist()])
        features = self.detector.backbone(pixel_values)
        outputs: dict[str, Any] = dict.fromkeys(("loss", "loss_dict", "logits", "pred_boxes"))
        if labels is not None:
            outputs |= self._losses(images, features, _pixel_targets(labels, sizes))
        if not self.training:
            proposals, _ = self.detector.rpn(images, features)
            detections, _ = self.detector.roi_heads(features, proposals, images.image_sizes)
            outputs["logits"], outputs["pred_boxes"] = self._as_queries(detections, sizes)
        return outputs

    def _losses(self, images: ImageList, features: dict[str, Tensor], targets: list[dict]) -> dict[str, Any]:
        """All four terms, also in evaluation; the proposals' stand where other models have an earlier layer's."""
        parts = (self.detector.rpn, self.detector.roi_heads)
        was_training = self.training
        # which examples are looked at is drawn; an evaluation leaves the training's random numbers alone
        devices = [images.tensors.device] if images.tensors.is_cuda else []
        with torch.random.fork_rng(devices, enabled=not was_training):
            for part in parts:
                part.train()
            proposals, of_proposals = self.detector.rpn(images, features, targets)
            _, of_boxes = self.detector.roi_heads(features, proposals, images.image_sizes, targets)
            for part in parts:
                part.train(was_training)
        terms = {
            "loss_ce": of_boxes["loss_classifier"],
            "loss_bbox": of_boxes["loss_box_reg"],
            "loss_ce_0": of_proposals["loss_objectness"],
            "loss_bbox_0": of_proposals["loss_rpn_box_reg"],
        }
        return {"loss": sum(terms.values()), "loss_dict": {name: value.detach() for name, value in terms.items()}}

    def _as_queries(self, detections: list[dict[str, Tensor]], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Detections as `(B, 100, K)` log odds, minus infinity where there is none, and `(B, 100, 4)` boxes."""
        logits = sizes.new_full((len(sizes), DETECTIONS, self.config.num_labels), float("-inf"), dtype=torch.float32)
        boxes = torch.zeros(len(sizes), DETECTIONS, 4, device=sizes.device)
        for index, (found, size) in enumerate(zip(detections, sizes, strict=True)):
            count = len(found["scores"])
            places = torch.arange(count, device=sizes.device)
            logits[index, places, found["labels"] - 1] = torch.logit(found["scores"].float(), eps=1e-6)
            left_top, right_bottom = found["boxes"].split(2, dim=-1)
            center_size = torch.cat([(left_top + right_bottom) / 2, right_bottom - left_top], dim=-1)
            boxes[index, :count] = center_size / size.flip(0).repeat(2)
        return logits, boxes


def _valid_sizes(pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
    """`(B, 2)`: height and width of each picture without its padding, in pixels."""
    if pixel_mask is None:
        return torch.tensor([pixel_values.shape[-2:]] * len(pixel_values), device=pixel_values.device)
    return torch.stack([pixel_mask[:, :, 0].sum(-1), pixel_mask[:, 0].sum(-1)], dim=-1)


def _pixel_targets(labels: list[dict[str, Tensor]], sizes: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's targets: boxes x1, y1, x2, y2 in pixels, and labels from 1."""
    return [
        {
            "boxes": center_to_corners(target["boxes"].to(size.device)) * size.flip(0).repeat(2),
            "labels": target["class_labels"].to(size.device) + 1,
        }
        for target, size in zip(labels, sizes, strict=True)
    ]
