"""The paper's tables and figures as rows: what each is called there, which variant it is, and what was published.

AP of COCO val2017 in percent, as published; Table 5's is the AP at IoU 0.5 on Pascal VOC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


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
        title: as the report has it.
        settings: at small scale, names in `SETTINGS`.
        rows: from top to bottom.
        metric: the one that is compared.
        in_short: variants whose curves get a picture of their own, where there are too many to see the point.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    metric: str = "AP"
    in_short: tuple[str, ...] = ()


def _ap(AP: float, AP50: float, AP75: float) -> dict[str, float]:
    return {"AP": AP, "AP50": AP50, "AP75": AP75}


TABLE3 = Suite(
    "table3",
    "Table 3: the design, step by step",
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
    ("digits",),
    (
        Row("within the reference box", "keypoints-8-reweighted", "keypoints-8-rw-r50-12e", _ap(33.1, 54.2, 33.7)),
        Row("within the image", "image-range", "image-range-r50-12e", _ap(30.0, 52.3, 29.2)),
    ),
)
TABLE5 = Suite(
    "table5",
    "Table 5: reference boxes",
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
