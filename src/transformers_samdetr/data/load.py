"""`load_detection_data`: folders of several layouts, the Hub and sets in memory, all in one schema."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)

from .box_formats import check_box_format
from .coco import find_coco, read_coco
from .column_sets import ClassNames, find_columns, guess_box_format, has_integer_ids, read_categories, to_schema
from .digit_scenes import build_digit_scenes
from .schema import AnySet, FolderContent, content_fingerprint, detection_features, to_dataset
from .source_files import SetFiles, require_utf8, split_in
from .stream import known_length, rows_of_parquet, with_length
from .voc import find_voc, read_voc
from .yolo import find_yolo, read_yolo

Source = str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict
TABLES = {".parquet": "parquet", ".arrow": "arrow"}
PIECES = 64
"""In which a map-style set is streamed: what the shuffling of files needs, where there are none."""
TRAIN = ("train", "training", "trainval")
EVALUATION = ("validation", "val", "valid", "dev", "eval", "test", "testing")
OTHER_FILES = {
    ".csv": "a table",
    ".tsv": "a table",
    ".jsonl": "a jsonl file without metadata.jsonl's name",
    ".tfrecord": "a TFRecord file",
    ".records": "a TFRecord file",
    ".record": "a TFRecord file",
}
"""Files with annotations of other formats."""
MOST_REASONS = 8
"""Files of which an error says why they are no annotations."""
HELD_OUT = 0.2
MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class DetectionData:
    """Training and evaluation pictures of a source with their classes.

    Attributes:
        source: what was asked for.
        train: training set in the schema of `detection_features`; an `IterableDataset` when streamed.
        evaluation: evaluation set, likewise.
        names: class name of each label.
        category_ids: the source's own category id of each label.
        box_format: in which the source has its boxes, one of `BOX_FORMATS`; here they are (x, y, width, height) in
            pixels.
        fingerprint: changes with any annotation and with the list of pictures; of a stream only with its name,
            version, columns and shards.
        notes: what was decided without being told, such as a detected box format or an evaluation set split off.
    """

    source: str
    train: Dataset | IterableDataset
    evaluation: Dataset | IterableDataset
    names: list[str]
    category_ids: list[int]
    box_format: str
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Sizes, classes and box format in a line, and a line for each note."""

        def size(data: Dataset | IterableDataset) -> str:
            if isinstance(data, IterableDataset):
                return f"a stream of {known_length(data) or ''}".rstrip()
            return str(len(data))

        head = (
            f"{self.source}: {size(self.train)} training and {size(self.evaluation)} evaluation images, "
            f"{len(self.names)} {'class' if len(self.names) == 1 else 'classes'}, boxes {self.box_format}"
        )
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class LoadOptions:
    """What the caller chooses instead of leaving it to be found: split names, box format, length of a stream."""

    train_split: str | None = None
    eval_split: str | None = None
    box_format: str | None = None
    stream_length: int | None = None
    hold_out: bool = True


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
    hold_out: bool = True,
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
        hold_out: without a split for evaluation, a fifth of the training split is held out. Otherwise all pictures of
            the only split are for evaluation, and `train` is empty: for measuring a model that was trained elsewhere.

    Returns:
        Sets whose pictures are decoded when they are read, not before. `print(data.describe())` says what was found.

    Raises:
        ValueError: the source lacks a split, a file or a field, or its boxes are in no format or in several; the
            message says which, and what would be right.
        TypeError: the source is of none of these types.
    """
    box_format = None if box_format is None else check_box_format(box_format)
    options = LoadOptions(train_split, eval_split, box_format, stream_length, hold_out)
    if isinstance(source, (Dataset, IterableDataset)):
        return from_sets("the given set", _streams({"train": source}, streaming), columns, class_names, options)
    if isinstance(source, dict):
        return from_sets("the given sets", _streams(source, streaming), columns, class_names, options)
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source is of type {type(source).__name__}: give a folder, a Hub name, 'digits' or a datasets.Dataset "
            "(datasets.Dataset.from_generator makes one of anything that yields examples)."
        )
    name, path = str(source), Path(os.path.expanduser(source))
    if name == "digits":
        scenes = _streams(build_digit_scenes(seed=seed), streaming)
        return from_sets(name, scenes, columns, class_names, replace(options, box_format="xywh"))
    if not os.path.exists(path) and (path.suffix or path.is_absolute() or name.startswith((".", "~"))):
        raise ValueError(f"There is no data set at {source}; give an existing folder, a Hub name, or 'digits'.")
    passed_over: list[str] = []
    content = _read_folder(path, passed_over) if os.path.exists(path) else None
    if content is not None:
        if streaming or stream_length or columns or class_names:
            raise ValueError(
                f"streaming, stream_length, columns and class_names are for sets of the datasets library; {source} is "
                "a folder of pictures, read when they are used, with annotation files, which have them all."
            )
        return from_folder(name, content, options)
    if not os.path.exists(path):
        return from_sets(name, _load_sets(path, name, streaming, options), columns, class_names, options)
    _require_known_layout(path, passed_over)
    try:
        sets = _load_sets(path, name, streaming, options)
    except Exception as error:  # the datasets library raises all kinds for damaged files
        reason = error.__cause__ or error
        raise ValueError(f"{path} cannot be read as a data set: {type(reason).__name__}: {reason}") from error
    return from_sets(name, sets, columns, class_names, options)


def _read_folder(path: Path, passed_over: list[str]) -> FolderContent | None:
    """The content of a folder of pictures with annotation files; None for sets of the `datasets` library.

    Args:
        path: of the folder, or of a JSON, YAML or `.data` file.
        passed_over: gets a line for each file that could have been annotations, and why it is not.
    """
    if path.suffix in TABLES or _is_saved_to_disk(path):
        return None
    if path.is_dir():
        files = SetFiles(path)
        given = None
    else:
        root = path.parent.parent if path.parent.name in ("annotations", "labels") else path.parent
        files, given = SetFiles(root, deepest=3), path.relative_to(root).as_posix()
        if path.suffix == ".json":
            return read_coco(files, {split_in(path.stem): given})
        if path.suffix not in (".yaml", ".yml", ".data"):
            raise ValueError(
                f"{path} is no COCO JSON, YOLO YAML, parquet or arrow file: give one, or the set's folder."
            )
    layout = find_yolo(files, passed_over, given)
    if layout is not None:
        return read_yolo(files, layout)
    chosen = {} if given else find_coco(files, passed_over)
    if chosen:
        return read_coco(files, chosen)
    found = {} if given else find_voc(files, passed_over)
    return read_voc(files, found) if found else None


def _is_saved_to_disk(path: Path) -> bool:
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _require_known_layout(path: Path, passed_over: list[str]) -> None:
    readable = ("*.parquet", "*.arrow", "metadata.jsonl", "metadata.csv", "metadata.parquet")
    if path.is_dir() and (_is_saved_to_disk(path) or any(any(path.rglob(pattern)) for pattern in readable)):
        return
    if path.suffix in TABLES:
        return
    files = SetFiles(path).files if path.is_dir() else {}
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing" if path.is_dir() else path.name
    passed_over += [f"{name} is {OTHER_FILES[s]}" for name in files for s in OTHER_FILES if name.lower().endswith(s)]
    reasons = f" Passed over: {'; '.join(passed_over[:MOST_REASONS])}" if passed_over else ""
    more = f"; and {len(passed_over) - MOST_REASONS} more files" if len(passed_over) > MOST_REASONS else ""
    raise ValueError(
        f"{path} holds {held}: none of the layouts that are read, which are COCO's JSON files, YOLO's data.yaml "
        "with images and labels, VOC's XML files, parquet or arrow files, metadata.jsonl beside pictures, or a "
        f"folder of save_to_disk.{reasons}{more}{'.' * bool(passed_over)} Export the set as COCO, YOLO or PASCAL VOC."
    )


def _load_sets(path: Path, name: str, streaming: bool, options: LoadOptions) -> Mapping[str, AnySet]:
    if path.is_file() or path.is_dir() and glob.has_magic(str(path)) and not _is_saved_to_disk(path):
        kind, files = _data_files(path)
        return _open_streams(kind, files) if streaming else load_dataset(kind, data_files=files)
    if _is_saved_to_disk(path):
        sets = load_from_disk(path)
        return _streams(sets if isinstance(sets, dict) else {"train": sets}, streaming)
    source = str(path) if path.is_dir() else name
    sliced = [split for split in (options.train_split, options.eval_split) if split and "[" in split]
    if sliced and not streaming:  # such as train[:90%], which only the loader understands
        wanted = [split for split in (options.train_split, options.eval_split) if split]
        return {split: load_dataset(source, split=split) for split in wanted}
    return _open_streams(source) if streaming else load_dataset(source)


def _data_files(path: Path) -> tuple[str, dict[str, list[str]]]:
    """The builder of the `datasets` library for a file or folder, and its files by split.

    The library takes names for patterns: in a folder called `set [2]` it finds nothing unless its brackets are escaped.
    """
    if path.is_file():
        return TABLES[path.suffix], {"train": [glob.escape(str(path))]}
    files = SetFiles(path)
    metadata = any(name.rpartition("/")[2].startswith("metadata.") for name in files.files)
    kind = "imagefolder" if metadata else "parquet" if files.with_suffix(".parquet") else "arrow"
    splits: dict[str, list[str]] = {}
    for name in files.files if metadata else files.with_suffix(f".{kind}"):
        split = next((found for part in name.split("/") if (found := split_in(part))), "train")
        splits.setdefault(split, []).append(glob.escape(files.path(name)))
    return kind, splits


def _open_streams(source: str, files: Mapping[str, list[str]] | None = None) -> dict[str, IterableDataset]:
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


def from_folder(source: str, content: FolderContent, options: LoadOptions) -> DetectionData:
    """Data of a folder of pictures with annotation files."""
    notes = list(content.notes)
    train_name, eval_name = choose_splits(content.splits, options, source)
    names = list(content.categories.values())
    features = detection_features(names)
    box_format = options.box_format or content.box_format
    labels = {category_id: label for label, category_id in enumerate(content.categories)}
    used = {name: content.splits[name] for name in (train_name, eval_name) if name is not None}
    for pictures in used.values():
        require_utf8(pictures.images)
    tables = {name: pictures.to_arrow(labels, box_format) for name, pictures in used.items()}
    if eval_name is None and options.hold_out:
        keys = [os.path.basename(image or "") for image in used[train_name].images]
        train_rows, rows = hold_out(keys, source)
        notes.append(_held_out_note(len(rows), len(keys), [keys[row] for row in rows]))
        chosen = [(train_name, train_rows), (train_name, rows)]
    else:
        chosen = [(name, list(range(len(used[name]))) if name is not None else []) for name in (train_name, eval_name)]
    own_ids = all(isinstance(image_id, int) for pictures in used.values() for image_id in pictures.image_ids)
    if not own_ids:
        notes.append("images are numbered, since their own ids are no integers")
    sets, first_id = [], 0
    for name, rows in chosen:
        split = eval_name if name is None else name
        pictures, table = used[split], tables[split]
        ids = [pictures.image_ids[row] for row in rows] if own_ids else range(first_id, first_id + len(rows))
        paths = pa.array([pictures.images[row] for row in rows], pa.string())
        images = pa.StructArray.from_arrays([pa.nulls(len(rows), pa.binary()), paths], names=["bytes", "path"])
        whole = len(rows) == len(pictures)
        table = table if whole else table.take(pa.array(rows, pa.int64()))
        sets.append(to_dataset({"image": images, "image_id": pa.array(ids, pa.int64())}, table, features))
        first_id += len(rows)
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


def from_sets(
    source: str,
    sets: Mapping[str, AnySet],
    columns: Mapping[str, str] | None,
    class_names: ClassNames | None,
    options: LoadOptions,
) -> DetectionData:
    """Data of sets of the `datasets` library, map-style or streamed."""
    notes = []
    train_name, eval_name = choose_splits(sets, options, source)
    train = sets[eval_name if train_name is None else train_name]
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
        evaluation = evaluation._resolve_features() if evaluation.features is None else evaluation
        if train_name is None:
            train = train.take(0) if streaming else train.select([])
        splits = [train, evaluation]
    found = find_columns(splits[0].features, columns, source)
    find_columns(splits[1].features, found, f"{source}, split {eval_name}")  # has them all too
    renamed = {name: path for name, path in found.items() if path not in (name, f"objects.{name}")}
    if renamed:
        notes.append("columns: " + ", ".join(f"{name} from {path}" for name, path in renamed.items()))
    categories = read_categories(splits, found["category"], class_names, source)
    if options.box_format is None:
        guess = guess_box_format(splits[0 if train_name is not None else 1], found, source)
        box_format = guess.box_format
        notes.append(f"box format {guess}")
    else:
        box_format = options.box_format
    if not has_integer_ids(splits[0], found):
        notes.append("images are numbered, since the set has no integer ids for them")
    first_ids = (0, 0 if streaming else len(splits[0]))
    canonical = [
        to_schema(split, found, categories, box_format, first_id)
        for split, first_id in zip(splits, first_ids, strict=True)
    ]
    if options.stream_length is not None:
        if not streaming:
            raise ValueError(
                f"stream_length={options.stream_length} is for streams, and {source} is none: it has {len(train)} "
                "training pictures. Leave it out, or stream the set."
            )
        with_length(canonical[0], options.stream_length)
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


def choose_splits(available: Iterable[str], options: LoadOptions, source: str) -> tuple[str | None, str | None]:
    """Names of the training and the evaluation split.

    Args:
        available: names of the splits that there are.
        options: the splits that the caller chooses, and `hold_out`.
        source: named in errors.

    Returns:
        The second is None where it has to be held out of the first; with `hold_out=False` the first is None where no
        pictures are for training.

    >>> choose_splits(["train2017", "val2017", "test2017"], LoadOptions(), "coco")
    ('train2017', 'val2017')

    Raises:
        ValueError: there is no such split, both are the same, or none is for training.
    """
    available = list(available)
    train, evaluation = options.train_split, options.eval_split
    for option, split in (("train_split", train), ("eval_split", evaluation)):
        if split is not None and split not in available:
            raise ValueError(f"{source} has no split {split!r} for {option}; it has {', '.join(available) or 'none'}.")
    if not options.hold_out and train is None:
        if evaluation is None and len(available) == 1:
            return None, available[0]
        evaluation = evaluation or _first(available, EVALUATION, other_than=None)
        if evaluation is not None:
            return _first(available, TRAIN, other_than=evaluation), evaluation
    train = train or _first(available, TRAIN, other_than=evaluation)
    if train is None and len(available) == 1:
        train = available[0]
    if train is None or train == evaluation:
        raise ValueError(
            f"{source} has the splits {', '.join(available) or '(none)'}: say with train_split which of them is for "
            "training, and with eval_split which other one for evaluation."
        )
    return train, evaluation or _first(available, EVALUATION, other_than=train)


def _first(available: Sequence[str], names: tuple[str, ...], other_than: str | None) -> str | None:
    plain = {re.sub(r"\d+$", "", split).lower(): split for split in available if split != other_than}
    return next((plain[name] for name in names if name in plain), None)


def hold_out(keys: Sequence[object], source: str) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to evaluate on, a fifth of all and at most 5000, where a set has no split for it.

    A picture's side depends on its key, not on a seed, so that training and every later evaluation agree on it, and
    little on the other pictures, so that those added later move few.

    Args:
        keys: of the pictures, such as their names.
        source: named in errors.

    >>> hold_out(["a", "b", "c", "d", "e"], source="letters")
    ([0, 1, 2, 4], [3])

    Raises:
        ValueError: there are fewer than two pictures.
    """
    if len(keys) < 2:
        raise ValueError(
            f"{source} has {len(keys)} images: at least one to train on and one to evaluate on are needed."
        )
    count = min(max(1, round(HELD_OUT * len(keys))), MOST_HELD_OUT)
    rank = sorted(range(len(keys)), key=lambda row: hashlib.sha256(str(keys[row]).encode()).digest())
    evaluation = sorted(rank[:count])
    return sorted(rank[count:]), evaluation
