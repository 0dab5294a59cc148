"""The paper's claims as differences between two detectors, and the verdict of the measurements on each."""

from dataclasses import dataclass

from .results import Comparison, Estimate, RowRuns, nearly_best, paired_difference

HOLDS, NOT_SHOWN, CONTRADICTED, NOT_MEASURED = (
    "holds",
    "does not show at this scale",
    "contradicted",
    "not yet measured",
)


@dataclass(frozen=True)
class Claim:
    """One detector is better than another, or equally good.

    Attributes:
        suite: in which both have a row.
        text: the claim in words; None for a pair of detectors that is compared by several measures.
        better, worse: the variants.
        published: the paper's difference in points of the metric, or None.
        measure: `"final"`, the suite's metric after the last epoch; `"epochs"` or `"time"`, the mean AP over the epochs
            or over equal training time; `"half"`, that the better one reaches 90 % of the best final AP of the two in
            at most half of the other's epochs (the difference is in epochs).
        margin: 0 claims that one is better; above 0 claims that both differ by at most this many points.
    """

    suite: str
    text: str | None
    better: str
    worse: str
    published: float | None = None
    measure: str = "final"
    margin: float = 0.0


@dataclass(frozen=True)
class Finding:
    """The measurement of a claim.

    Attributes:
        claim: see there.
        difference: better minus worse over paired seeds, in points; None without pairs.
        verdict: `HOLDS` or `CONTRADICTED` where the whole interval says so, else `NOT_SHOWN`; `NOT_MEASURED` with fewer
            than two pairs, whose spread is unknown.
    """

    claim: Claim
    difference: Estimate | None
    verdict: str


def judge(claim: Claim, comparison: Comparison) -> Finding:
    """Compares the two variants over the seeds that both have."""
    rows = [comparison.of(variant) for variant in (claim.better, claim.worse)]
    if None in rows or not all(row.entries for row in rows):
        return Finding(claim, None, NOT_MEASURED)
    if claim.measure == "final":
        values = [row.final(comparison.suite.metric) for row in rows]
    elif claim.measure == "half":
        return _judge_half(claim, *rows)
    elif claim.measure == "epochs":
        values = [row.area_by_epoch() for row in rows]
    else:
        end = min(row.clock(seed)[-1] for row in rows for seed in row.entries)
        values = [row.area_by_time(end) for row in rows]
    difference = paired_difference(*values)
    return Finding(claim, difference, verdict(difference, claim.margin))


def _judge_half(claim: Claim, better: RowRuns, worse: RowRuns) -> Finding:
    """Compares half of the other's epochs to the level with the better one's; the level is of these two alone.

    If the other never reaches the level, its last epoch counts, which favours it: that can show that the claim holds,
    but not contradict it.
    """
    level = nearly_best([better, worse])
    if level is None or None in (own := better.epochs_to(level)).values():
        return Finding(claim, None, NOT_SHOWN)
    others = worse.epochs_to(level)
    half = {seed: (epochs or len(worse.curve(seed))) / 2 for seed, epochs in others.items()}
    difference = paired_difference(half, own)
    found = verdict(difference)
    if found == CONTRADICTED and None in others.values():
        found = NOT_SHOWN
    return Finding(claim, difference, found)


def verdict(difference: Estimate | None, margin: float = 0.0) -> str:
    """The verdict of an interval on `difference > 0`, or with a margin on `|difference| <= margin`.

    >>> verdict(Estimate(2.0, 1.0, 3.0, 3)), verdict(Estimate(2.0, -1.0, 5.0, 3)), verdict(Estimate(2.0, None, None, 1))
    ('holds', 'does not show at this scale', 'not yet measured')
    >>> verdict(Estimate(0.5, -1.0, 2.0, 3), margin=2.5), verdict(Estimate(-4.0, -5.0, -3.0, 3), margin=2.5)
    ('holds', 'contradicted')
    """
    if difference is None or difference.low is None:
        return NOT_MEASURED
    low, high = difference.low, difference.high
    if margin:
        if -margin <= low and high <= margin:
            return HOLDS
        return CONTRADICTED if low > margin or high < -margin else NOT_SHOWN
    return HOLDS if low > 0 else CONTRADICTED if high < 0 else NOT_SHOWN


_RELATIVES = {
    "conditional-detr": 2.0,
    "detr": 11.9,
    "transformers-detr": None,
    "dab-detr": None,
    "deformable-detr": 2.4,
}
"""Differences in final AP in Table 1 (single scale), where both have a row with the same backbone."""


def _convergence() -> tuple[Claim, ...]:
    """SAM-DETR against each single-scale detector: at the end, over the epochs, and over training time."""
    # the strongest of them against the paper's stronger models of one scale, too; with DN it has another backbone there
    strongest, strongest_from_set = "deformable-detr", "deformable-detr-set-boxes"
    everywhere, without_epochs = ("final", "epochs", "time"), ("final", "time")
    pairs = [
        *(("sam-detr", other, published, everywhere) for other, published in _RELATIVES.items()),
        ("sam-detr-smca", strongest, 5.2, everywhere),
        ("sam-detr-smca-dn", strongest, None, everywhere),
        *(("sam-detr-set-boxes", other, None, everywhere) for other in ("conditional-detr", "dab-detr")),
        *(("sam-detr-smca-dn-1-set-boxes", other, None, everywhere) for other in _RELATIVES if other != strongest),
        *(
            (ours, other, None, everywhere)
            for ours in ("sam-detr-set-boxes", "sam-detr-smca-set-boxes", "sam-detr-smca-dn-1-set-boxes")
            for other in (strongest, strongest_from_set)
        ),
        # of another number of epochs
        ("sam-detr-smca-set-boxes-short", strongest, None, without_epochs),
        *(("sam-detr-smca-dn-1-set-boxes-short", other, None, without_epochs) for other in _RELATIVES),
        ("sam-detr", "conditional-detr-twice", None, without_epochs),
        # what the set's boxes gain
        ("sam-detr-set-boxes", "sam-detr", None, everywhere),
        ("sam-detr-smca-set-boxes", "sam-detr-smca", None, everywhere),
    ]
    half = [
        (
            f"{label} needs at most half of the epochs of {other} to 90 % of the best AP (difference in epochs)",
            ours,
            theirs,
        )
        for label, ours in (
            ("SAM-DETR", "sam-detr"),
            ("SAM-DETR from the set's boxes", "sam-detr-set-boxes"),
            ("SAM-DETR with SMCA and DN of one group from them", "sam-detr-smca-dn-1-set-boxes"),
        )
        for other, theirs in (
            ("Conditional DETR", "conditional-detr"),
            ("Conditional DETR with twice the epochs", "conditional-detr-twice"),
        )
    ]
    return (
        *(
            Claim("real", None, ours, other, published if measure == "final" else None, measure)
            for ours, other, published, measures in pairs
            for measure in measures
        ),
        *(Claim("real", *claim, None, "half") for claim in half),
    )


CLAIMS: tuple[Claim, ...] = (
    *_convergence(),
    Claim("table1", "SAM-DETR++ is above Deformable DETR", "sam-detr-pp", "deformable-detr-multi-scale", 4.7),
    Claim("table1", "SAM-DETR++ is above Faster R-CNN", "sam-detr-pp", "faster-rcnn-fpn", 4.0),
    Claim("table1", "SMCA adds to the aligner", "sam-detr-smca", "sam-detr", 2.8),
    Claim("table2", "SAM-DETR++ is above Deformable DETR", "sam-detr-pp", "deformable-detr-multi-scale", 3.7),
    Claim("table3", "Average pooling is better than no aligner", "average", "detr", 2.9),
    Claim("table3", "Max pooling is better than average pooling", "max", "average", 1.8),
    Claim("table3", "One salient point is better than max pooling", "keypoint-1", "max", 1.6),
    Claim("table3", "Eight salient points are better than one", "keypoints-8", "keypoint-1", 1.7),
    Claim("table3", "Eight salient points are better than max pooling", "keypoints-8", "max", 3.3),
    Claim("table3", "Average pooling is better than no aligner, AP over epochs", "average", "detr", measure="epochs"),
    Claim("table3", "Max pooling is better than average pooling, AP over epochs", "max", "average", measure="epochs"),
    Claim(
        "table3",
        "Eight salient points are better than max pooling, AP over epochs",
        "keypoints-8",
        "max",
        measure="epochs",
    ),
    Claim("table3", "Reweighting by the previous queries helps", "keypoints-8-reweighted", "keypoints-8", 2.8),
    Claim("table3", "Removing dropout helps", "sam-detr", "keypoints-8-reweighted", 1.1),
    Claim("table3", "Several scales are better than their coarsest alone", "sam-detr-pp", "sam-detr-stride-32", 7.7),
    Claim("table3", "Several scales are better with the aligner than without", "sam-detr-pp", "detr-multi-scale", 12.8),
    Claim("scales", "Without an encoder, several scales are better than stride 16 alone", "sam-detr-pp", "sam-detr"),
    Claim(
        "scales",
        "With an encoder layer, several scales are better than stride 16 alone",
        "sam-detr-pp-encoder",
        "sam-detr-encoder",
        2.8,
    ),
    Claim(
        "table4",
        "Searching within the reference box is better than in the whole image",
        "keypoints-8-reweighted",
        "image-range",
        3.1,
    ),
    Claim(
        "table5",
        "Fixed boxes learned on another set are within 2 points of learned ones",
        "boxes-of-another-set",
        "sam-detr-pp-smca",
        -0.1,
        margin=2.0,
    ),
    Claim(
        "table5",
        "Fixed random boxes are within 2 points of learned ones",
        "boxes-at-random",
        "sam-detr-pp-smca",
        -0.3,
        margin=2.0,
    ),
    Claim("figure7", "Two salient points are better than one", "keypoints-2-reweighted", "keypoint-1-reweighted"),
    Claim("figure7", "Four are better than two", "keypoints-4-reweighted", "keypoints-2-reweighted"),
    Claim("figure7", "Eight are better than four", "keypoints-8-reweighted", "keypoints-4-reweighted"),
    Claim("figure7", "Eight are better than one", "keypoints-8-reweighted", "keypoint-1-reweighted", 1.1),
    Claim("additions", "SMCA adds to the aligner", "sam-detr-smca", "sam-detr", 2.8),
    Claim("additions", "DN adds to the aligner", "sam-detr-dn", "sam-detr", 3.2),
    Claim("additions", "DN adds to aligner and SMCA", "sam-detr-smca-dn", "sam-detr-smca", 2.4),
    Claim("figure6", "SAM-DETR learns faster than DETR", "sam-detr", "detr", measure="epochs"),
    Claim(
        "figure6",
        "SAM-DETR++ learns faster than SAM-DETR of its coarsest scale",
        "sam-detr-pp",
        "sam-detr-stride-32",
        measure="epochs",
    ),
    Claim(
        "figure6",
        "SAM-DETR++ learns faster than SAM-DETR of a finer scale",
        "sam-detr-pp",
        "sam-detr",
        measure="epochs",
    ),
)
"""In the order of the report. Differences for DN are those with dilation (Table 1)."""
