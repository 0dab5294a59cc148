"""Where detection data come from: folders of several layouts, the Hub, sets in memory; all in one schema."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk

from .annotated_picture import FolderContent
from .assemble import Wishes, from_folder, from_sets
from .box_formats import check_box_format
from .coco_folder import find_coco_files, read_coco
from .detection_data import DetectionData
from .digit_scenes import build_digit_scenes
from .hub_set import AnySet, ClassNames
from .voc_folder import find_voc, read_voc
from .yolo_folder import find_yolo, read_yolo

Source = str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict
TABLES = {".parquet": "parquet", ".arrow": "arrow"}


def load_detection_data(
    source: Source,
    *,
    train_split: str | None = None,
    eval_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    box_format: str | None = None,
    class_names: ClassNames | None = None,
    streaming: bool = False,
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
        streaming: reads a set of the Hub or of parquet while it is used, for sets larger than the disk.
        seed: chooses the digit scenes.

    Returns:
        Sets whose pictures are decoded when they are read, not before. `print(data.describe())` says what was found.

    Raises:
        ValueError: the source lacks a split, a file or a field, or its boxes are in no format or in several; the
            message says which, and what would be right.
        TypeError: the source is of none of these types.
    """
    wishes = Wishes(train_split, eval_split, None if box_format is None else check_box_format(box_format))
    if isinstance(source, (Dataset, IterableDataset)):
        return from_sets("the given set", {"train": source}, columns, class_names, wishes)
    if isinstance(source, dict):
        return from_sets("the given sets", source, columns, class_names, wishes)
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source is of type {type(source).__name__}: give a folder, a Hub name, 'digits' or a datasets.Dataset "
            "(datasets.Dataset.from_generator makes one of anything that yields examples)."
        )
    name, path = str(source), Path(source).expanduser()
    if name == "digits":
        scenes = build_digit_scenes(seed=seed)
        return from_sets(name, scenes, columns, class_names, Wishes(train_split, eval_split, "xywh"))
    if not path.exists() and (path.suffix or path.is_absolute() or name.startswith((".", "~"))):
        raise ValueError(f"There is no data set at {source}; give an existing folder, a Hub name, or 'digits'.")
    content = _read_folder(path) if path.exists() else None
    if content is not None:
        if streaming or columns or class_names:
            raise ValueError(
                f"streaming, columns and class_names are for sets of the datasets library; {source} is a folder of "
                "pictures with annotation files, which have them all."
            )
        return from_folder(name, content, wishes)
    return from_sets(name, _load_sets(path, name, streaming, wishes), columns, class_names, wishes)


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


def _load_sets(path: Path, name: str, streaming: bool, wishes: Wishes) -> Mapping[str, AnySet]:
    if path.is_file():
        return load_dataset(TABLES[path.suffix], data_files=str(path), streaming=streaming)
    if _is_saved_to_disk(path):
        sets = load_from_disk(path)
        sets = sets if isinstance(sets, dict) else {"train": sets}
        return {split: data.to_iterable_dataset() for split, data in sets.items()} if streaming else sets
    readable = ("*.parquet", "*.arrow", "metadata.jsonl", "metadata.csv", "metadata.parquet")
    if path.is_dir() and not any(any(path.rglob(pattern)) for pattern in readable):
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
        raise ValueError(
            f"{path} holds {held}: none of the layouts that are read, which are COCO's JSON files, YOLO's data.yaml "
            "with images and labels, VOC's XML files, parquet or arrow files, metadata.jsonl beside pictures, or a "
            "folder of save_to_disk."
        )
    source = str(path) if path.is_dir() else name
    sliced = [split for split in (wishes.train_split, wishes.eval_split) if split and "[" in split]
    if sliced and not streaming:  # such as train[:90%], which only the loader understands
        wanted = [split for split in (wishes.train_split, wishes.eval_split) if split]
        return {split: load_dataset(source, split=split) for split in wanted}
    return load_dataset(source, streaming=streaming)
