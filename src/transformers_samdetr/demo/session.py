"""What the demo does with uploads: reads, detects, selects, draws, explains. Nothing here knows of a browser."""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from ..modeling_sam_detr import SamDetrForObjectDetection
from ..pictures import PICTURE_SUFFIXES, UnreadablePictureError, opened_picture, picture_to_array
from ..prediction import NMS_THRESHOLD, Detector, choose_threshold, plural
from ..prediction.detector import enlargement
from ..visualization.explain import Observation, attention_figure, figure_to_picture, find_best, observe, same_object
from . import UploadLimits

SHORTEST_SIDE = 480
"""Pixels that a smaller picture is enlarged to before its boxes are drawn."""
MAX_CANDIDATES = 300
"""Detections of a picture that are kept for the sliders to choose from."""
KEPT_SECONDS = 3600
"""After an hour what was uploaded, drawn or written is deleted from the disk."""
_keys = itertools.count()


class UploadError(UnreadablePictureError):
    """An upload that is refused; the message names the file and the reason."""


def read_upload(path: str | os.PathLike, limits: UploadLimits) -> Image.Image:
    """The upright RGB picture of a file.

    Raises:
        UploadError: it is too large, empty, or not a readable picture.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise UploadError(f"{path.name} has {size / 1e6:.1f} MB, at most {limits.megabytes} MB are allowed.")
    if not size:
        raise UploadError(f"{path.name} is empty.")
    try:
        with opened_picture(path, path.name) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > limits.megapixels:
                raise UploadError(
                    f"{path.name} has {image.width} x {image.height} pixels, {megapixels:.0f} megapixels: at most "
                    f"{limits.megapixels:g} are allowed."
                )
            return Image.fromarray(picture_to_array(image))
    except UploadError:
        raise
    except UnreadablePictureError as error:
        raise UploadError(f"{path.name} cannot be read: {error.reason.replace(str(path), path.name)}.") from error


@dataclass(frozen=True)
class Choice:
    """Where the page's controls stand."""

    threshold: float
    top_k: int
    merge_duplicates: bool

    def select(self, candidates: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the detections of any score, what `Detector.detect` returns with these options, without the model."""
        scores, labels, boxes = candidates["scores"], candidates["labels"], candidates["boxes"]
        keep = torch.arange(len(scores))[: int(self.top_k)]
        keep = keep[scores[keep] > self.threshold]
        if self.merge_duplicates:
            keep = keep[batched_nms(boxes[keep], scores[keep], labels[keep], NMS_THRESHOLD)]
        return {name: values[keep] for name, values in candidates.items()}


class ServedModel:
    """A detector that several visitors share: one picture goes through it at a time.

    Args:
        model: folder or Hub repository of a SAM-DETR.
        device: as in `Detector`.

    Raises:
        ValueError: it is another kind of model, which the page could not explain.
    """

    def __init__(self, model: str | os.PathLike, device: str | torch.device | None = None):
        self.detector = Detector(model, device)
        if not isinstance(self.detector.model, SamDetrForObjectDetection):
            raise ValueError(f"{model} is a {type(self.detector.model).__name__}: the demo shows SAM-DETRs.")
        self.name = self.detector.short_name
        self.threshold = choose_threshold(self.detector.model.config)
        self._lock = threading.Lock()
        self._last: tuple[int, Observation] | None = None  # clicks often follow each other on one picture

    def candidates(self, image: Image.Image) -> tuple[dict[str, Tensor], float]:
        """All detections of a picture, whatever their score, and the seconds that they took."""
        begin = time.perf_counter()
        with self._lock:
            (found,) = self.detector.detect([image], threshold=-1.0, top_k=MAX_CANDIDATES, nms_threshold=None)
        return found, time.perf_counter() - begin

    def observation(self, key: int, image: Image.Image) -> Observation:
        """What the model looks at on a picture; `key` identifies the picture."""
        with self._lock:
            if self._last is None or self._last[0] != key:
                self._last = None  # free it before the next is made, both may be large
                self._last = key, observe(self.detector.model, self.detector.processor, image)
            return self._last[1]


@dataclass(frozen=True)
class UploadedPicture:
    """A picture with the detections of each model, and the seconds that they took."""

    name: str
    image: Image.Image
    candidates: tuple[dict[str, Tensor], ...]
    seconds: tuple[float, ...]
    key: int = field(default_factory=lambda: next(_keys))


def read_pictures(
    paths: Sequence[str], models: Sequence[ServedModel], limits: UploadLimits
) -> tuple[list[UploadedPicture], list[str]]:
    """Pictures with their detections, and a line about what was left out."""
    # a folder also has files that are no pictures; a file that was chosen by itself is always tried
    files = [path for path in map(Path, paths) if len(paths) == 1 or path.suffix.lower() in PICTURE_SUFFIXES]
    notes, pictures, begin = [], [], time.monotonic()
    if others := len(paths) - len(files):
        notes.append("1 file is no picture." if others == 1 else f"{others} files are no pictures.")
    if len(files) > limits.pictures:
        notes.append(f"Only the first {limits.pictures} of {len(files)} pictures are shown.")
    for path in sorted(files, key=lambda path: path.name)[: limits.pictures]:
        if time.monotonic() - begin > limits.seconds:
            notes.append(f"Stopped after {limits.seconds:g} s, before {path.name}.")
            break
        try:
            image = read_upload(path, limits)
        except UploadError as error:
            notes.append(str(error))
            continue
        candidates, seconds = zip(*(model.candidates(image) for model in models), strict=True)
        pictures.append(UploadedPicture(path.name, image, candidates, seconds))
    return pictures, notes


def draw(picture: UploadedPicture, models: Sequence[ServedModel], choice: Choice) -> list[Image.Image]:
    """The picture with its boxes for each model; a small one is enlarged."""
    return [
        model.detector.draw(picture.image, choice.select(candidates), SHORTEST_SIDE)
        for model, candidates in zip(models, picture.candidates, strict=True)
    ]


def describe(picture: UploadedPicture, models: Sequence[ServedModel], choice: Choice) -> list[str]:
    """A line about the picture for each model."""
    lines = []
    for model, candidates, seconds in zip(models, picture.candidates, picture.seconds, strict=True):
        count = plural(len(choice.select(candidates)["scores"]), "detection")
        lines.append(f"{model.name}: {count}, {seconds:.2f} s")
    return lines


def rows(pictures: Sequence[UploadedPicture], models: Sequence[ServedModel], choice: Choice) -> list[dict]:
    """The list of `predict_files` for all pictures; of several models with the name of each as `model`."""
    found = []
    for image_id, picture in enumerate(pictures, start=1):
        for model, candidates in zip(models, picture.candidates, strict=True):
            own = model.detector.coco_rows(image_id, picture.name, choice.select(candidates))
            found += own if len(models) == 1 else [{**row, "model": model.name} for row in own]
    return found


def explain(
    picture: UploadedPicture, models: Sequence[ServedModel], choice: Choice, clicked: int, x: float, y: float
) -> Image.Image | None:
    """The paper's Fig. 5 of the smallest box at a point, for that model and then for the others; None without a box.

    Args:
        picture: that was clicked on.
        models, choice: as it is drawn.
        clicked: index of the model whose picture it was.
        x, y: in pixels of the picture as `draw` returns it.
    """
    detections = choice.select(picture.candidates[clicked])
    times = enlargement(picture.image, SHORTEST_SIDE)
    x1, y1, x2, y2 = (times * detections["boxes"]).unbind(-1)
    areas = torch.where((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2), (x2 - x1) * (y2 - y1), torch.inf)
    if not areas.isfinite().any():
        return None
    index = int(areas.argmin())
    ordered = [models[clicked], *models[:clicked], *models[clicked + 1 :]]
    observations = [model.observation(picture.key, picture.image) for model in ordered]
    only = {name: values[index : index + 1] for name, values in detections.items()}
    (found,) = find_best(observations[0], only, count=1)
    queries, titles = same_object(observations, [model.name for model in ordered], found)
    return figure_to_picture(attention_figure(observations, queries, titles))


class Downloads:
    """A temporary folder of files that are all called `predictions.json`; it is deleted when the process ends."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="samdetr-demo-")

    def write(self, found: list[dict]) -> str:
        """Writes the list and returns the path, the same for the same list; Gradio takes a copy of the file."""
        for folder in Path(self._folder.name).iterdir():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        path = Path(self._folder.name, hashlib.sha256(text.encode()).hexdigest()[:16], "predictions.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)
