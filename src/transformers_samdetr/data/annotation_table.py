"""All annotations of a set as a few arrays, and what can be wrong with them without looking at a picture."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from .findings import Findings, Severity

SLACK_PIXELS = 2.0
"""Boxes may stick out of their picture by rounding."""
MANY = 0.05
"""Share of boxes from which on something odd is taken for a mistake of the whole set."""
FEW_OBJECTS = 10


@dataclass(frozen=True)
class AnnotationTable:
    """N pictures with T objects altogether.

    Attributes:
        image_ids: `(N,)`.
        sizes: `(N, 2)`, annotated width and height in pixels.
        rows: `(T,)`, the picture of each object.
        boxes: `(T, 4)`, x, y, width, height in pixels.
        labels: `(T,)`.
        crowd: `(T,)` bool.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    rows: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, data: Dataset) -> "AnnotationTable":
        """Reads a set in the schema of `detection_features`; no picture is touched."""
        parts: list[list[np.ndarray]] = []
        first = 0
        annotations = data.select_columns(["image_id", "width", "height", "objects"]).with_format("arrow")
        for batch in annotations.iter(batch_size=5000):
            objects = batch["objects"].combine_chunks()
            boxes = objects.field("bbox")
            counts = pc.list_value_length(boxes).to_numpy()
            numbers = boxes.flatten().flatten().to_numpy(zero_copy_only=False)
            parts.append(
                [
                    batch["image_id"].to_numpy(),
                    np.stack([batch["width"].to_numpy(), batch["height"].to_numpy()], axis=1),
                    np.repeat(np.arange(first, first + len(counts)), counts),
                    numbers.reshape(-1, 4).astype(np.float64),
                    objects.field("category").flatten().to_numpy(),
                    objects.field("iscrowd").flatten().to_numpy() > 0,
                ]
            )
            first += len(counts)
        if not parts:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, none.reshape(0, 2), none, np.zeros((0, 4)), none, none > 0)
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @property
    def objects_per_image(self) -> np.ndarray:
        """`(N,)`."""
        return np.bincount(self.rows, minlength=len(self.image_ids))


def check_annotations(
    tables: dict[str, AnnotationTable], names: list[str], findings: Findings, whole: bool = True
) -> None:
    """Adds what is wrong with the annotations alone.

    Args:
        tables: by split, `train` and `evaluation`.
        names: class names in the order of the labels.
        findings: what is found goes here.
        whole: whether these are all pictures; a sample does not tell which classes have no objects.
    """
    for split, table in tables.items():
        _check_boxes(split, table, names, findings)
        _check_pictures(split, table, findings)
    if whole:
        _check_classes(tables, names, findings)


def _check_boxes(split: str, table: AnnotationTable, names: list[str], findings: Findings) -> None:
    if not len(table.rows):
        findings.add(Severity.ERROR, f"{split}: no picture has an object, so there is nothing to learn or to find")
        return
    x, y, width, height = table.boxes.T
    right, bottom = table.sizes[table.rows].T
    finite = np.isfinite(table.boxes).all(1)
    negative = finite & ((width < 0) | (height < 0))
    empty = finite & ~negative & ((width == 0) | (height == 0))
    usable = finite & ~negative & ~empty & (right > 0) & (bottom > 0)
    outside = usable & ((x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0))
    beyond = np.maximum.reduce([-x, -y, x + width - right, y + height - bottom])
    cut = usable & ~outside & (beyond > SLACK_PIXELS)

    def share(rows: np.ndarray) -> Severity:
        return Severity.ERROR if rows.mean() > MANY else Severity.WARNING

    for rows, severity, message in (
        (~finite, Severity.ERROR, "boxes are not finite: correct them, or leave the objects out"),
        (
            negative,
            Severity.ERROR,
            "boxes have a negative width or height: were corners taken for sides? Declare --box_format",
        ),
        (empty, share(empty), "boxes have no area, and are left out in training"),
        (outside, share(outside), "boxes lie outside of their picture altogether: is the box format right?"),
        (cut, share(cut), f"boxes leave their picture by more than {SLACK_PIXELS:g} pixels, and are clipped"),
    ):
        _add_boxes(split, table, names, rows, severity, message, findings)
    keys = np.concatenate([table.rows[:, None], table.boxes, table.labels[:, None]], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    repeated = np.ones(len(keys), dtype=bool)
    repeated[first] = False
    _add_boxes(split, table, names, repeated, Severity.WARNING, "objects are annotated twice, box and class", findings)


def _add_boxes(
    split: str,
    table: AnnotationTable,
    names: list[str],
    chosen: np.ndarray,
    severity: Severity,
    message: str,
    findings: Findings,
) -> None:
    found = np.flatnonzero(chosen)
    if not len(found):
        return
    examples = [
        f"image {table.image_ids[table.rows[i]]}: {names[table.labels[i]]} "
        f"[{', '.join(f'{value:g}' for value in table.boxes[i])}] in "
        f"{table.sizes[table.rows[i]][0]}x{table.sizes[table.rows[i]][1]}"
        for i in found[:20]
    ]
    places = [(split, int(row)) for row in np.unique(table.rows[found])]
    findings.add(severity, f"{split}: {len(found)} of {len(table.rows)} {message}", examples, places)


def _check_pictures(split: str, table: AnnotationTable, findings: Findings) -> None:
    ids, counts = np.unique(table.image_ids, return_counts=True)
    if (counts > 1).any():
        repeated = ids[counts > 1]
        findings.add(
            Severity.ERROR,
            f"{split}: {len(repeated)} image ids occur more than once, and evaluation counts each id once: number anew",
            [f"id {image_id}" for image_id in repeated[:20]],
        )
    unsized = np.flatnonzero((table.sizes <= 0).any(1))
    if len(unsized):
        findings.add(
            Severity.ERROR if len(unsized) == len(table.image_ids) else Severity.WARNING,
            f"{split}: {len(unsized)} of {len(table.image_ids)} pictures have no size: their header is unreadable",
            [f"image {table.image_ids[row]}" for row in unsized[:20]],
            [(split, int(row)) for row in unsized],
        )
    without = int((table.objects_per_image == 0).sum())
    if without:
        findings.add(Severity.NOTE, f"{split}: {without} of {len(table.image_ids)} pictures have no objects")


def _check_classes(tables: dict[str, AnnotationTable], names: list[str], findings: Findings) -> None:
    train, evaluation = (np.bincount(tables[split].labels, minlength=len(names)) for split in ("train", "evaluation"))
    unseen = [names[label] for label in np.flatnonzero((train == 0) & (evaluation > 0))]
    if unseen:
        findings.add(Severity.WARNING, f"{len(unseen)} classes are evaluated but have no training object", unseen)
    unused = [names[label] for label in np.flatnonzero((train == 0) & (evaluation == 0))]
    if unused:
        findings.add(Severity.NOTE, f"{len(unused)} of {len(names)} classes have no object at all", unused)
    few = [f"{names[label]} {train[label]}" for label in np.flatnonzero((train > 0) & (train < FEW_OBJECTS))]
    if few:
        findings.add(Severity.NOTE, f"{len(few)} classes have fewer than {FEW_OBJECTS} training objects", few)
