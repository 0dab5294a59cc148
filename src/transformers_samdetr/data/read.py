"""Where detection data come from: folders of several layouts, the Hub, sets in memory; all in one schema."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)

from .annotated_picture import FolderContent
from .assemble import Wishes, from_folder, from_sets
from .box_formats import check_box_format
from .coco_folder import find_coco_files, read_coco
from .detection_data import DetectionData
from .digit_scenes import build_digit_scenes
from .hub_set import AnySet, ClassNames
from .stream_length import known_length, rows_of_parquet, with_length
from .voc_folder import find_voc, read_voc
from .yolo_folder import find_yolo, read_yolo

Source = str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict
TABLES = {".parquet": "parquet", ".arrow": "arrow"}
PIECES = 64
"""In which a map-style set is streamed: what the shuffling of files needs, where there are none."""


def load_detection_data(
    source: Source,
    *,
    train_split: str | None = None,
    eval_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    box_format: str | None = None,
    class_names: ClassNames | None = None,
    streaming: bool = False,
    stream_length: int | None = None,
    seed: int = 0,
) -> DetectionData:
    """Training set, evaluation set and classes of a source.

    Args:
        source: `"digits"`, scenes made here; a folder in the layout of COCO, YOLO or VOC, or its JSON or YAML file; a
            folder or file of parquet or arrow, or of `save_to_disk`; a name on the Hub; or a set of the `datasets`
            library.
        train_split, eval_split: names of splits. Otherwise the usual names are looked for, and without a split for
            evaluation a fifth of the training split is held out, always the same pictures.
        columns: where a set of the `datasets` library has what, by the names `image`, `image_id`, `width`, `height`,
            `bbox`, `category`, `area`, `iscrowd`, `id`, such as `{"bbox": "objects.box"}`. The usual names are found.
        box_format: one of `BOX_FORMATS` or their aliases. Otherwise that of the layout, or detected on a sample.
        class_names: by category id, for sets of the `datasets` library that do not name their classes.
        streaming: reads a set of the `datasets` library (the Hub, parquet, arrow) while it is used, for sets larger
            than the disk.
        stream_length: pictures of the training stream, where its source does not say.
        seed: chooses the digit scenes.

    Returns:
        Sets whose pictures are decoded when they are read, not before. `print(data.describe())` says what was found.

    Raises:
        ValueError: the source lacks a split, a file or a field, or its boxes are in no format or in several; the
            message says which, and what would be right.
        TypeError: the source is of none of these types.
    """
    wishes = Wishes(
        train_split, eval_split, None if box_format is None else check_box_format(box_format), stream_length
    )
    if isinstance(source, (Dataset, IterableDataset)):
        return from_sets("the given set", _streams({"train": source}, streaming), columns, class_names, wishes)
    if isinstance(source, dict):
        return from_sets("the given sets", _streams(source, streaming), columns, class_names, wishes)
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source is of type {type(source).__name__}: give a folder, a Hub name, 'digits' or a datasets.Dataset "
            "(datasets.Dataset.from_generator makes one of anything that yields examples)."
        )
    name, path = str(source), Path(os.path.expanduser(source))
    if name == "digits":
        scenes = _streams(build_digit_scenes(seed=seed), streaming)
        return from_sets(name, scenes, columns, class_names, Wishes(train_split, eval_split, "xywh", stream_length))
    if not os.path.exists(path) and (path.suffix or path.is_absolute() or name.startswith((".", "~"))):
        raise ValueError(f"There is no data set at {source}; give an existing folder, a Hub name, or 'digits'.")
    content = _read_folder(path) if os.path.exists(path) else None
    if content is not None:
        if streaming or stream_length or columns or class_names:
            raise ValueError(
                f"streaming, stream_length, columns and class_names are for sets of the datasets library; {source} is "
                "a folder of pictures, read when they are used, with annotation files, which have them all."
            )
        return from_folder(name, content, wishes)
    if not os.path.exists(path):
        return from_sets(name, _load_sets(path, name, streaming, wishes), columns, class_names, wishes)
    _require_known_layout(path)
    try:
        sets = _load_sets(path, name, streaming, wishes)
    except Exception as error:  # the datasets library raises all kinds for damaged files
        reason = error.__cause__ or error
        raise ValueError(f"{path} cannot be read as a data set: {type(reason).__name__}: {reason}") from error
    return from_sets(name, sets, columns, class_names, wishes)


def _read_folder(path: Path) -> FolderContent | None:
    """The content of a folder of pictures with annotation files; None for sets of the `datasets` library."""
    if path.suffix in TABLES or _is_saved_to_disk(path):
        return None
    yolo = find_yolo(path)
    if yolo is not None:
        return read_yolo(yolo)
    files = find_coco_files(path)
    if files:
        return read_coco(path, files)
    voc = find_voc(path)
    return None if voc is None else read_voc(voc)


def _is_saved_to_disk(path: Path) -> bool:
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _require_known_layout(path: Path) -> None:
    readable = ("*.parquet", "*.arrow", "metadata.jsonl", "metadata.csv", "metadata.parquet")
    if not path.is_dir() or _is_saved_to_disk(path) or any(any(path.rglob(pattern)) for pattern in readable):
        return
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
    raise ValueError(
        f"{path} holds {held}: none of the layouts that are read, which are COCO's JSON files, YOLO's data.yaml "
        "with images and labels, VOC's XML files, parquet or arrow files, metadata.jsonl beside pictures, or a "
        "folder of save_to_disk."
    )


def _load_sets(path: Path, name: str, streaming: bool, wishes: Wishes) -> Mapping[str, AnySet]:
    if path.is_file():
        kind, files = TABLES[path.suffix], str(path)
        return _open_streams(kind, files) if streaming else load_dataset(kind, data_files=files)
    if _is_saved_to_disk(path):
        sets = load_from_disk(path)
        return _streams(sets if isinstance(sets, dict) else {"train": sets}, streaming)
    source = str(path) if path.is_dir() else name
    sliced = [split for split in (wishes.train_split, wishes.eval_split) if split and "[" in split]
    if sliced and not streaming:  # such as train[:90%], which only the loader understands
        wanted = [split for split in (wishes.train_split, wishes.eval_split) if split]
        return {split: load_dataset(source, split=split) for split in wanted}
    return _open_streams(source) if streaming else load_dataset(source)


def _open_streams(source: str, files: str | None = None) -> dict[str, IterableDataset]:
    """The splits of a set, with their lengths where the set or parquet files on this machine tell them."""
    builder = load_dataset_builder(source, data_files=files)
    streams = dict(builder.as_streaming_dataset())
    for split, stream in streams.items():
        if known_length(stream) is None:
            rows = rows_of_parquet((builder.config.data_files or {}).get(split, [""]))
            streams[split] = with_length(stream, rows) if rows else stream
    return streams


def _streams(sets: Mapping[str, AnySet], streaming: bool) -> Mapping[str, AnySet]:
    """The same sets; as streams, if asked for, in pieces that can be shuffled."""
    if not streaming:
        return sets
    return {
        split: data
        if isinstance(data, IterableDataset) or not len(data)
        else with_length(data.to_iterable_dataset(num_shards=min(len(data), PIECES)), len(data))
        for split, data in sets.items()
    }
