"""Checks of a data set: a fast one that training runs by itself, and a full one that reads every picture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from .load import DetectionData
from .picture_facts import PictureFacts, fact_at, look_at_pictures, same_files, same_looks
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
                f"{source} cannot be trained on as it is:\n{listing}\nscripts/check_dataset.py shows all of it with "
                "pictures."
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
    looked_at = f"of {len(facts)} pictures{'' if whole else ' looked at'}"

    def add(rows: Sequence[int], severity: Severity, message: str, examples: Sequence[str]) -> None:
        if rows:
            findings.add(severity, f"{split}: {len(rows)} {looked_at} {message}", examples, [(split, r) for r in rows])

    unreadable = [row for row, fact in facts.items() if fact.error is not None]
    severe = whole or len(unreadable) == len(facts)
    add(
        unreadable,
        Severity.ERROR if severe else Severity.WARNING,
        "cannot be read: repair them, or remove them",
        [f"{facts[row].name}: {facts[row].error}" for row in unreadable[:20]],
    )
    readable = {row: fact for row, fact in facts.items() if fact.error is None}
    rotated, wrong, unsure = [], [], []
    for row, fact in readable.items():
        annotated = tuple(int(side) for side in sizes[row])
        if annotated == fact.displayed_size:
            if fact.orientation not in (0, 1) and fact.stored_size[0] == fact.stored_size[1] or fact.orientation == 3:
                unsure.append(row)
        elif annotated == fact.stored_size:
            rotated.append(row)
        else:
            wrong.append(row)

    def sides(row: int) -> str:
        (width, height), (shown_width, shown_height) = sizes[row], readable[row].displayed_size
        return f"{readable[row].name}: annotated {width}x{height}, displayed {shown_width}x{shown_height}"

    add(
        rotated,
        Severity.ERROR,
        "were annotated without their EXIF rotation, so that boxes lie elsewhere: remove the tag, and they are shown "
        "as annotated (exiftool -Orientation= FILE)",
        [sides(row) for row in rotated[:20]],
    )
    add(
        wrong,
        Severity.ERROR,
        "are of another size than annotated: scale the boxes, or use the pictures that were annotated",
        [sides(row) for row in wrong[:20]],
    )
    add(
        unsure,
        Severity.WARNING,
        "are turned by EXIF, and their size does not tell whether the boxes are too: look at them",
        [f"{readable[row].name}: orientation {readable[row].orientation}" for row in unsure[:20]],
    )


def check_duplicates(facts: dict[str, dict[int, PictureFacts]], findings: Findings) -> None:
    """Adds pictures that occur twice: within a split a warning, in both an error.

    The same is a file with the same content, or a picture that looks the same when small, such as one saved again.

    Args:
        facts: of all pictures of each split.
        findings: what is found goes here.
    """
    places = [(split, row) for split, of_split in facts.items() for row, fact in of_split.items() if not fact.error]
    pairs = same_files(places, facts) | same_looks(places, facts)
    for across, severity, message in (
        (True, Severity.ERROR, "training pictures are evaluated too, which makes AP too high: keep each on one side"),
        (False, Severity.WARNING, "pairs of pictures of one split are the same"),
    ):
        found = sorted(pair for pair in pairs if (pair[0][0] != pair[1][0]) == across)
        if found:
            examples = [f"{fact_at(facts, one).name} = {fact_at(facts, other).name}" for one, other in found[:20]]
            findings.add(severity, f"{len(found)} {message}", examples, [place for pair in found for place in pair])


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
    check_duplicates(facts, findings)
    return findings, tables, facts


def annotation_tables(data: DetectionData) -> dict[str, AnnotationTable]:
    """The annotations of both splits."""
    return {split: AnnotationTable.of(_split(data, split)) for split in ("train", "evaluation")}


def _split(data: DetectionData, split: str):
    return data.train if split == "train" else data.evaluation
