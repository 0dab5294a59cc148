"""The detectors that the paper's tables and figures compare, each as the switches it differs by.

A variant is trained once in a setting, however many tables it stands in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from transformers_samdetr.presets import PRESETS
from transformers_samdetr.training.recipes import TINY

DROPOUT = {"dropout": 0.1}
PLAIN = {"feature_reweighting": False, **DROPOUT}
"""Without the two additions that Table 3 adds last: reweighting, and removing dropout."""


def _scales(*stages: int) -> dict[str, Any]:
    """Stages of EfficientNet-Lite0 in place of the one of stride 16 alone: stage 2 has stride 8, 3 has 16, 4 has 32."""
    backbone = PRESETS[TINY.model]["backbone_config"]
    return {"num_feature_levels": len(stages), "backbone_config": {**backbone, "out_indices": list(stages)}}


MULTI_SCALE = _scales(2, 3, 4)
COARSEST_SCALE = _scales(4)
ENCODER = {"encoder_layers": 1, "encoder_ffn_dim": 512}
SMCA = {"smca": True}
DENOISING = {"num_denoising_groups": 5}
SMCA_DN_1 = {**SMCA, "num_denoising_groups": 1}
SET = "training_set"


@dataclass(frozen=True)
class Variant:
    """A detector of a comparison.

    Attributes:
        name: in the ledger and on the command line.
        fields: of `SamDetrConfig`, beside what a setting gives to all.
        boxes_of: a variant whose learned reference boxes this one starts from (Table 5), or None.
        peer: name of another library's detector in `peers`, or None for one of ours.
        initial_boxes: the recipe's; `"training_set"` starts from where its objects lie.
        times_epochs: so many times the setting's epochs.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    boxes_of: str | None = None
    peer: str | None = None
    initial_boxes: str = "model"
    times_epochs: int | Fraction = 1


def _ours() -> list[Variant]:
    pp_smca = {**MULTI_SCALE, **SMCA}
    fixed = {"reference_boxes": "fixed"}
    return [
        # Table 3, from top to bottom; the first is also DETR with 300 queries and focal loss in Tables 1 and 2
        Variant("detr", {"query_resampling": "none", **DROPOUT}),
        Variant("average", {"query_resampling": "average", **PLAIN}),
        Variant("max", {"query_resampling": "max", **PLAIN}),
        Variant("keypoint-1", {"num_keypoints": 1, **PLAIN}),
        Variant("keypoints-8", PLAIN),
        Variant("keypoint-1-reweighted", {"num_keypoints": 1, **DROPOUT}),
        Variant("keypoints-8-reweighted", DROPOUT),
        Variant("sam-detr"),
        Variant("detr-multi-scale", {"query_resampling": "none", **MULTI_SCALE}),
        Variant("sam-detr-pp", MULTI_SCALE),
        # the published single scale is the coarsest of several; that of the settings is finer
        Variant("sam-detr-stride-32", COARSEST_SCALE),
        # digits have no encoder otherwise, so that nothing but the decoder joins scales
        Variant("sam-detr-encoder", ENCODER),
        Variant("sam-detr-pp-encoder", {**MULTI_SCALE, **ENCODER}),
        # Fig. 7 and Table 4, both with reweighting and dropout
        Variant("keypoints-2-reweighted", {"num_keypoints": 2, **DROPOUT}),
        Variant("keypoints-4-reweighted", {"num_keypoints": 4, **DROPOUT}),
        Variant("image-range", {"keypoint_search_range": "image", **DROPOUT}),
        # Tables 1 and 2
        Variant("sam-detr-smca", SMCA),
        Variant("sam-detr-dn", DENOISING),
        Variant("sam-detr-smca-dn", {**SMCA, **DENOISING}),
        Variant("sam-detr-pp-smca", pp_smca),
        Variant("sam-detr-pp-smca-dn", {**pp_smca, **DENOISING}),
        # not in the paper
        Variant("sam-detr-set-boxes", initial_boxes=SET),
        Variant("sam-detr-smca-set-boxes", SMCA, initial_boxes=SET),
        # one group, since a step with the five of DN-DETR takes 1.6 times as long where pictures have many objects
        Variant("sam-detr-smca-dn-1-set-boxes", SMCA_DN_1, initial_boxes=SET),
        # as many epochs as fit into the time of Deformable DETR's 12, with schedules made for them
        Variant("sam-detr-smca-set-boxes-short", SMCA, initial_boxes=SET, times_epochs=Fraction(7, 12)),
        Variant("sam-detr-smca-dn-1-set-boxes-short", SMCA_DN_1, initial_boxes=SET, times_epochs=Fraction(6, 12)),
        # Table 5, beside sam-detr-pp-smca itself
        Variant("boxes-of-another-set", {**pp_smca, **fixed}, boxes_of="sam-detr-pp-smca"),
        Variant("boxes-at-random", {**pp_smca, **fixed}),
    ]


def _peers() -> list[Variant]:
    return [
        Variant("faster-rcnn", peer="faster-rcnn"),
        Variant("transformers-detr", peer="detr"),
        Variant("conditional-detr", peer="conditional-detr"),
        Variant("conditional-detr-twice", peer="conditional-detr", times_epochs=2),
        Variant("dab-detr", peer="dab-detr"),
        Variant("deformable-detr", peer="deformable-detr"),
        # not of its authors either
        Variant("deformable-detr-set-boxes", peer="deformable-detr", initial_boxes=SET),
        Variant("faster-rcnn-fpn", MULTI_SCALE, peer="faster-rcnn"),
        Variant("deformable-detr-multi-scale", MULTI_SCALE, peer="deformable-detr"),
    ]


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in [*_ours(), *_peers()]}
"""All variants by name."""
REFERENCE = "sam-detr"
"""Whose initial weights the others share where names and shapes agree, and whose time is 1 in comparisons."""
