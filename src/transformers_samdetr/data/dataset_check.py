"""Checks of a data set: a fast one that training runs by itself, and a full one that reads every picture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset
from hotcoco.primitives import bbox_iou
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..pictures import UnreadablePictureError, read_picture
from .box_formats import SLACK_PIXELS
from .dataset import NO_PICTURE, undecoded
from .load import DetectionData
from .picture_facts import (
    MOST_COMPARED,
    VERY_SIMILAR,
    PictureFacts,
    Place,
    largest_difference,
    look_at_pictures,
    similar_pairs,
)
from .schema import AnySet

SHOWN = 5
SAMPLE = 24
"""Pictures of each split that the fast check reads."""
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
    """One kind of thing that was found: what, how often, and what to do; a few pictures' names, splits and rows."""

    severity: Severity
    message: str
    examples: Sequence[str] = ()
    places: Sequence[Place] = ()

    def __str__(self) -> str:
        more = ", …" if len(self.examples) > SHOWN else ""
        listing = f" ({'; '.join(self.examples[:SHOWN])}{more})" if self.examples else ""
        return f"{self.severity.name.lower()}: {self.message}{listing}"


@dataclass
class Findings:
    """Findings, the worst first."""

    all: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, message: str, examples: Sequence[str] = (), places: Sequence[Place] = ()) -> None:
        """Adds one, which stays behind others as severe."""
        self.all.append(Finding(severity, message, examples, places))
        self.all.sort(key=lambda finding: -finding.severity)

    def of(self, severity: Severity) -> list[Finding]:
        """Those of one severity."""
        return [finding for finding in self.all if finding.severity == severity]

    def raise_errors(self, source: str) -> None:
        """Raises a ValueError that lists all errors, if there are any."""
        errors = self.of(Severity.ERROR)
        if errors:
            listing = "\n".join(f"  {error}" for error in errors)
            problem = f"{source} cannot be trained on as it is:\n{listing}"
            raise ValueError(f"{problem}\nsamdetr-check --report shows it with pictures.")

    def __str__(self) -> str:
        return "\n".join(map(str, self.all)) or "Nothing was found."


class AnnotationTable(NamedTuple):
    """N pictures with T objects altogether."""

    image_ids: np.ndarray  # (N,)
    sizes: np.ndarray  # (N, 2), annotated width and height in pixels
    rows: np.ndarray  # (T,), the picture of each object
    boxes: np.ndarray  # (T, 4), x, y, width, height in pixels
    labels: np.ndarray  # (T,)
    crowd: np.ndarray  # (T,) bool

    @classmethod
    def of(cls, data: Dataset) -> "AnnotationTable":
        """Reads a set in the schema of `detection_features`; no picture is touched."""
        columns = data.select_columns(["image_id", "width", "height", "objects"]).with_format("arrow")[:]
        objects = columns["objects"]
        objects = objects.chunk(0) if objects.num_chunks == 1 else objects.combine_chunks()  # the latter copies
        counts = np.diff(objects.field("bbox").offsets.to_numpy())
        boxes = objects.field("bbox").flatten().flatten().to_numpy(zero_copy_only=False)
        return cls(
            columns["image_id"].to_numpy(),
            np.stack([columns["width"].to_numpy(), columns["height"].to_numpy()], axis=1),
            np.repeat(np.arange(len(counts)), counts),
            boxes.reshape(-1, 4),
            objects.field("category").flatten().to_numpy(),
            objects.field("iscrowd").flatten().to_numpy() > 0,
        )

    @property
    def objects_per_image(self) -> np.ndarray:
        """`(N,)`."""
        return np.bincount(self.rows, minlength=len(self.image_ids))


Tables = dict[str, AnnotationTable]  # by split
Facts = dict[str, dict[int, PictureFacts]]  # by split and row


def _check_annotations(tables: Tables, names: list[str], findings: Findings, whole: bool) -> None:
    """What is wrong with the annotations alone; a sample (not `whole`) does not tell which classes have no objects."""
    for split, table in tables.items():
        _check_boxes(split, table, names, findings)
        ids, counts = np.unique(table.image_ids, return_counts=True)
        repeated, count = ids[counts > 1], len(table.image_ids)
        if len(repeated):
            message = "image ids occur more than once, and evaluation counts each id once: number anew"
            examples = [f"id {image_id}" for image_id in repeated[:20]]
            findings.add(Severity.ERROR, f"{split}: {len(repeated)} {message}", examples)
        unsized = np.flatnonzero((table.sizes <= 0).any(1))
        if len(unsized):
            severity = Severity.ERROR if len(unsized) == count else Severity.WARNING
            message = f"{split}: {len(unsized)} of {count} pictures have no size: their header is unreadable"
            examples = [f"image {table.image_ids[row]}" for row in unsized[:20]]
            findings.add(severity, message, examples, [(split, int(row)) for row in unsized])
        without = int((table.objects_per_image == 0).sum())
        if without:
            findings.add(Severity.NOTE, f"{split}: {without} of {count} pictures have no objects")
    train, evaluation = (np.bincount(tables[split].labels, minlength=len(names)) for split in ("train", "evaluation"))
    for severity, chosen, message in (
        (Severity.WARNING, (train == 0) & (evaluation > 0), "are evaluated but have no training object"),
        (Severity.NOTE, (train == 0) & (evaluation == 0), "have no object at all"),
        (Severity.NOTE, (train > 0) & (train < FEW_OBJECTS), f"have fewer than {FEW_OBJECTS} training objects"),
    ):
        found = [names[label] + f" {train[label]}" * bool(train[label]) for label in np.flatnonzero(chosen)]
        if found and whole:
            findings.add(severity, f"{len(found)} of {len(names)} classes {message}", found)


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
    beyond = np.maximum(np.maximum(-x, x + width - right), np.maximum(-y, y + height - bottom))
    cut = usable & ~outside & (beyond > SLACK_PIXELS)
    shares = usable & ~outside & (x + width <= 1.5) & (y + height <= 1.5)
    shares &= shares.mean() > 0.5
    keys = [table.rows, *table.boxes.T, table.labels]
    order = np.lexsort(keys)  # stable, so that the first of equal ones stays first
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:]] = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    for chosen, limit, message in (
        (~finite, 0, "boxes are not finite: correct them, or leave the objects out"),
        (negative, 0, "boxes have a negative width or height: were corners taken for sides? Declare --box_format"),
        (empty, MANY, "boxes have no area, and are left out in training"),
        (outside, MANY, "boxes lie outside of their picture altogether: is the box format right?"),
        (shares, MANY, "boxes are of a pixel or less: are they shares of the picture? Declare --box_format"),
        (cut, MANY, f"boxes leave their picture by more than {SLACK_PIXELS:g} pixels, and are clipped"),
        (repeated, 1, "objects are annotated twice, box and class"),
    ):
        found = np.flatnonzero(chosen)
        if len(found):
            examples = []
            for i in found[:20]:
                row, box = table.rows[i], ", ".join(f"{value:g}" for value in table.boxes[i])
                sides = "{}x{}".format(*table.sizes[row])
                examples.append(f"image {table.image_ids[row]}: {names[table.labels[i]]} [{box}] in {sides}")
            places = [(split, int(row)) for row in np.unique(table.rows[found[:1000]])]
            severity = Severity.ERROR if len(found) > limit * len(table.rows) else Severity.WARNING
            findings.add(severity, f"{split}: {len(found)} of {len(table.rows)} {message}", examples, places)


def _check_pictures(
    split: str, sizes: np.ndarray, facts: dict[int, PictureFacts], findings: Findings, whole: bool
) -> None:
    """What is wrong with single pictures, all or (not `whole`) some, of which unreadable ones are only a warning."""
    unreadable, rotated, wrong, unsure = {}, {}, {}, {}  # what to say of each row
    for row, fact in facts.items():
        annotated, displayed = tuple(sizes[row].tolist()), fact.displayed_size
        sides = f"annotated {annotated[0]}x{annotated[1]}, displayed {displayed[0]}x{displayed[1]}"
        if fact.error is not None:
            unreadable[row] = fact.error
        elif annotated != displayed:
            (rotated if annotated == fact.stored_size else wrong)[row] = sides
        elif fact.orientation == 3 or fact.orientation not in (0, 1) and displayed[0] == displayed[1]:
            unsure[row] = f"orientation {fact.orientation}"
    problems = {
        "cannot be read: repair them, or remove them": unreadable,
        "were annotated without their EXIF rotation, so that boxes lie elsewhere: remove the tag, and they are shown "
        "as annotated (exiftool -Orientation= FILE)": rotated,
        "are of another size than annotated: scale the boxes, or use the pictures that were annotated": wrong,
        "are turned by EXIF, and their size does not tell whether the boxes are too: look at them": unsure,
    }
    for message, found in problems.items():
        if found:
            is_warning = found is unsure or found is unreadable and not whole and len(found) < len(facts)
            looked_at = f"{split}: {len(found)} of {len(facts)} pictures{'' if whole else ' looked at'}"
            examples = [f"{facts[row].name}: {text}" for row, text in list(found.items())[:20]]
            severity = Severity.WARNING if is_warning else Severity.ERROR
            findings.add(severity, f"{looked_at} {message}", examples, [(split, row) for row in found])


def _check_duplicates(data: DetectionData, tables: Tables, facts: Facts, findings: Findings) -> None:
    """Pictures with the same pixels, an error in both splits, or that look the same, a warning with its certainty."""
    stored = {split: undecoded(of_split.select_columns(["image"])) for split, of_split in splits(data).items()}
    by_place = {(split, row): fact for split, of_split in facts.items() for row, fact in of_split.items()}
    first, equal = {}, []
    for place, fact in by_place.items():
        if fact.error is None and first.setdefault(fact.digest, place) != place:
            equal.append((first[fact.digest], place))
    alike: dict[tuple[Place, Place], float] = {}
    candidates = [
        (one, other)
        for distance, one, other in similar_pairs({place: by_place[place] for place in first.values()})
        if distance <= VERY_SIMILAR or _agreement(tables, one, other) >= 0.5
    ]
    for pair in candidates[:MOST_COMPARED]:
        pictures = [stored[split][row]["image"] or NO_PICTURE for split, row in pair]
        contents = [one["path"] if one["bytes"] is None else one["bytes"] for one in pictures]
        try:
            difference = largest_difference(*contents, [_shares(tables, place)[0] for place in pair])
            if difference == 0 and np.array_equal(*(np.asarray(read_picture(c, "").convert("RGB")) for c in contents)):
                equal.append(pair)
            elif difference < 1:
                alike[pair] = difference
        except (UnreadablePictureError, OSError):  # only its header and a part of its pixels were read before
            continue
    if len(candidates) > MOST_COMPARED:
        similar = f"{len(candidates)} pairs of similar pictures, as a fixed camera takes them"
        findings.add(Severity.NOTE, f"of {similar}, the {MOST_COMPARED} most similar were compared")

    def trained(groups: list[list[Place]], one: str, many: str) -> str:
        count = sum(split == "train" for group in groups for split, _ in group)
        return f"{count} of the training pictures {one if count == 1 else many}"

    across, within = _groups(equal)
    pictures, groups = sum(map(len, within)), f"{len(within)} group{'s' * (len(within) != 1)}"
    leaks = f"{trained(across, 'is', 'are')} evaluated too, which makes AP too high: keep each on one side"
    kinds = [
        (Severity.ERROR, across, leaks),
        (Severity.WARNING, within, f"{pictures} pictures of one split are the same as another, in {groups}"),
    ]
    largest: dict[Place, float] = {}
    for pair, difference in alike.items():
        largest |= {place: max(difference, largest.get(place, 0)) for place in pair}
    across, within = _groups(list(alike))
    looks = trained(across, "looks", "look")
    for groups, message in (
        (across, f"{looks} the same as one that is evaluated (so that AP may be too high)"),
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
    places = sorted({place for pair in pairs for place in pair}, key=lambda place: (place[0] != "train", place[1]))
    index = {place: i for i, place in enumerate(places)}
    ends = np.array([[index[place] for place in pair] for pair in pairs], dtype=int).reshape(-1, 2)
    links = coo_array((np.ones(len(ends)), ends.T), shape=(len(places), len(places)))
    groups: dict[int, list[Place]] = {}
    for place, group in zip(places, connected_components(links)[1] if places else (), strict=True):
        groups.setdefault(group, []).append(place)
    mixed = [group for group in groups.values() if group[0][0] != group[-1][0]]
    return mixed, [group for group in groups.values() if group[0][0] == group[-1][0]]


def _shares(tables: Tables, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """`(T, 4)` boxes of a picture that are finite, (x, y, width, height) as shares of it, and `(T,)` their labels."""
    table, row = tables[place[0]], place[1]
    objects = slice(*np.searchsorted(table.rows, (row, row + 1)))
    boxes = table.boxes[objects] / np.tile(np.maximum(table.sizes[row], 1), 2)
    return boxes[np.isfinite(boxes).all(1)], table.labels[objects][np.isfinite(boxes).all(1)]


def _agreement(tables: Tables, one: Place, other: Place) -> float:
    """Share of the objects of two pictures that are in both: of one class, with an IoU of at least 0.5."""
    (boxes, labels), (other_boxes, other_labels) = _shares(tables, one), _shares(tables, other)
    if not len(labels) or not len(other_labels):
        return float(len(labels) == len(other_labels))
    iou = bbox_iou(boxes, other_boxes, np.zeros(len(other_boxes), dtype=bool))
    same = (iou >= 0.5) & (labels[:, None] == other_labels)
    return float(min(same.any(0).sum(), same.any(1).sum()) / max(same.shape))


def quick_check(data: DetectionData) -> Findings:
    """All annotations, and a few pictures from all over each split; seconds even for COCO. Of a stream its start."""
    findings, sets = Findings(), splits(data)
    streamed = [split for split in sets if isinstance(sets[split], IterableDataset)]
    for split in streamed:  # the first pictures, as files in memory
        sets[split] = Dataset.from_list(list(sets[split].take(200)), features=sets[split].features)
    if streamed:
        sizes = " and ".join(f"{len(sets[split])} of {split}" for split in streamed)
        message = f"streams: only the first pictures were checked, {sizes}; the others are while they are read"
        findings.add(Severity.NOTE, message)
    tables = {split: AnnotationTable.of(of_split) for split, of_split in sets.items()}
    _check_annotations(tables, data.names, findings, whole=not streamed)
    for split, table in tables.items():
        count = len(table.image_ids)
        rows = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int))
        _check_pictures(split, table.sizes, look_at_pictures(sets[split], rows), findings, whole=False)
    return findings


def full_check(data: DetectionData, progress: Callable[[Iterable], Iterable] = iter) -> tuple[Findings, Tables, Facts]:
    """Everything: each picture is read, and compared with all others; streams raise a ValueError.

    Returns what was found, the annotations, and what is known of each picture, by split and row. `progress` wraps the
    rows of a split, as tqdm does.
    """
    if isinstance(data.train, IterableDataset):
        raise ValueError("A stream cannot be checked as a whole: load the set without streaming.")
    findings, facts = Findings(), {}
    tables = {split: AnnotationTable.of(of_split) for split, of_split in splits(data).items()}
    _check_annotations(tables, data.names, findings, whole=True)
    for split, table in tables.items():
        facts[split] = look_at_pictures(splits(data)[split], range(len(table.image_ids)), progress)
        _check_pictures(split, table.sizes, facts[split], findings, whole=True)
    _check_duplicates(data, tables, facts, findings)
    return findings, tables, facts


def splits(data: DetectionData) -> dict[str, AnySet]:
    """The sets by the names that findings use."""
    return {"train": data.train, "evaluation": data.evaluation}
