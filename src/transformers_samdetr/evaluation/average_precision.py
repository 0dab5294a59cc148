"""Matches of all images to average precision: COCO's by COCOeval's own accumulation, VOC's by its definition."""

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from .errors import ERROR_KINDS, ErrorKinds
from .matching import AREAS, COCO_PARAMS, IGNORED, IOU_THRESHOLDS, MATCH_BITS

RECALLS = COCO_PARAMS.recThrs
"""`(R,)`: 0, 0.01, … 1, where COCO reads precision."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's numbers as fractions, -1 where there is nothing to find. K classes, A areas, M limits of detections.

    Attributes:
        stats: `(12,)`, those of `COCOeval.summarize`.
        precision: `(T, R, K, A, M)` at IoU thresholds and recalls.
        recall: `(T, K, A, M)`.
        scores: `(T, R, K, A, M)`, the score at which each precision is reached.
        voc: `(K,)` AP at IoU 0.5 by VOC's definition.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    voc: np.ndarray


def average_precision(
    found: np.ndarray, truth: np.ndarray, num_classes: int, max_detections: Sequence[int]
) -> AveragePrecision:
    """AP of the matches of all images.

    COCOeval sees each class by itself, all images put together as one, which gives it the arrays that it would have
    concatenated, and so the same numbers to the last bit.

    Args:
        found: `(N,)` of `DETECTION`, images in the order of their ids, which decides between equal scores.
        truth: of `OBJECT`.
        num_classes: K.
        max_detections: three limits of the detections of a class in an image, rising, COCOeval's `maxDets`.
    """
    shape = (len(IOU_THRESHOLDS), len(RECALLS), num_classes, AREAS, len(max_detections))
    precision, scores = -np.ones(shape), -np.ones(shape)
    recall = -np.ones((shape[0], *shape[2:]))
    voc = -np.ones(num_classes)
    for label, (of_class, objects) in enumerate(by_class(found, truth, num_classes)):
        matched, ignored = _unpack(of_class["matched"]), _unpack(of_class["ignored"])  # (A, T, N) each
        for limit, most in enumerate(max_detections):
            keep = of_class["rank"] < most
            areas = [
                (of_class["score"][keep], matched[area][:, keep], ignored[area][:, keep], objects["ignored"][:, area])
                for area in range(AREAS)
            ]
            curves = accumulate(areas)
            precision[:, :, label, :, limit] = curves["precision"][:, :, 0, :, 0]
            scores[:, :, label, :, limit] = curves["scores"][:, :, 0, :, 0]
            recall[:, label, :, limit] = curves["recall"][:, 0, :, 0]
        voc[label] = voc_average_precision(
            of_class["score"], of_class["voc"], np.count_nonzero(~objects["ignored"][:, 0])
        )
    return AveragePrecision(_summary(precision, recall), precision, recall, scores, voc)


def accumulate(areas: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """COCOeval's precision and recall of one class.

    Args:
        areas: for each area range scores `(N,)`, whether matched `(T, N)` and ignored `(T, N)`, and whether each object
            is ignored `(G,)`. Fewer area ranges or IoU thresholds than COCO's are its first.
    """
    evaluation = COCOeval(iouType="bbox")
    parameters = copy.deepcopy(COCO_PARAMS)
    parameters.imgIds, parameters.catIds = [0], [0]
    parameters.maxDets = [max(1, *(len(scores) for scores, *_ in areas))]
    parameters.areaRng = parameters.areaRng[: len(areas)]
    parameters.iouThrs = parameters.iouThrs[: len(areas[0][1])]
    evaluation.params = evaluation._paramsEval = parameters
    keys = ("dtScores", "dtMatches", "dtIgnore", "gtIgnore")
    evaluation.evalImgs = [dict(zip(keys, area, strict=True)) for area in areas]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval


def _summary(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    summary = COCOeval(iouType="bbox")
    # summarize() looks for the limits 1, 10 and 100 and gives -1 with others: it finds ours under these names
    summary.params.maxDets = [1, 10, 100]
    summary.eval = {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        summary.summarize()
    return summary.stats


def voc_average_precision(scores: np.ndarray, verdicts: np.ndarray, num_objects: int) -> float:
    """VOC's AP since 2010: the whole area below the precision that never rises with recall.

    Args:
        scores: `(N,)`.
        verdicts: `(N,)`, 1 right, 0 wrong; others are left out.
        num_objects: without crowd regions.

    >>> voc_average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), num_objects=2)
    0.8333333333333333
    """
    if num_objects == 0:
        return -1.0
    counted = verdicts != IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    right = verdicts[counted][order] == 1
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / num_objects)  # recall grows by 1 / num_objects at each right one


def gain_of_repairs(found: np.ndarray, truth: np.ndarray, num_classes: int) -> dict[ErrorKinds, float]:
    """How much AP50 would rise, as a fraction, were all errors of a kind repaired and the others left (TIDE's ΔAP).

    Wrong classes and places become right where the object had not been found; both, duplicates and background vanish;
    missed objects are no longer looked for. Absent classes are left out, as in COCO's mean.
    """
    present = np.unique(truth["label"][~truth["ignored"][:, 0]])
    if not len(present):
        return dict.fromkeys(ERROR_KINDS, 0.0)
    base = _mean_ap50(found, truth, present, num_classes)
    gains = {}
    for kind in ERROR_KINDS:
        repaired, objects = found, truth
        if kind == ErrorKinds.MISSED:
            objects = truth[~truth["missed"]]
        else:
            wrong = found["error"] == kind
            keep = ~wrong | (found["repaired_label"] >= 0)
            repaired = found[keep].copy()
            wrong = wrong[keep]
            repaired["label"][wrong] = repaired["repaired_label"][wrong]
            repaired["error"][wrong] = ErrorKinds.CORRECT
        gains[kind] = max(0.0, _mean_ap50(repaired, objects, present, num_classes) - base)
    return gains


def _mean_ap50(found: np.ndarray, truth: np.ndarray, present: np.ndarray, num_classes: int) -> float:
    values = np.zeros(num_classes)
    for label, (of_class, objects) in enumerate(by_class(found, truth, num_classes)):
        right, ignored = of_class["error"] == ErrorKinds.CORRECT, of_class["error"] == ErrorKinds.IGNORED
        curves = accumulate([(of_class["score"], right[None], ignored[None], objects["ignored"][:, 0])])
        # a class of which every object was missed has no one right: 0, not absent
        values[label] = max(0.0, curves["precision"][0, :, 0, 0, 0].mean())
    return float(values[present].mean())


def by_class(found: np.ndarray, truth: np.ndarray, num_classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Detections and objects of each class, in the order in which they came."""
    parts = []
    for rows in (found, truth):
        ordered = rows[np.argsort(rows["label"], kind="stable")]
        limits = np.searchsorted(ordered["label"], np.arange(num_classes + 1))
        parts.append([ordered[start:end] for start, end in zip(limits[:-1], limits[1:], strict=True)])
    return list(zip(*parts, strict=True))


def _unpack(packed: np.ndarray) -> np.ndarray:
    """`(A, T, N)` bool of `(N, bytes)`."""
    bits = np.unpackbits(packed, axis=1, count=MATCH_BITS)
    return bits.T.reshape(AREAS, len(IOU_THRESHOLDS), -1).astype(bool)
