"""Pictures of files, folders and videos to drawn pictures and a list of detections."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

from ..pictures import UnreadablePictureError
from .coco_rows import coco_rows
from .detector import NMS_THRESHOLD, Detector, about_duplicates
from .explain import Explainer
from .output import Output
from .progress import with_progress
from .report import SHORTEST_SIDE, Report
from .sources import Source, find_sources, read_pictures
from .threshold import Threshold, choose_threshold

EXPLAINED = "explained"
"""Folder of the figures, below that of the drawn pictures."""


@dataclass
class Prediction:
    """What `predict_files` did."""

    threshold: Threshold
    detections: list[dict] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    """Drawn pictures."""
    explanations: list[Path] = field(default_factory=list)
    """Figures of why they were found."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason by input file."""


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
        batch_size: pictures that go through the model together.
        device: by default CUDA, else MPS, else the CPU.
        frame_step: of videos, every so many-th frame.
        explain: kinds of figures to write below `output_dir/explained`, some of `KINDS`.
        explain_top: so many detections of a picture are explained, the best ones.
        compare_with: folder or Hub repository of a second model for the figures of the heads.
        report: path of an HTML page with all pictures and figures inside, or None.

    Raises:
        ValueError: a number is out of its range, there is nothing to read, an input lies in `output_dir`, or what is to
            be explained cannot be.
        ImportError: figures or a page need a package that is not installed; the message names it.
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

    detector = Detector(model, device)
    explainer = None
    if explain or compare_with is not None:
        other = None if compare_with is None else Detector(compare_with, device)
        explainer = Explainer(detector, explain, explain_top, other)
    result = Prediction(choose_threshold(detector.model.config, threshold))
    page = None if report is None else Report(Path(report), detector.short_name)
    options = {"top_k": top_k, "nms_threshold": nms_threshold, "one_label_per_query": one_label_per_query}
    total = None if any(source.is_video for source in sources) else len(sources)
    pictures = with_progress(_readable(sources, frame_step, result.unreadable), total)
    image_ids = itertools.count(1)
    while batch := list(itertools.islice(pictures, batch_size)):
        found = detector.detect([image for _, image in batch], result.threshold.value, **options)
        for (name, image), detections in zip(batch, found, strict=True):
            drawn = detector.draw(image, detections)
            file_name = output.write(drawn, name)
            result.pictures.append(output.folder / file_name)
            result.detections += coco_rows(next(image_ids), file_name, detections, detector)
            figures = {} if explainer is None else dict(explainer.figures(image, detections))
            for kind, figure in figures.items():
                stem = PurePosixPath(file_name).with_suffix("")
                path = output.write(figure, f"{EXPLAINED}/{stem}-{kind}.png")
                result.explanations.append(output.folder / path)
            if page is not None:
                classes = [detector.names[label] for label in detections["labels"].tolist()]
                page.add(name, detector.draw(image, detections, SHORTEST_SIDE), classes, list(figures.values()))
    output.write_json(result.detections)
    if page is not None:
        page.write([str(result.threshold), about_duplicates(nms_threshold)], result.unreadable)
    return result


def _readable(sources: list[Source], frame_step: int, unreadable: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of the sources; what cannot be read is noted in `unreadable` and left out."""
    for source in sources:
        try:
            yield from read_pictures(source, frame_step)
        except Exception as error:  # decoders raise all kinds for broken files, and the other files are still good
            reason = error.reason if isinstance(error, UnreadablePictureError) else str(error)
            unreadable[str(source.path)] = reason or type(error).__name__
