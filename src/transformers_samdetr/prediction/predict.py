"""Pictures of files, folders and videos to drawn pictures and a list of detections."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForObjectDetection, PreTrainedConfig

from ..visualization import class_colors, draw_detections
from .progress import with_progress
from .sources import Source, find_sources, read_pictures

PREDICTIONS_FILE = "predictions.json"
WRITABLE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .tif .tiff .webp".split())


@dataclass
class Prediction:
    """What `predict_files` did."""

    detections: list[dict]
    pictures: list[Path] = field(default_factory=list)
    """Drawn pictures."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason by input file."""


def predict_files(
    inputs: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    output_dir: str | os.PathLike,
    threshold: float = 0.5,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    top_k: int = 100,
    nms_threshold: float | None = None,
    one_label_per_query: bool = False,
    frame_step: int = 1,
) -> Prediction:
    """Detects objects and writes, below `output_dir`, each picture with its boxes, and `predictions.json`.

    The list in that file has `{"image_id", "file_name", "category_id", "category_name", "bbox", "score"}` for each
    detection: images are counted from 1; `file_name` is that of the drawn picture below `output_dir`, which is the
    input's below its folder unless another input has the same; the category id is that of the set
    which the model was trained on (`config.category_ids`), or else the label; `bbox` is x, y, width, height in pixels
    of the upright picture, not clipped to it.

    Args:
        inputs: pictures, videos, and folders that are searched for both to any depth.
        model: folder or Hub repository.
        threshold, top_k, nms_threshold, one_label_per_query: as in `post_process_object_detection`.
        batch_size: pictures that go through the model together.
        device: by default CUDA, else MPS, else the CPU.
        frame_step: of videos, every so many-th frame.

    Raises:
        ValueError: a number is out of its range, there is nothing to read, or an input lies in `output_dir`.
    """
    for name, value in (("batch_size", batch_size), ("frame_step", frame_step), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    for name, value in (("threshold", threshold), ("nms_threshold", nms_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1.")
    output = Output(Path(output_dir))
    sources = find_sources(inputs, leave_out=output.folder)
    if not sources:
        raise ValueError(f"No pictures or videos in {', '.join(map(str, inputs)) or 'no inputs'}.")

    device = torch.device(device or default_device())
    processor = AutoImageProcessor.from_pretrained(model)
    detector = AutoModelForObjectDetection.from_pretrained(model).to(device).eval()
    names = detector.config.id2label
    colors = class_colors(names.values())
    category_ids = own_category_ids(detector.config)

    result = Prediction([])
    total = None if any(source.is_video for source in sources) else len(sources)
    pictures = with_progress(_readable(sources, frame_step, result.unreadable), total)
    image_ids = itertools.count(1)
    while batch := list(itertools.islice(pictures, batch_size)):
        images = [image for _, image in batch]
        options = {"top_k": top_k, "nms_threshold": nms_threshold, "one_label_per_query": one_label_per_query}
        found = _detect(detector, processor, images, threshold=threshold, **options)
        for (name, image), detections in zip(batch, found, strict=True):
            labels = [names[label] for label in detections["labels"].tolist()]
            categories = [category_ids[label] for label in detections["labels"].tolist()]
            drawn = draw_detections(image, detections["boxes"], labels, detections["scores"], colors)
            file_name = output.write(drawn, name)
            result.pictures.append(output.folder / file_name)
            result.detections += _coco_rows(next(image_ids), file_name, detections, categories, labels)
    output.write_json(result.detections)
    return result


def own_category_ids(config: PreTrainedConfig) -> list[int]:
    """For each label the id of its class in the set that the model was trained on, or the label where none is known."""
    category_ids = getattr(config, "category_ids", None) or []
    return list(category_ids) if len(category_ids) == config.num_labels else list(range(config.num_labels))


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class Output:
    """Writes pictures in one folder, each under a name of its own, and never outside of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.taken = {PREDICTIONS_FILE}

    def write(self, image: Image.Image, name: str) -> str:
        """Writes the picture and returns its path below the folder: `name`, or `name-2` where that is taken.

        The suffix stays where Pillow writes such files without loss of colour; otherwise `.png` is added.
        """
        file_name = self._own_name(PurePosixPath(name))
        path = self._parent(file_name) / PurePosixPath(file_name).name
        partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        image.save(partial, quality=92)
        os.replace(partial, path)  # a link that stands there is replaced, not followed
        return file_name

    def write_json(self, detections: list[dict]) -> None:
        path = self._parent(PREDICTIONS_FILE) / PREDICTIONS_FILE
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(detections, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def _own_name(self, name: PurePosixPath) -> str:
        name = name if name.suffix.lower() in WRITABLE_SUFFIXES else name.with_name(name.name + ".png")
        candidates = (name.with_stem(f"{name.stem}-{number}") for number in itertools.count(2))
        for candidate in itertools.chain([name], candidates):
            key = str(candidate).casefold()  # some file systems do not tell upper from lower case
            if key not in self.taken:
                self.taken.add(key)
                return str(candidate)

    def _parent(self, file_name: str) -> Path:
        """The existing folder for the file."""
        folder = self.folder.resolve()
        parent = (folder / file_name).parent
        if not parent.resolve().is_relative_to(folder):
            raise ValueError(f"{file_name} would be written outside of output_dir={self.folder}.")
        parent.mkdir(parents=True, exist_ok=True)
        return parent


def _readable(sources: list[Source], frame_step: int, unreadable: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of the sources; what cannot be read is noted in `unreadable` and left out."""
    for source in sources:
        try:
            yield from read_pictures(source, frame_step)
        except Exception as error:  # decoders raise all kinds for broken files, and the other files are still good
            unreadable[str(source.path)] = str(error) or type(error).__name__


@torch.inference_mode()
def _detect(model, processor, images: list[Image.Image], **options) -> list[dict[str, Tensor]]:
    """For each image `scores`, `labels` and `boxes`, x1 y1 x2 y2 in its pixels, on the CPU."""
    inputs = processor(images, return_tensors="pt").to(model.device)
    sizes = [(image.height, image.width) for image in images]
    results = processor.post_process_object_detection(model(**inputs), target_sizes=sizes, **options)
    return [{name: values.cpu() for name, values in result.items()} for result in results]


def _coco_rows(
    image_id: int, file_name: str, detections: dict[str, Tensor], categories: list[int], names: list[str]
) -> list[dict]:
    x1, y1, x2, y2 = detections["boxes"].double().unbind(-1)
    boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], -1).tolist()
    columns = categories, names, boxes, detections["scores"].tolist()
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_id,
            "category_name": category_name,
            "bbox": bbox,
            "score": score,
        }
        for category_id, category_name, bbox, score in zip(*columns, strict=True)
    ]
