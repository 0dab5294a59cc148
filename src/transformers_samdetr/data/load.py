"""`load_detection_data`: folders of several layouts, the Hub and sets in memory, all in one schema."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from . import column_sets
from .box_formats import check_box_format
from .coco import find_coco, read_coco
from .digit_scenes import build_digit_scenes
from .schema import AnySet, FolderContent, content_fingerprint, detection_features, return_free_memory, to_dataset
from .source_files import SetFiles, require_utf8, split_in
from .stream import known_length, with_length
from .tables import read_tables
from .voc import find_voc, read_voc
from .yolo import find_yolo, read_yolo

BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
SAVED, TABLES = ("dataset_dict.json", "state.json"), (".csv", ".tsv")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TRAIN = ("train", "training", "trainval")
EVALUATION = ("validation", "val", "valid", "dev", "eval", "test", "testing")
OTHER_FILES = dict.fromkeys((".tfrecord", ".records", ".record"), "a TFRecord file")
OTHER_FILES[".jsonl"] = "a jsonl file without metadata.jsonl's name"


@dataclass(frozen=True)
class DetectionData:
    """Training and evaluation pictures of a source with their classes.

    Attributes:
        train, evaluation: in the schema of `detection_features`, boxes (x, y, width, height) in pixels.
        names, category_ids: class name and the source's own category id of each label.
        box_format: in which the source has its boxes, one of `BOX_FORMATS`.
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
        train, evaluation = (
            f"a stream of {known_length(data) or ''}".rstrip() if isinstance(data, IterableDataset) else len(data)
            for data in (self.train, self.evaluation)
        )
        classes = "1 class" if len(self.names) == 1 else f"{len(self.names)} classes"
        head = f"{self.source}: {train} training and {evaluation} evaluation images, {classes}, boxes {self.box_format}"
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class LoadOptions:
    """The arguments of `load_detection_data`."""

    train_split: str | None = None
    eval_split: str | None = None
    columns: Mapping[str, str] | None = None
    box_format: str | None = None
    class_names: column_sets.ClassNames | None = None
    streaming: bool = False
    stream_length: int | None = None
    hold_out: bool = True


def load_detection_data(
    source: str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict,
    *,
    train_split: str | None = None,
    eval_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    box_format: str | None = None,
    class_names: column_sets.ClassNames | None = None,
    streaming: bool = False,
    stream_length: int | None = None,
    seed: int = 0,
    hold_out: bool = True,
) -> DetectionData:
    """Training set, evaluation set and classes of a source.

    Args:
        source: `"digits"`, scenes made here; a folder in the layout of COCO, YOLO or VOC, or its JSON or YAML file; a
            CSV file with an object a row, or a folder of such; a folder or file of parquet or arrow, or of
            `save_to_disk`; a name on the Hub; or a set of the `datasets` library.
        train_split, eval_split: names of splits. Otherwise the usual names are looked for.
        columns: where a set of the `datasets` library has what, by the names `image`, `image_id`, `width`, `height`,
            `bbox`, `category`, `area`, `iscrowd`, `id`, such as `{"bbox": "objects.box"}`, or four columns, such as
            `{"bbox": "x1,y1,x2,y2"}`. The usual names are found.
        box_format: one of `BOX_FORMATS` or their aliases. Otherwise that of the layout, or detected on a sample.
        class_names: by category id, for sets of the `datasets` library that do not name their classes.
        streaming: reads a set of the `datasets` library while it is used, for sets larger than the disk.
        stream_length: pictures of the training stream, where its source does not say.
        seed: chooses the digit scenes.
        hold_out: without a split for evaluation, a fifth of the training split is held out, always the same pictures.
            Otherwise all pictures of the only split are for evaluation, and `train` is empty: for measuring a model
            that was trained elsewhere.

    Returns:
        Sets whose pictures are decoded when they are read, not before. `print(data.describe())` says what was found. A
        ValueError says which split, file or field the source lacks, or that its boxes are in no format or in several.
    """
    box_format = None if box_format is None else check_box_format(box_format)
    options = LoadOptions(train_split, eval_split, columns, box_format, class_names, streaming, stream_length, hold_out)
    name = str(source)
    if isinstance(source, (Dataset, IterableDataset)):
        name, sets = "the given set", {"train": source}
    elif isinstance(source, dict):
        name, sets = "the given sets", source
    elif not isinstance(source, (str, Path)):
        remedy = "give a folder, a Hub name, 'digits' or a datasets.Dataset"
        generator = "datasets.Dataset.from_generator makes one of anything that yields examples"
        raise TypeError(f"source is of type {type(source).__name__}: {remedy} ({generator}).")
    elif name == "digits":
        sets, options = build_digit_scenes(seed=seed), replace(options, box_format="xywh")
    else:
        path = Path(os.path.expanduser(source))
        if os.path.exists(path):
            content = _read_folder(path)
            if isinstance(content, FolderContent):
                if streaming or stream_length or columns or class_names:
                    raise ValueError(
                        "streaming, stream_length, columns and class_names are for sets of the datasets library: "
                        f"{source} has annotation files, which say it all, and pictures that are read when used."
                    )
                return from_folder(name, content, options)
            sets = _local_sets(path, options) if content is None else content
        elif path.suffix or path.is_absolute() or name.startswith((".", "~")):
            raise ValueError(f"There is no data set at {source}; give an existing folder, a Hub name, or 'digits'.")
        else:
            sets = _open(name, options)
    sets = dict(sets)
    for split, data in sets.items() if streaming else ():
        if isinstance(data, Dataset) and len(data):  # in pieces, which are shuffled as the files of other streams are
            sets[split] = with_length(data.to_iterable_dataset(num_shards=min(len(data), 64)), len(data))
    return from_sets(name, sets, options)


def _read_folder(path: Path) -> FolderContent | Mapping[str, Dataset] | None:
    """The content of a folder of annotation files or of one of these; sets of tables; None for sets of `datasets`."""
    if path.suffix in BUILDERS or any((path / name).exists() for name in SAVED):
        return None
    if path.is_dir():
        files, given = SetFiles(path), None
    else:
        root = path.parent.parent if path.parent.name in ("annotations", "labels") else path.parent
        files, given = SetFiles(root, deepest=3), path.relative_to(root).as_posix()
        if path.suffix == ".json":
            return read_coco(files, {split_in(path.stem): given})
        if path.suffix not in (".yaml", ".yml", ".data", *TABLES):
            raise ValueError(
                f"{path} is no COCO JSON, YOLO YAML, CSV, parquet or arrow file: give one, or its folder, unpacked."
            )
    layout = find_yolo(files, given) if given is None or path.suffix not in TABLES else None
    if layout is not None:
        return read_yolo(files, layout)
    if given is None:
        for find, read in ((find_coco, read_coco), (find_voc, read_voc)):
            if found := find(files):
                return read(files, found)
        if any(name.endswith(tuple(BUILDERS)) or os.path.basename(name) in METADATA for name in files.files):
            return None
    tables = read_tables(files, [given] if given else files.with_suffix(*TABLES))
    if tables:
        return tables
    others = files.with_suffix(*OTHER_FILES)
    reasons = files.passed_over + [f"{name} is {OTHER_FILES[os.path.splitext(name)[1].lower()]}" for name in others]
    held = given or ", ".join(sorted({name.split("/")[0] for name in files.files})[:10]) or "nothing"
    if len(reasons) > 8:
        reasons[8:] = [f"and {len(reasons) - 8} more files"]
    passed_over = f" Passed over: {'; '.join(reasons)}." if reasons else ""
    raise ValueError(
        f"{path} holds {held}: none of the layouts that are read, which are COCO's JSON files, YOLO's data.yaml with "
        "images and labels, VOC's XML files, CSV files with an object a row, parquet or arrow files, metadata.jsonl "
        f"beside pictures, or a folder of save_to_disk.{passed_over} Export the set as COCO, YOLO or PASCAL VOC."
    )


def _local_sets(path: Path, options: LoadOptions) -> Mapping[str, AnySet]:
    """The sets of a folder or file in a format of the `datasets` library."""
    try:
        if any((path / name).exists() for name in SAVED):
            sets = datasets.load_from_disk(path)
            return sets if isinstance(sets, dict) else {"train": sets}
        if path.is_dir() and not glob.has_magic(str(path)):
            return _open(str(path), options)
        # the library takes names for patterns: in a folder called `set [2]` it finds nothing unless they are escaped
        if path.is_file():
            return _open(BUILDERS[path.suffix], options, {"train": [glob.escape(str(path))]})
        files = SetFiles(path)
        metadata = any(os.path.basename(name).startswith("metadata.") for name in files.files)
        kind = "imagefolder" if metadata else "parquet" if files.with_suffix(".parquet") else "arrow"
        splits: dict[str, list[str]] = {}
        for name in files.files if metadata else files.with_suffix(f".{kind}"):
            split = next(filter(None, map(split_in, name.split("/"))), "train")
            splits.setdefault(split, []).append(glob.escape(files.path(name)))
        return _open(kind, options, splits)
    except Exception as error:  # the datasets library raises all kinds for damaged files
        reason = error.__cause__ or error
        raise ValueError(f"{path} cannot be read as a data set: {type(reason).__name__}: {reason}") from error


def _open(source: str, options: LoadOptions, files: dict[str, list[str]] | None = None) -> Mapping[str, AnySet]:
    """The splits of a set; streams with their lengths where the set or parquet files on this machine tell them."""
    wanted = [split for split in (options.train_split, options.eval_split) if split]
    if not options.streaming and any("[" in split for split in wanted):  # train[:90%], which only the loader knows
        return {split: datasets.load_dataset(source, data_files=files, split=split) for split in wanted}
    if not options.streaming:
        return datasets.load_dataset(source, data_files=files)
    builder = datasets.load_dataset_builder(source, data_files=files)
    streams = dict(builder.as_streaming_dataset())
    for split, stream in streams.items():
        parts = list(map(str, (builder.config.data_files or {}).get(split, [""])))
        if known_length(stream) is None and all(part.endswith(".parquet") and "://" not in part for part in parts):
            rows = sum(pq.read_metadata(part).num_rows for part in parts)  # in the last few bytes of each
            streams[split] = with_length(stream, rows) if rows else stream
    return streams


def from_folder(source: str, content: FolderContent, options: LoadOptions) -> DetectionData:
    """Data of a folder of pictures with annotation files."""
    return_free_memory()
    notes, names = list(content.notes), list(content.categories.values())
    train_name, eval_name = choose_splits(content.splits, options, source)
    box_format = options.box_format or content.box_format
    labels = {category_id: label for label, category_id in enumerate(content.categories)}
    used = {name: content.splits[name] for name in (train_name, eval_name) if name is not None}
    for pictures in used.values():
        require_utf8(pictures.images)
    if eval_name is None:
        keys = [os.path.basename(image or "") for image in used[train_name].images]
        chosen = [(train_name, rows) for rows in hold_out(keys, source, notes)]
    elif train_name is None:
        chosen = [(eval_name, []), (eval_name, range(len(used[eval_name])))]
    else:
        chosen = [(name, range(len(pictures))) for name, pictures in used.items()]
    own_ids = all(isinstance(image_id, int) for pictures in used.values() for image_id in pictures.image_ids)
    if not own_ids:
        notes.append("images are numbered, since their own ids are no integers")
    tables = {name: pictures.to_arrow(labels, box_format) for name, pictures in used.items()}
    sets, first_id = [], 0
    for name, rows in chosen:
        pictures, table = used[name], tables[name]
        if len(rows) < len(pictures):
            table = table.take(pa.array(rows, pa.int64()))
        ids = [pictures.image_ids[row] for row in rows] if own_ids else range(first_id, first_id + len(rows))
        paths = pa.array([pictures.images[row] for row in rows], pa.string())
        images = pa.StructArray.from_arrays([pa.nulls(len(rows), pa.binary()), paths], names=["bytes", "path"])
        columns = {"image": images, "image_id": pa.array(ids, pa.int64())}
        sets.append(to_dataset(columns, table, detection_features(names)))
        first_id += len(rows)
    fingerprint = content_fingerprint(*sets, names=names)
    return DetectionData(source, *sets, names, _integer_ids(content.categories), box_format, fingerprint, notes)


def from_sets(source: str, sets: Mapping[str, AnySet], options: LoadOptions) -> DetectionData:
    """Data of sets of the `datasets` library, map-style or streamed."""
    notes: list[str] = []
    train_name, eval_name = choose_splits(sets, options, source)
    train = sets[eval_name if train_name is None else train_name]
    streaming = isinstance(train, IterableDataset)
    if streaming and eval_name is None:
        remedy = "name one with eval_split (--eval_split), or load the set without streaming"
        raise ValueError(f"{source} has no split for evaluation, and none can be held out of a stream: {remedy}.")
    splits = [train] if eval_name is None else [train, sets[eval_name]]
    splits = [column_sets.with_pictures(split) for split in splits]
    if eval_name is None:
        splits = [splits[0].select(rows) for rows in hold_out(range(len(train)), source, notes)]
    elif train_name is None:
        splits[0] = splits[0].take(0) if streaming else splits[0].select([])
    found = column_sets.find_columns(splits[0].features, options.columns, source)
    column_sets.find_columns(splits[1].features, found, f"{source}, split {eval_name}")  # has them all too
    renamed = {name: path for name, path in found.items() if path not in (name, f"objects.{name}")}
    if renamed:
        notes.append("columns: " + ", ".join(f"{name} from {path}" for name, path in renamed.items()))
    categories = column_sets.read_categories(splits, found["category"], options.class_names, source)
    box_format = options.box_format
    if box_format is None:
        guess = column_sets.guess_box_format(splits[0 if train_name is not None else 1], found, source)
        box_format = guess.box_format
        notes.append(f"box format {guess}")
    if not column_sets.has_integer_ids(splits[0], found):
        notes.append("images are numbered, since the set has no integer ids for them")
    first_ids = [0, 0 if streaming else len(splits[0])]
    canonical = [column_sets.to_schema(splits[i], found, categories, box_format, first_ids[i]) for i in (0, 1)]
    if options.stream_length is not None:
        if not streaming:
            problem = f"stream_length={options.stream_length} is for streams, and {source} is none"
            raise ValueError(f"{problem}: it has {len(train)} training pictures. Leave it out, or stream the set.")
        with_length(canonical[0], options.stream_length)
    names = list(categories.values())
    if any(isinstance(split, IterableDataset) for split in splits):
        sizes = [split.num_shards if isinstance(split, IterableDataset) else len(split) for split in splits]
        parts = [f"{split.info.version} {split.features} {size}" for split, size in zip(splits, sizes, strict=True)]
        fingerprint = hashlib.sha256("\n".join([source, *parts]).encode()).hexdigest()[:32]
    else:
        fingerprint = content_fingerprint(*canonical, names=names)
    return DetectionData(source, *canonical, names, _integer_ids(categories), box_format, fingerprint, notes)


def _integer_ids(categories: Mapping[int | str, str]) -> list[int]:
    """The category ids, or the labels where a source has names only."""
    return list(categories if all(isinstance(i, int) for i in categories) else range(len(categories)))


def choose_splits(available: Iterable[str], options: LoadOptions, source: str) -> tuple[str | None, str | None]:
    """Names of the training and the evaluation split; a ValueError where there is no such split, or both are the same.

    The second is None where it has to be held out of the first; with `hold_out=False` the first is None where no
    pictures are for training.

    >>> choose_splits(["train2017", "val2017", "test2017"], LoadOptions(), "coco")
    ('train2017', 'val2017')
    """
    available = list(available)

    def first(names: tuple[str, ...], other_than: str | None) -> str | None:
        plain = {re.sub(r"\d+$", "", split).lower(): split for split in available if split != other_than}
        return next((plain[name] for name in names if name in plain), None)

    train, evaluation = options.train_split, options.eval_split
    for option, split in (("train_split", train), ("eval_split", evaluation)):
        if split is not None and split not in available:
            raise ValueError(f"{source} has no split {split!r} for {option}; it has {', '.join(available) or 'none'}.")
    if not options.hold_out and train is None:
        if evaluation is None and len(available) == 1:
            return None, available[0]
        evaluation = evaluation or first(EVALUATION, other_than=None)
        if evaluation is not None:
            return first(TRAIN, other_than=evaluation), evaluation
    train = train or first(TRAIN, other_than=evaluation)
    if train is None and len(available) == 1:
        train = available[0]
    if train is None or train == evaluation:
        remedy = "say with train_split which of them is for training, and with eval_split which other one"
        listing = ", ".join(available) or "(none)"
        raise ValueError(f"{source} has the splits {listing}: {remedy} for evaluation.")
    return train, evaluation or first(EVALUATION, other_than=train)


def hold_out(keys: Sequence[object], source: str, notes: list[str]) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to evaluate on, a fifth of all and at most 5000, where a set has no split for it.

    A picture's side depends on its key, such as its name, not on a seed, so that training and every later evaluation
    agree on it, and little on the other pictures, so that those added later move few. `notes` gets a line that says so.

    >>> hold_out(["a", "b", "c", "d", "e"], "letters", [])
    ([0, 1, 2, 4], [3])
    """
    if len(keys) < 2:
        raise ValueError(f"{source} has {len(keys)} images: at least one to train and one to evaluate on are needed.")
    count = min(max(1, round(0.2 * len(keys))), 5000)
    rank = sorted(range(len(keys)), key=lambda row: hashlib.sha256(str(keys[row]).encode()).digest())
    train, evaluation = sorted(rank[count:]), sorted(rank[:count])
    names = [key for key in (keys[row] for row in evaluation) if isinstance(key, str)]
    listing = f" ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else ""
    notes.append(
        f"no split for evaluation, so {count} of {len(keys)} images{listing} are held out for it, always the same ones"
    )
    return train, evaluation
