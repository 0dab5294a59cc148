"""Checks of a data set: a fast one that training runs by itself, and a full one that reads every picture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import compress

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..pictures import UnreadablePictureError
from .dataset import stored_picture
from .load import DetectionData
from .picture_facts import (
    MOST_COMPARED,
    VERY_SIMILAR,
    PictureFacts,
    Place,
    equal_files,
    largest_difference,
    look_at_pictures,
    same_pixels,
    similar_pairs,
)
from .schema import AnySet

SHOWN = 5
SAMPLE = 24
"""Pictures of each split that the fast check reads."""
STREAM_SAMPLE = 200
"""Pictures at the start of a stream whose annotations the fast check looks at."""
SLACK_PIXELS = 2.0
"""Boxes may stick out of their picture by rounding."""
MANY = 0.05
"""Share of boxes from which on something odd is taken for a mistake of the whole set."""
FEW_OBJECTS = 10
MOST_PLACES = 1000
"""Objects whose pictures a finding keeps."""


class Severity(IntEnum):
    """An error makes training or its numbers wrong, a warning may, and a note is only good to know."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        severity: see `Severity`.
        message: what it is, how often, and what to do.
        examples: a few of them, with the picture's name.
        places: split and row of the pictures.
    """

    severity: Severity
    message: str
    examples: Sequence[str] = ()
    places: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        more = ", …" if len(self.examples) > SHOWN else ""
        listing = f" ({'; '.join(self.examples[:SHOWN])}{more})" if self.examples else ""
        return f"{self.severity.name.lower()}: {self.message}{listing}"


@dataclass
class Findings:
    """Findings, the worst first."""

    all: list[Finding] = field(default_factory=list)

    def add(
        self,
        severity: Severity,
        message: str,
        examples: Iterable[str] = (),
        places: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Adds one, which stays behind others as severe."""
        self.all.append(Finding(severity, message, list(examples), list(places)))
        self.all.sort(key=lambda finding: -finding.severity)

    def of(self, severity: Severity) -> list[Finding]:
        """Those of one severity."""
        return [finding for finding in self.all if finding.severity == severity]

    def raise_errors(self, source: str) -> None:
        """Raises a ValueError that lists all errors, if there are any."""
        errors = self.of(Severity.ERROR)
        if errors:
            listing = "\n".join(f"  {error}" for error in errors)
            raise ValueError(
                f"{source} cannot be trained on as it is:\n{listing}\nsamdetr-check --report shows it with pictures."
            )

    def __str__(self) -> str:
        return "\n".join(map(str, self.all)) or "Nothing was found."


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

    def objects_of(self, row: int) -> tuple[int, int]:
        """First object of a picture, and the end of its objects."""
        return tuple(np.searchsorted(self.rows, (row, row + 1)).tolist())

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
    train, evaluation = (np.bincount(tables[split].labels, minlength=len(names)) for split in ("train", "evaluation"))
    for severity, chosen, message in (
        (Severity.WARNING, (train == 0) & (evaluation > 0), "classes are evaluated but have no training object"),
        (Severity.NOTE, (train == 0) & (evaluation == 0), f"of {len(names)} classes have no object at all"),
        (
            Severity.NOTE,
            (train > 0) & (train < FEW_OBJECTS),
            f"classes have fewer than {FEW_OBJECTS} training objects",
        ),
    ):
        found = [names[label] + f" {train[label]}" * bool(train[label]) for label in np.flatnonzero(chosen)]
        if found and whole:
            findings.add(severity, f"{len(found)} {message}", found)


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
    keys = [table.rows, *table.boxes.T, table.labels]
    order = np.lexsort(keys)  # stable, so that the first of equal ones stays first
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:]] = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    for chosen, limit, message in (
        (~finite, 0, "boxes are not finite: correct them, or leave the objects out"),
        (negative, 0, "boxes have a negative width or height: were corners taken for sides? Declare --box_format"),
        (empty, MANY, "boxes have no area, and are left out in training"),
        (outside, MANY, "boxes lie outside of their picture altogether: is the box format right?"),
        (cut, MANY, f"boxes leave their picture by more than {SLACK_PIXELS:g} pixels, and are clipped"),
        (repeated, 1, "objects are annotated twice, box and class"),
    ):
        found = np.flatnonzero(chosen)
        if len(found):
            examples = [
                f"image {table.image_ids[table.rows[i]]}: {names[table.labels[i]]} "
                f"[{', '.join(f'{value:g}' for value in table.boxes[i])}] in "
                f"{table.sizes[table.rows[i]][0]}x{table.sizes[table.rows[i]][1]}"
                for i in found[:20]
            ]
            places = [(split, int(row)) for row in np.unique(table.rows[found[:MOST_PLACES]])]
            severity = Severity.ERROR if len(found) > limit * len(table.rows) else Severity.WARNING
            findings.add(severity, f"{split}: {len(found)} of {len(table.rows)} {message}", examples, places)


def _check_pictures(split: str, table: AnnotationTable, findings: Findings) -> None:
    ids, counts = np.unique(table.image_ids, return_counts=True)
    repeated, count = ids[counts > 1], len(table.image_ids)
    if len(repeated):
        findings.add(
            Severity.ERROR,
            f"{split}: {len(repeated)} image ids occur more than once, and evaluation counts each id once: number anew",
            [f"id {image_id}" for image_id in repeated[:20]],
        )
    unsized = np.flatnonzero((table.sizes <= 0).any(1))
    if len(unsized):
        findings.add(
            Severity.ERROR if len(unsized) == count else Severity.WARNING,
            f"{split}: {len(unsized)} of {count} pictures have no size: their header is unreadable",
            [f"image {table.image_ids[row]}" for row in unsized[:20]],
            [(split, int(row)) for row in unsized],
        )
    without = int((table.objects_per_image == 0).sum())
    if without:
        findings.add(Severity.NOTE, f"{split}: {without} of {count} pictures have no objects")


def check_pictures(
    split: str, sizes: np.ndarray, facts: dict[int, PictureFacts], whole: bool, findings: Findings
) -> None:
    """Adds what is wrong with single pictures.

    Args:
        split: `train` or `evaluation`.
        sizes: `(N, 2)`, annotated widths and heights.
        facts: of some or all pictures, by row.
        whole: whether all were looked at; otherwise some that are unreadable are only a warning.
        findings: what is found goes here.
    """
    unreadable = [row for row, fact in facts.items() if fact.error is not None]
    rotated, wrong, unsure = [], [], []
    for row, fact in facts.items():
        annotated = tuple(int(side) for side in sizes[row])
        if fact.error is not None:
            continue
        if annotated == fact.displayed_size:
            square = fact.stored_size[0] == fact.stored_size[1]
            if fact.orientation == 3 or fact.orientation not in (0, 1) and square:
                unsure.append(row)
        else:
            (rotated if annotated == fact.stored_size else wrong).append(row)

    def sides(row: int) -> str:
        (width, height), (shown_width, shown_height) = sizes[row], facts[row].displayed_size
        return f"annotated {width}x{height}, displayed {shown_width}x{shown_height}"

    severe = Severity.ERROR if whole or len(unreadable) == len(facts) else Severity.WARNING
    for rows, severity, message, example in (
        (unreadable, severe, "cannot be read: repair them, or remove them", lambda row: facts[row].error),
        (
            rotated,
            Severity.ERROR,
            "were annotated without their EXIF rotation, so that boxes lie elsewhere: remove the tag, and they are "
            "shown as annotated (exiftool -Orientation= FILE)",
            sides,
        ),
        (
            wrong,
            Severity.ERROR,
            "are of another size than annotated: scale the boxes, or use the pictures that were annotated",
            sides,
        ),
        (
            unsure,
            Severity.WARNING,
            "are turned by EXIF, and their size does not tell whether the boxes are too: look at them",
            lambda row: f"orientation {facts[row].orientation}",
        ),
    ):
        if rows:
            looked_at = f"{len(rows)} of {len(facts)} pictures{'' if whole else ' looked at'}"
            examples = [f"{facts[row].name}: {example(row)}" for row in rows[:20]]
            findings.add(severity, f"{split}: {looked_at} {message}", examples, [(split, row) for row in rows])


def check_duplicates(
    data: DetectionData,
    tables: dict[str, AnnotationTable],
    facts: dict[str, dict[int, PictureFacts]],
    findings: Findings,
) -> None:
    """Adds pictures that occur more than once: with the same pixels, or looking the same.

    The same pixels in both splits are an error. What looks the same, such as a picture saved again, is a warning with
    its certainty: a fixed camera takes many such pictures.

    Args:
        data: the set.
        tables, facts: of all pictures of each split.
        findings: what is found goes here.
    """
    by_place = {(split, row): fact for split, of_split in facts.items() for row, fact in of_split.items()}
    equal = [(group[0], other) for group in equal_files(by_place) for other in group[1:]]
    alike: dict[tuple[Place, Place], float] = {}
    candidates = [
        (one, other)
        for distance, one, other in similar_pairs(by_place)
        if distance <= VERY_SIMILAR or _agreement(tables, one, other) >= 0.5
    ]
    for one, other in candidates[:MOST_COMPARED]:
        contents = [_content(data, place) for place in (one, other)]
        try:
            difference = largest_difference(*contents, [_shares(tables, place) for place in (one, other)])
            if difference == 0 and same_pixels(*contents):
                equal.append((one, other))
            elif difference < 1:
                alike[one, other] = difference
        except (UnreadablePictureError, OSError):  # only its header and a part of its pixels were read before
            continue
    if len(candidates) > MOST_COMPARED:
        findings.add(
            Severity.NOTE,
            f"of {len(candidates)} pairs of similar pictures, as a fixed camera takes them, the {MOST_COMPARED} most "
            "similar were compared",
        )
    across, within = _groups(equal)
    trained = sum(split == "train" for group in across for split, _ in group)
    pictures, groups = sum(map(len, within)), f"{len(within)} group{'s' * (len(within) != 1)}"
    kinds = [
        (
            Severity.ERROR,
            across,
            f"{trained} of the training pictures {'is' if trained == 1 else 'are'} evaluated too, which makes AP too "
            "high: keep each on one side",
        ),
        (Severity.WARNING, within, f"{pictures} pictures of one split are the same as another, in {groups}"),
    ]
    largest: dict[Place, float] = {}
    for pair, difference in alike.items():
        largest |= {place: max(difference, largest.get(place, 0)) for place in pair}
    across, within = _groups(list(alike))
    trained = sum(split == "train" for group in across for split, _ in group)
    evaluated = f"of the training pictures {'looks' if trained == 1 else 'look'} the same as one that is evaluated"
    for groups, message in (
        (across, f"{trained} {evaluated} (so that AP may be too high)"),
        (within, f"{sum(map(len, within))} pictures of one split look the same as another"),
    ):
        lowest = min((min(99, round(100 * (1 - largest[place] / 2))) for group in groups for place in group), default=0)
        kinds.append((Severity.WARNING, groups, f"{message}, with a certainty of at least {lowest} %"))
    for severity, groups, message in kinds:
        if groups:
            examples = [" = ".join(by_place[place].name for place in group[:4]) for group in groups[:20]]
            findings.add(severity, message, examples, [place for group in groups for place in group])


def _groups(pairs: list[tuple[Place, Place]]) -> tuple[list[list[Place]], list[list[Place]]]:
    """Connected pictures, training first: groups with pictures of both splits, and groups of one split."""
    group_of: dict[Place, list[Place]] = {}
    for one, other in pairs:
        larger, smaller = sorted((group_of.setdefault(p, [p]) for p in (one, other)), key=len, reverse=True)
        if larger is not smaller:
            larger += smaller
            group_of.update(dict.fromkeys(smaller, larger))
    distinct = {id(group): group for group in group_of.values()}.values()
    groups = [sorted(group, key=_training_first) for group in distinct]
    groups.sort(key=lambda group: _training_first(group[0]))
    mixed = [len({split for split, _ in group}) > 1 for group in groups]
    return list(compress(groups, mixed)), [group for group, both in zip(groups, mixed, strict=True) if not both]


def _training_first(place: Place) -> tuple[bool, int]:
    return place[0] != "train", place[1]


def _content(data: DetectionData, place: Place) -> str | bytes:
    stored = stored_picture(_split(data, place[0]), place[1])
    return stored["path"] if stored["bytes"] is None else stored["bytes"]


def _shares(tables: dict[str, AnnotationTable], place: Place) -> np.ndarray:
    """`(T, 4)` boxes of a picture, (x, y, width, height) as shares of it."""
    table, (first, end) = tables[place[0]], tables[place[0]].objects_of(place[1])
    boxes = table.boxes[first:end] / np.tile(np.maximum(table.sizes[place[1]], 1), 2)
    return boxes[np.isfinite(boxes).all(1)]


def _agreement(tables: dict[str, AnnotationTable], one: Place, other: Place) -> float:
    """Share of the objects of two pictures that are in both: of one class, with an IoU of at least 0.5."""
    labels = [tables[split].labels[slice(*tables[split].objects_of(row))] for split, row in (one, other)]
    boxes = [_shares(tables, place) for place in (one, other)]
    if len(boxes[0]) != len(labels[0]) or len(boxes[1]) != len(labels[1]):
        return 0.0
    if not len(labels[0]) or not len(labels[1]):
        return float(len(labels[0]) == len(labels[1]))
    low = np.maximum(boxes[0][:, None, :2], boxes[1][None, :, :2])
    high = np.minimum((boxes[0][:, :2] + boxes[0][:, 2:])[:, None], (boxes[1][:, :2] + boxes[1][:, 2:])[None])
    common = (high - low).clip(0).prod(-1)
    union = boxes[0][:, 2:].prod(1)[:, None] + boxes[1][:, 2:].prod(1)[None] - common
    same = (2 * common >= union) & (union > 0) & (labels[0][:, None] == labels[1][None])
    return float(min(same.any(0).sum(), same.any(1).sum()) / max(same.shape))


def quick_check(data: DetectionData) -> Findings:
    """All annotations, and a few pictures from all over each split; seconds even for COCO. Of a stream its start.

    `quick_check(data).raise_errors(data.source)` stops before anything is lost.
    """
    findings = Findings()
    streamed = [split for split in ("train", "evaluation") if isinstance(_split(data, split), IterableDataset)]
    if streamed:
        data = replace(data, train=_start(data.train), evaluation=_start(data.evaluation))
        sizes = " and ".join(f"{len(_split(data, split))} of {split}" for split in streamed)
        findings.add(
            Severity.NOTE, f"streams: only the first pictures were checked, {sizes}; the others are while they are read"
        )
    tables = annotation_tables(data)
    check_annotations(tables, data.names, findings, whole=not streamed)
    for split, table in tables.items():
        count = len(table.image_ids)
        rows = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int)) if count else []
        facts = look_at_pictures(_split(data, split), rows)
        if facts:
            check_pictures(split, table.sizes, facts, whole=False, findings=findings)
    return findings


def _start(data: AnySet) -> Dataset:
    """The first pictures of a stream, as files in memory; other sets as they are."""
    if not isinstance(data, IterableDataset):
        return data
    return Dataset.from_list(list(data.take(STREAM_SAMPLE)), features=data.features)


def full_check(
    data: DetectionData, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[Findings, dict[str, AnnotationTable], dict[str, dict[int, PictureFacts]]]:
    """Everything: each picture is read, and compared with all others.

    Args:
        data: not a stream.
        progress: wraps the rows of a split, as tqdm does.

    Returns:
        What was found, the annotations, and what is known of each picture, by split and row.

    Raises:
        ValueError: the data are a stream.
    """
    if isinstance(data.train, IterableDataset):
        raise ValueError("A stream cannot be checked as a whole: load the set without streaming.")
    findings = Findings()
    tables = annotation_tables(data)
    check_annotations(tables, data.names, findings)
    facts = {}
    for split, table in tables.items():
        facts[split] = look_at_pictures(_split(data, split), range(len(table.image_ids)), progress)
        check_pictures(split, table.sizes, facts[split], whole=True, findings=findings)
    check_duplicates(data, tables, facts, findings)
    return findings, tables, facts


def annotation_tables(data: DetectionData) -> dict[str, AnnotationTable]:
    """The annotations of both splits."""
    return {split: AnnotationTable.of(_split(data, split)) for split in ("train", "evaluation")}


def _split(data: DetectionData, split: str):
    return data.train if split == "train" else data.evaluation
