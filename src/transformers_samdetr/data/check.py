"""Checks of a data set: a fast one that training runs by itself, and a full one that reads every picture."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from datasets import Dataset, IterableDataset

from .annotation_table import AnnotationTable, check_annotations
from .detection_data import DetectionData
from .findings import Findings, Severity
from .hub_set import AnySet
from .picture_checks import PictureFacts, check_duplicates, check_pictures, look_at_pictures

SAMPLE = 24
"""Pictures of each split that the fast check reads."""
STREAM_SAMPLE = 200
"""Pictures at the start of a stream whose annotations the fast check looks at."""


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
