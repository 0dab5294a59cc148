"""Files, folders and videos to drawn pictures and a list of detections."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..modeling_sam_detr import SamDetrForObjectDetection
from ..pictures import UnreadablePictureError
from .detector import NMS_THRESHOLD, Detector, Threshold, about_duplicates, choose_threshold
from .prediction_page import SHORTEST_SIDE, PredictionPage
from .sources import Source, find_sources, read_pictures
from .writers import OutputFolder

EXPLAINED = "explained"
"""Folder of the figures, below that of the drawn pictures."""
KINDS = ("overview", "heads", "boxes", "alignment")
"""Figures: all on one page; the paper's Fig. 5; boxes by layer; similarity before and after the aligner."""

Item = TypeVar("Item")


@dataclass
class Prediction:
    """What `predict_files` did.

    Attributes:
        threshold: the score above which detections are drawn and listed.
        detections: rows of `predictions.json`.
        pictures: paths of the drawn pictures.
        explanations: paths of the figures.
        unreadable: reason by input file.
    """

    threshold: Threshold
    detections: list[dict] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    explanations: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def predict_files(
    inputs: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    output_dir: str | os.PathLike,
    threshold: float | None = None,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    top_k: int = 100,
    nms_threshold: float | None = NMS_THRESHOLD,
    one_label_per_query: bool = False,
    frame_step: int = 1,
    explain: Sequence[str] = (),
    explain_top: int = 3,
    compare_with: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
) -> Prediction:
    """Detects objects and writes, below `output_dir`, each picture with its boxes, and `predictions.json`.

    The list in that file has `{"image_id", "file_name", "category_id", "category_name", "bbox", "score"}` for each
    detection that is drawn: images are counted from 1; `file_name` is that of the drawn picture below `output_dir`,
    which is the input's below its folder unless another input has the same; the category id is that of the set
    which the model was trained on (`config.category_ids`), or else the label; `bbox` is x, y, width, height in pixels
    of the upright picture, not clipped to it.

    Args:
        inputs: pictures, videos, and folders that are searched for both to any depth.
        model: folder or Hub repository.
        threshold: detections have a higher score; None for that of the model, see `choose_threshold`.
        top_k, one_label_per_query: as in `post_process_object_detection`.
        nms_threshold: IoU above which the lower of two boxes with the same label is dropped; None drops nothing, which
            is the authors' way, and the one to measure with.
        batch_size: pictures in a forward pass.
        device: by default CUDA, else MPS, else the CPU.
        frame_step: of videos, every n-th frame.
        explain: kinds of figures to write below `output_dir/explained`, some of `KINDS`.
        explain_top: number of detections of a picture that are explained, the best ones.
        compare_with: folder or Hub repository of a second model for the figures of the heads.
        report: path of an HTML page with all pictures and figures inside, or None.

    Raises:
        ValueError: a number is out of its range, there is nothing to read, an input lies in `output_dir`, or `explain`
            does not fit the model.
        ImportError: figures or a page need a package that is not installed; the message names it.
    """
    for name, value in (("batch_size", batch_size), ("frame_step", frame_step), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    for name, value in (("threshold", threshold), ("nms_threshold", nms_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1.")
    output = OutputFolder(Path(output_dir))
    sources = find_sources(inputs, leave_out=output.folder)
    if not sources:
        raise ValueError(f"No pictures or videos in {', '.join(map(str, inputs)) or 'no inputs'}.")

    detector = Detector(model, device)
    explainer = None
    if explain or compare_with is not None:
        other = None if compare_with is None else Detector(compare_with, device)
        explainer = Explainer(detector, explain, explain_top, other)
    result = Prediction(choose_threshold(detector.model.config, threshold))
    page = None if report is None else PredictionPage(Path(report), detector.short_name)
    options = {"top_k": top_k, "nms_threshold": nms_threshold, "one_label_per_query": one_label_per_query}
    total = None if any(source.is_video for source in sources) else len(sources)
    pictures = _with_progress(_readable(sources, frame_step, result.unreadable), total)
    image_ids = itertools.count(1)
    while batch := list(itertools.islice(pictures, batch_size)):
        found = detector.detect([image for _, image in batch], result.threshold.value, **options)
        for (name, image), detections in zip(batch, found, strict=True):
            file_name = output.write_picture(detector.draw(image, detections), name)
            result.pictures.append(output.folder / file_name)
            result.detections += detector.coco_rows(next(image_ids), file_name, detections)
            figures = {} if explainer is None else dict(explainer.figures(image, detections))
            for kind, figure in figures.items():
                path = output.write_picture(
                    figure, f"{EXPLAINED}/{PurePosixPath(file_name).with_suffix('')}-{kind}.png"
                )
                result.explanations.append(output.folder / path)
            if page is not None:
                classes = [detector.names[label] for label in detections["labels"].tolist()]
                page.add(name, detector.draw(image, detections, SHORTEST_SIDE), classes, list(figures.values()))
    output.write_json(result.detections)
    if page is not None:
        page.write([str(result.threshold), about_duplicates(nms_threshold)], result.unreadable)
    return result


class Explainer:
    """Draws figures of what a model looked at, for the best detections of each picture.

    Args:
        detector: of a SAM-DETR.
        kinds: some of `KINDS`.
        count: number of detections of a picture that are explained, the best ones.
        other: a second SAM-DETR, such as one without the aligner; `heads` shows its attention to the same object below.

    Raises:
        ValueError: a kind is unknown or does not fit this model, `count` is below 1, or `other` is given without
            `heads`.
        ImportError: matplotlib is not installed.
    """

    def __init__(self, detector: Detector, kinds: Sequence[str], count: int = 3, other: Detector | None = None):
        from ..visualization import explain  # here, since it needs matplotlib

        self.draw, self.detector, self.kinds, self.count, self.other = explain, detector, kinds, count, other
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"explain={unknown[0]!r} is not a kind of figure: choose from {', '.join(KINDS)}.")
        if count < 1:
            raise ValueError(f"explain_top={count} must be at least 1.")
        if other is not None and "heads" not in kinds:
            raise ValueError("compare_with shows in the figure of the heads: explain them too (--explain heads).")
        for model in (one.model for one in (detector, other) if one is not None):
            if not isinstance(model, SamDetrForObjectDetection):
                raise ValueError(f"Only SAM-DETRs can be explained, not a {type(model).__name__}.")
        if "alignment" in kinds and detector.model.config.query_resampling == "none":
            raise ValueError("explain='alignment' needs an aligner: this model has no aligner.")

    def figures(self, image: Image.Image, detections: dict[str, Tensor]) -> Iterator[tuple[str, Image.Image]]:
        """Names, such as `overview` or `heads-2`, and pictures of the figures; none where nothing is detected.

        Args:
            image: upright RGB.
            detections: of it, as `Detector.detect` returns them.
        """
        if not len(detections["scores"]):
            return
        draw, detectors = self.draw, [self.detector, *([self.other] if self.other is not None else [])]
        observation = draw.observe(self.detector.model, self.detector.processor, image)
        found = draw.find_best(observation, detections, self.count)
        if "overview" in self.kinds:
            yield "overview", draw.figure_to_picture(draw.explanation_figure(observation, found))
        if "heads" in self.kinds:
            observations = [observation, *(draw.observe(one.model, one.processor, image) for one in detectors[1:])]
            for number, one in enumerate(found, start=1):
                queries, titles = draw.same_object(observations, [each.short_name for each in detectors], one)
                yield f"heads-{number}", draw.figure_to_picture(draw.attention_figure(observations, queries, titles))
        if "boxes" in self.kinds:
            yield "boxes", draw.figure_to_picture(draw.box_path_figure(observation, found))
        if "alignment" in self.kinds:
            yield "alignment", draw.figure_to_picture(draw.alignment_figure(observation, found))


def _readable(sources: list[Source], frame_step: int, unreadable: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of the sources; what cannot be read is noted in `unreadable` and left out."""
    for source in sources:
        try:
            yield from read_pictures(source, frame_step)
        except Exception as error:  # decoders raise all kinds for broken files, and the other files are still good
            reason = error.reason if isinstance(error, UnreadablePictureError) else str(error)
            unreadable[str(source.path)] = reason or type(error).__name__


def _with_progress(items: Iterable[Item], total: int | None) -> Iterator[Item]:
    """The items, counted on stderr by rich where it is installed, otherwise by tqdm, which Transformers brings."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc="Detecting", unit="picture")
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description="Detecting")
