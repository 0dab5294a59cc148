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
    """

    name: str
    title: str
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    metric: str = "AP"


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
        Row("several scales, no aligner", "detr-multi-scale", "detr-pp-r50-12e", _ap(29.1, 53.2, 28.6)),
        Row("several scales (SAM-DETR++)", "sam-detr-pp", "sam-detr-pp-r50-12e", _ap(41.9, 60.5, 45.3)),
    ),
)
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

SUITES: dict[str, Suite] = {suite.name: suite for suite in (TABLE3, TABLE4, TABLE5, FIGURE7, ADDITIONS)}
"""All suites by name."""
