"""What a visitor has uploaded, and all that the page does with it; nothing here knows of a browser."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..prediction import NMS_THRESHOLD
from ..prediction.coco_rows import coco_rows
from ..prediction.detector import enlargement
from ..prediction.sources import PICTURE_SUFFIXES
from ..visualization.explain import attention_figure, figure_to_picture, find_best, same_object
from .candidates import Candidates, at_point
from .limits import Limits, Refused, read_upload
from .served_model import ServedModel

SHORTEST_SIDE = 480
"""A smaller picture is enlarged before its boxes are drawn, if that is at least twice."""
_keys = itertools.count()


@dataclass(frozen=True)
class Choice:
    """Where the page's controls stand."""

    threshold: float
    top_k: int
    once: bool
    """Whether duplicates are left out."""

    def of(self, candidates: Candidates) -> dict[str, Tensor]:
        """The detections that are shown."""
        return candidates.select(self.threshold, int(self.top_k), NMS_THRESHOLD if self.once else None)


@dataclass(frozen=True)
class Picture:
    """An upload, with the detections of each model."""

    name: str
    image: Image.Image
    candidates: tuple[Candidates, ...]
    seconds: tuple[float, ...]
    key: int = field(default_factory=lambda: next(_keys))


def read_pictures(
    paths: Sequence[str], models: Sequence[ServedModel], limits: Limits
) -> tuple[list[Picture], list[str]]:
    """Pictures with their detections, and for each file that is left out the reason."""
    # a folder brings along what is no picture; a file that was chosen by itself is always tried
    files = [path for path in map(Path, paths) if len(paths) == 1 or path.suffix.lower() in PICTURE_SUFFIXES]
    notes, pictures, begin = [], [], time.monotonic()
    if others := len(paths) - len(files):
        notes.append("1 file is no picture." if others == 1 else f"{others} files are no pictures.")
    if len(files) > limits.pictures:
        notes.append(f"{len(files)} pictures: the first {limits.pictures} are taken.")
    for path in sorted(files, key=lambda path: path.name)[: limits.pictures]:
        if time.monotonic() - begin > limits.seconds:
            notes.append(f"Stopped after {limits.seconds:g} s, before {path.name}.")
            break
        try:
            image = read_upload(path, limits)
        except Refused as error:
            notes.append(str(error))
            continue
        candidates, seconds = zip(*(_timed(model, image) for model in models), strict=True)
        pictures.append(Picture(path.name, image, candidates, seconds))
    return pictures, notes


def _timed(model: ServedModel, image: Image.Image) -> tuple[Candidates, float]:
    begin = time.perf_counter()
    candidates = model.candidates(image)
    return candidates, time.perf_counter() - begin


def draw(picture: Picture, models: Sequence[ServedModel], choice: Choice) -> list[Image.Image]:
    """The picture with its boxes, of each model; a small one is enlarged."""
    return [
        model.detector.draw(picture.image, choice.of(candidates), SHORTEST_SIDE)
        for model, candidates in zip(models, picture.candidates, strict=True)
    ]


def describe(picture: Picture, models: Sequence[ServedModel], choice: Choice) -> list[str]:
    """A line about the picture for each model."""
    lines = []
    for model, candidates, seconds in zip(models, picture.candidates, picture.seconds, strict=True):
        count = len(choice.of(candidates)["scores"])
        lines.append(f"{model.name}: {count} detection{'s' * (count != 1)}, {seconds:.2f} s")
    return lines


def rows(pictures: Sequence[Picture], models: Sequence[ServedModel], choice: Choice) -> list[dict]:
    """The list of `predict_files` for all pictures; of several models with the name of each as `model`."""
    found = []
    for image_id, picture in enumerate(pictures, start=1):
        for model, candidates in zip(models, picture.candidates, strict=True):
            own = coco_rows(image_id, picture.name, choice.of(candidates), model.detector)
            found += own if len(models) == 1 else [{**row, "model": model.name} for row in own]
    return found


def explain(
    picture: Picture, models: Sequence[ServedModel], choice: Choice, clicked: int, x: float, y: float
) -> Image.Image | None:
    """The paper's Fig. 5 of the box at a point, for that model and then for the others; None where there is no box.

    Args:
        picture: that was clicked on.
        models, choice: as it is drawn.
        clicked: index of the model whose picture it was.
        x, y: in pixels of the picture as `draw` returns it.
    """
    detections = choice.of(picture.candidates[clicked])
    times = enlargement(picture.image, SHORTEST_SIDE)
    index = at_point(detections, x / times, y / times)
    if index is None:
        return None
    ordered = [models[clicked], *models[:clicked], *models[clicked + 1 :]]
    observations = [model.observation(picture.key, picture.image) for model in ordered]
    only = {name: values[index : index + 1] for name, values in detections.items()}
    (found,) = find_best(observations[0], only, count=1)
    queries, titles = same_object(observations, [model.name for model in ordered], found)
    return figure_to_picture(attention_figure(observations, queries, titles))
