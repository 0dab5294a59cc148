"""What is compared: settings (data and training), variants (detectors), and the paper's tables as suites of rows.

Published AP is COCO val2017's in percent; Table 5's is the AP at IoU 0.5 on Pascal VOC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.data.load import DetectionData, load_detection_data
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.presets import PRESETS
from transformers_samdetr.training.recipes import TINY, Recipe

SEEDS = (0, 1, 2)

SMALL = {
    # without what sam-detr-tiny has from its start: these are variants here
    "smca": False,
    "num_denoising_groups": 0,
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Setting:
    """Pictures and training that runs have in common, so that they can be compared.

    Attributes:
        name: in the ledger and on the command line.
        title: in the report.
        recipe: of all runs; its `model_overrides` are what all architectures share.
        learning_rates: tried with the first seed; the other seeds take the best. One alone is not compared.
        scenes: numbers of digit scenes for training and evaluation, or None for a folder of `--data_dir`.
        folder: in `--data_dir`, of a real set.
        boxes_from: the setting in which a variant's `boxes_of` has learned its reference boxes (Table 5).
    """

    name: str
    title: str
    recipe: Recipe
    learning_rates: tuple[float, ...]
    scenes: tuple[int, int] | None = None
    folder: str | None = None
    boxes_from: str | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """Fields of the configuration that all architectures share."""
        return self.recipe.model_overrides

    def load_data(self, data_dir: Path | None) -> DetectionData:
        """The pictures.

        Args:
            data_dir: a folder that has the real sets as folders of their names; digit scenes need none.

        Raises:
            ValueError: a real set is asked for without `data_dir`, or is not in it.
        """
        if self.scenes is not None:
            scenes = build_digit_scenes(*self.scenes, size=self.recipe.image_size)
            return load_detection_data(_as_one_class(scenes), box_format="xywh")
        if data_dir is None:
            raise ValueError(f"{self.name} needs pictures: give the folder that has {self.folder!r} by --data_dir.")
        return load_detection_data(data_dir / self.folder)


def _as_one_class(scenes: DatasetDict) -> DatasetDict:
    """All digits as one class: matching and boxes are compared, and reading digits would take most of a short run."""

    def without_class(example: dict[str, Any]) -> dict[str, Any]:
        objects = example["objects"]
        return {"objects": {**objects, "category": [0] * len(objects["category"])}}

    return scenes.map(without_class, features=detection_features(["digit"]))


def _small_recipe(name: str, **fields: Any) -> Recipe:
    return replace(TINY, name=name, initial_boxes="model", keep="last", trackers="none", log_steps=100, **fields)


def _at_128(name: str, **fields: Any) -> Recipe:
    """Small enough for a run of some minutes on one core."""
    overrides = {**SMALL, "num_queries": 30}
    return _small_recipe(name, model_overrides=overrides, image_size=128, **fields)


DIGITS = Setting(
    "digits",
    "digit scenes",
    _at_128("digits", epochs=12, augmentation="none"),
    learning_rates=(1e-3,),
    scenes=(1000, 150),
    boxes_from="cards-at-128",
)
"""Digit scenes, on which the ablations are run."""
OTHER_OBJECTS = Setting("cards-at-128", "small cards", _at_128("cards-at-128", epochs=24), (1e-3,), folder="cards")
"""Where Table 5's reference boxes of another set come from: fewer and larger objects."""


def _photographs(name: str, title: str, folder: str, epochs: int = 12) -> Setting:
    overrides = {**SMALL, "encoder_layers": 2, "encoder_ffn_dim": 512, "decoder_layers": 4, "num_queries": 50}
    recipe = _small_recipe(name, model_overrides=overrides, image_size=256, epochs=epochs)
    return Setting(name, title, recipe, learning_rates=(3e-4, 1e-3), folder=folder)


LONG = 48
"""Epochs of the longer schedule, four times as long as the short one, as in the paper."""
PHOTOGRAPHS = (
    _photographs("cards", "photographs of playing cards", "cards"),
    _photographs("bccd", "photographs of blood cells", "bccd"),
    _photographs("cards-long", "photographs of playing cards, four times as long", "cards", LONG),
    _photographs("bccd-long", "photographs of blood cells, four times as long", "bccd", LONG),
)

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in (DIGITS, OTHER_OBJECTS, *PHOTOGRAPHS)}
"""All settings by name."""


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


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        label: as the report calls it.
        variant: at small scale, a name in `VARIANTS`.
        recipe: at COCO's scale, a name in `COCO_RECIPES`, or None where there is none.
        published: AP, AP50 and AP75 where the paper has them, in percent.
    """

    label: str
    variant: str
    recipe: str | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A table or figure of the paper.

    Attributes:
        name: on the command line.
        title: of the table in the notes.
        question: heading on the page of results; None for a suite that stands in the notes alone.
        settings: at small scale, names in `SETTINGS`.
        rows: from top to bottom.
        metric: the one that is compared.
        in_short: variants whose curves are drawn and whose differences are on the page; all where there are few.
    """

    name: str
    title: str
    question: str | None
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    metric: str = "AP"
    in_short: tuple[str, ...] = ()


def _ap(AP: float, AP50: float, AP75: float) -> dict[str, float]:
    return {"AP": AP, "AP50": AP50, "AP75": AP75}


TABLE3 = Suite(
    "table3",
    "Table 3: the design, step by step",
    "Does re-sampling features by salient points help (Table 3)?",
    ("digits",),
    (
        Row("no aligner (DETR)", "detr", "detr-r50-12e", _ap(22.3, 39.5, 22.2)),
        Row("average pooling", "average", "average-r50-12e", _ap(25.2, 48.9, 23.3)),
        Row("max pooling", "max", "max-r50-12e", _ap(27.0, 50.2, 25.8)),
        Row("1 keypoint", "keypoint-1", "keypoint-1-r50-12e", _ap(28.6, 50.3, 28.1)),
        Row("8 keypoints", "keypoints-8", "keypoints-8-r50-12e", _ap(30.3, 52.0, 29.8)),
        Row("1 keypoint, reweighting", "keypoint-1-reweighted", "keypoint-1-rw-r50-12e", _ap(32.0, 53.4, 32.8)),
        Row("8 keypoints, reweighting", "keypoints-8-reweighted", "keypoints-8-rw-r50-12e", _ap(33.1, 54.2, 33.7)),
        Row("the same without dropout (SAM-DETR)", "sam-detr", "sam-detr-r50-12e", _ap(34.2, 55.8, 35.3)),
        Row("SAM-DETR of the coarsest scale alone, stride 32", "sam-detr-stride-32", None, _ap(34.2, 55.8, 35.3)),
        Row("several scales, no aligner", "detr-multi-scale", "detr-pp-r50-12e", _ap(29.1, 53.2, 28.6)),
        Row("several scales (SAM-DETR++)", "sam-detr-pp", "sam-detr-pp-r50-12e", _ap(41.9, 60.5, 45.3)),
    ),
)
SCALES = Suite(
    "scales",
    "Several scales and an encoder (from Table 1)",
    "Are several scales better than one (Table 1)?",
    ("digits",),
    (
        Row("stride 16, no encoder", "sam-detr"),
        Row("several scales, no encoder", "sam-detr-pp"),
        Row("stride 16, an encoder layer", "sam-detr-encoder", "sam-detr-r50-dc5-12e", _ap(39.1, 59.9, 41.2)),
        Row("several scales, an encoder layer", "sam-detr-pp-encoder", "sam-detr-pp-r50-12e", _ap(41.9, 60.5, 45.3)),
    ),
)
"""Both published models have six encoder layers, and the one of a single scale has stride 16 by dilation."""
TABLE4 = Suite(
    "table4",
    "Table 4: where keypoints are searched",
    "Should salient points be searched within the reference box (Table 4)?",
    ("digits",),
    (
        Row("within the reference box", "keypoints-8-reweighted", "keypoints-8-rw-r50-12e", _ap(33.1, 54.2, 33.7)),
        Row("within the image", "image-range", "image-range-r50-12e", _ap(30.0, 52.3, 29.2)),
    ),
)
TABLE5 = Suite(
    "table5",
    "Table 5: reference boxes",
    "Do reference boxes have to be learned (Table 5)?",
    ("digits",),
    (
        Row("learned", "sam-detr-pp-smca", None, {"AP50": 79.6}),
        Row("learned on another set, fixed", "boxes-of-another-set", None, {"AP50": 79.5}),
        Row("at random, fixed", "boxes-at-random", None, {"AP50": 79.3}),
    ),
    metric="AP50",
)
FIGURE6 = Suite(
    "figure6",
    "Figure 6: AP by epoch",
    None,
    ("digits",),
    (
        Row("DETR", "detr", "detr-r50-12e", _ap(22.3, 39.5, 22.2)),
        Row("SAM-DETR", "sam-detr", "sam-detr-r50-12e", _ap(34.2, 55.8, 35.3)),
        Row("SAM-DETR of stride 32", "sam-detr-stride-32", None, _ap(34.2, 55.8, 35.3)),
        Row("SAM-DETR++", "sam-detr-pp", "sam-detr-pp-r50-12e", _ap(41.9, 60.5, 45.3)),
    ),
)
FIGURE7 = Suite(
    "figure7",
    "Figure 7: number of keypoints",
    "How many salient points (Figure 7)?",
    ("digits",),
    (
        Row("1", "keypoint-1-reweighted", "keypoint-1-rw-r50-12e", _ap(32.0, 53.4, 32.8)),
        Row("2", "keypoints-2-reweighted", "keypoints-2-rw-r50-12e"),
        Row("4", "keypoints-4-reweighted", "keypoints-4-rw-r50-12e"),
        Row("8", "keypoints-8-reweighted", "keypoints-8-rw-r50-12e", _ap(33.1, 54.2, 33.7)),
    ),
)
ADDITIONS = Suite(
    "additions",
    "SMCA and DN together with the aligner (from Table 1)",
    "Do SMCA and denoising add to the aligner (Table 1)?",
    ("digits",),
    (
        Row("SAM-DETR", "sam-detr", "sam-detr-r50-12e", _ap(34.2, 55.8, 35.3)),
        Row("with SMCA", "sam-detr-smca", "sam-detr-r50-smca-12e", _ap(37.0, 58.0, 38.5)),
        Row("with DN", "sam-detr-dn"),
        Row("with SMCA and DN", "sam-detr-smca-dn"),
    ),
)

REAL = Suite(
    "real",
    "Convergence on real photographs, one scale",
    "Does SAM-DETR learn faster than other detectors on real photographs?",
    ("cards", "bccd"),
    (
        Row("SAM-DETR", "sam-detr"),
        Row("SAM-DETR with SMCA", "sam-detr-smca"),
        Row("SAM-DETR with SMCA and DN", "sam-detr-smca-dn"),
        Row("Conditional DETR", "conditional-detr"),
        Row("Conditional DETR, twice the epochs", "conditional-detr-twice"),
        Row("DETR, focal loss", "detr"),
        Row("DETR", "transformers-detr"),
        Row("DAB-DETR", "dab-detr"),
        Row("Deformable DETR", "deformable-detr"),
        Row("SAM-DETR, the set's boxes", "sam-detr-set-boxes"),
        Row("SAM-DETR with SMCA, the set's boxes", "sam-detr-smca-set-boxes"),
        Row("Deformable DETR, the set's boxes", "deformable-detr-set-boxes"),
        Row("SAM-DETR with SMCA, the set's boxes, 7 epochs", "sam-detr-smca-set-boxes-short"),
        Row("SAM-DETR with SMCA and DN of one group, the set's boxes", "sam-detr-smca-dn-1-set-boxes"),
        Row("SAM-DETR with SMCA and DN of one group, the set's boxes, 6 epochs", "sam-detr-smca-dn-1-set-boxes-short"),
    ),
    in_short=(
        "sam-detr",
        "sam-detr-smca-dn",
        "sam-detr-smca-dn-1-set-boxes",
        "sam-detr-smca-dn-1-set-boxes-short",
        "conditional-detr-twice",
        "dab-detr",
        "deformable-detr",
    ),
)
_SINGLE = (
    Row("Faster R-CNN", "faster-rcnn", "faster-rcnn-r50-12e", _ap(35.7, 56.1, 38.0)),
    Row("DETR, more queries, focal loss", "detr", "detr-r50-12e", _ap(22.3, 39.5, 22.2)),
    Row("Deformable DETR", "deformable-detr", "deformable-detr-r50-12e", _ap(31.8, 51.4, 33.5)),
    Row("Conditional DETR", "conditional-detr", "conditional-detr-r50-12e", _ap(32.2, 52.1, 33.4)),
    Row("DAB-DETR (published with dilation)", "dab-detr", "dab-detr-r50-dc5-12e", _ap(38.0, 60.3, 39.8)),
    Row("SAM-DETR", "sam-detr", "sam-detr-r50-12e", _ap(34.2, 55.8, 35.3)),
    Row("SAM-DETR with SMCA", "sam-detr-smca", "sam-detr-r50-smca-12e", _ap(37.0, 58.0, 38.5)),
    Row("SAM-DETR with DN (published with dilation)", "sam-detr-dn", "sam-detr-r50-dc5-dn-12e", _ap(42.3, 61.7, 45.2)),
    Row(
        "SAM-DETR with SMCA and DN (published with dilation)",
        "sam-detr-smca-dn",
        "sam-detr-r50-dc5-smca-dn-12e",
        _ap(43.7, 63.0, 46.8),
    ),
)
TABLE1 = Suite(
    "table1",
    "Table 1: 12 epochs, beside other detectors",
    "How do several scales compare with other detectors (Table 1)?",
    ("cards", "bccd"),
    (
        *_SINGLE,
        Row("Faster R-CNN, several scales", "faster-rcnn-fpn", "faster-rcnn-r50-fpn-12e", _ap(37.9, 58.8, 41.1)),
        Row(
            "Deformable DETR, several scales",
            "deformable-detr-multi-scale",
            "deformable-detr-pp-r50-12e",
            _ap(37.2, 55.5, 40.5),
        ),
        Row("SAM-DETR++", "sam-detr-pp", "sam-detr-pp-r50-12e", _ap(41.9, 60.5, 45.3)),
        Row("SAM-DETR++ with SMCA", "sam-detr-pp-smca", "sam-detr-pp-r50-smca-12e", _ap(43.2, 61.5, 46.5)),
        Row("SAM-DETR++ with SMCA and DN", "sam-detr-pp-smca-dn", "sam-detr-pp-r50-smca-dn-12e", _ap(44.8, 62.6, 47.9)),
    ),
)
TABLE2 = Suite(
    "table2",
    "Table 2: longer schedules",
    None,
    ("cards-long", "bccd-long"),
    (
        # of the published ones Faster R-CNN has 108 epochs and DETR 500, the others 50
        Row("Faster R-CNN, several scales", "faster-rcnn-fpn", None, _ap(42.0, 62.1, 45.5)),
        Row("DETR", "transformers-detr", None, _ap(42.0, 62.4, 44.2)),
        Row("DETR, more queries, focal loss", "detr", "detr-r50-50e", _ap(34.9, 55.5, 36.0)),
        Row("Deformable DETR, several scales", "deformable-detr-multi-scale", None, _ap(43.8, 62.6, 47.7)),
        Row("Conditional DETR", "conditional-detr", "conditional-detr-r50-50e", _ap(40.9, 61.8, 43.3)),
        Row("DAB-DETR", "dab-detr", "dab-detr-r50-50e", _ap(42.2, 63.1, 44.7)),
        Row("SAM-DETR++", "sam-detr-pp", "sam-detr-pp-r50-50e", _ap(47.5, 66.5, 51.3)),
        Row("SAM-DETR++ with SMCA", "sam-detr-pp-smca", "sam-detr-pp-r50-smca-50e", _ap(48.0, 66.6, 52.2)),
        Row("SAM-DETR++ with SMCA and DN", "sam-detr-pp-smca-dn", "sam-detr-pp-r50-smca-dn-50e", _ap(49.1, 67.2, 53.2)),
    ),
)

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (REAL, TABLE1, TABLE2, TABLE3, SCALES, TABLE4, TABLE5, FIGURE6, FIGURE7, ADDITIONS)
}
"""All suites by name."""
