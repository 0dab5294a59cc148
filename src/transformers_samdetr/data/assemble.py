"""From what a source holds to `DetectionData`: splits chosen, classes numbered, boxes in one format."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import IterableDataset

from .annotated_picture import (
    AnnotatedPicture,
    FolderContent,
    canonical_example,
    content_fingerprint,
    to_dataset,
)
from .columns import find_columns
from .detection_data import DetectionData
from .hub_set import AnySet, ClassNames, guess_box_format, has_integer_ids, read_categories, to_schema
from .schema import detection_features
from .splits import choose_splits, hold_out
from .stream_length import with_length


@dataclass(frozen=True)
class Wishes:
    """What the user asks of a source: names of splits, the box format, and the pictures of a stream."""

    train_split: str | None
    eval_split: str | None
    box_format: str | None
    stream_length: int | None = None


def from_folder(source: str, content: FolderContent, wishes: Wishes) -> DetectionData:
    """Data of a folder of pictures with annotation files."""
    _check_paths(picture for split in content.splits.values() for picture in split)
    notes = list(content.notes)
    train_name, eval_name = choose_splits(content.splits, wishes.train_split, wishes.eval_split, source)
    train = content.splits[train_name]
    if eval_name is None:
        keys = [Path(picture.image or "").name for picture in train]
        rows, held_out = hold_out(keys, source)
        notes.append(_held_out_note(len(held_out), len(train), [keys[row] for row in held_out]))
        splits = [[train[row] for row in rows], [train[row] for row in held_out]]
    else:
        splits = [train, content.splits[eval_name]]
    own_ids = all(isinstance(picture.image_id, int) for split in splits for picture in split)
    if not own_ids:
        notes.append("images are numbered, since their own ids are no integers")
    names = list(content.categories.values())
    box_format = wishes.box_format or content.box_format
    labels = {category_id: label for label, category_id in enumerate(content.categories)}
    features = detection_features(names)
    sets, first_id = [], 0
    for split in splits:
        examples = (
            {
                "image": {"path": picture.image, "bytes": None},
                **canonical_example(picture, picture.image_id if own_ids else first_id + row, labels, box_format),
            }
            for row, picture in enumerate(split)
        )
        sets.append(to_dataset(examples, features))
        first_id += len(split)
    return DetectionData(
        source=source,
        train=sets[0],
        evaluation=sets[1],
        names=names,
        category_ids=_integer_ids(list(content.categories)),
        box_format=box_format,
        fingerprint=content_fingerprint(*sets, names=names),
        notes=notes,
    )


def _check_paths(pictures: Iterable[AnnotatedPicture]) -> None:
    """Refuses names that a set cannot hold, because they are not UTF-8."""
    for picture in pictures:
        try:
            (picture.image or "").encode()
        except UnicodeEncodeError:
            raise ValueError(f"The name of {ascii(picture.image)} is not UTF-8: rename the file.") from None


def from_sets(
    source: str,
    sets: Mapping[str, AnySet],
    columns: Mapping[str, str] | None,
    class_names: ClassNames | None,
    wishes: Wishes,
) -> DetectionData:
    """Data of sets of the `datasets` library, map-style or streamed."""
    notes = []
    train_name, eval_name = choose_splits(sets, wishes.train_split, wishes.eval_split, source)
    train = sets[train_name]
    streaming = isinstance(train, IterableDataset)
    if train.features is None:
        train = train._resolve_features()  # the first examples of a stream tell
    if eval_name is None:
        if streaming:
            raise ValueError(
                f"{source} has no split for evaluation, and none can be held out of a stream: name one with eval_split "
                "(--eval_split), or load the set without streaming."
            )
        rows, held_out = hold_out(range(len(train)), source)
        notes.append(_held_out_note(len(held_out), len(train), []))
        splits = [train.select(rows), train.select(held_out)]
    else:
        evaluation = sets[eval_name]
        splits = [train, evaluation._resolve_features() if evaluation.features is None else evaluation]
    found = find_columns(splits[0].features, columns, source)
    find_columns(splits[1].features, found, f"{source}, split {eval_name}")  # has them all too
    renamed = {name: path for name, path in found.items() if path not in (name, f"objects.{name}")}
    if renamed:
        notes.append("columns: " + ", ".join(f"{name} from {path}" for name, path in renamed.items()))
    categories = read_categories(splits, found["category"], class_names, source)
    if wishes.box_format is None:
        guess = guess_box_format(splits[0], found, source)
        box_format = guess.box_format
        notes.append(f"box format {guess}")
    else:
        box_format = wishes.box_format
    if not has_integer_ids(splits[0], found):
        notes.append("images are numbered, since the set has no integer ids for them")
    first_ids = (0, 0 if streaming else len(splits[0]))
    canonical = [
        to_schema(split, found, categories, box_format, first_id)
        for split, first_id in zip(splits, first_ids, strict=True)
    ]
    if wishes.stream_length is not None:
        if not streaming:
            raise ValueError(
                f"stream_length={wishes.stream_length} is for streams, and {source} is none: it has {len(train)} "
                "training pictures. Leave it out, or stream the set."
            )
        with_length(canonical[0], wishes.stream_length)
    return DetectionData(
        source=source,
        train=canonical[0],
        evaluation=canonical[1],
        names=categories.names,
        category_ids=_integer_ids(categories.ids),
        box_format=box_format,
        fingerprint=_stream_fingerprint(source, splits)
        if any(isinstance(split, IterableDataset) for split in splits)
        else content_fingerprint(*canonical, names=categories.names),
        notes=notes,
    )


def _integer_ids(ids: Sequence[int | str]) -> list[int]:
    """The category ids, or the labels where a source has names only."""
    return list(ids) if all(isinstance(i, int) for i in ids) else list(range(len(ids)))


def _held_out_note(held_out: int, total: int, names: list[str]) -> str:
    listing = f" ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else ""
    return (
        f"no split for evaluation, so {held_out} of {total} images{listing} are held out for it, always the same ones"
    )


def _stream_fingerprint(source: str, splits: Sequence[AnySet]) -> str:
    sizes = [split.num_shards if isinstance(split, IterableDataset) else len(split) for split in splits]
    parts = [source]
    parts += [f"{split.info.version} {split.features} {size}" for split, size in zip(splits, sizes, strict=True)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
