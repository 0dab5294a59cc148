"""Files, folders, videos and streams to drawn pictures and lists of detections."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from ..export.exported_detector import is_exported
from ..modeling_sam_detr import SamDetrForObjectDetection
from ..pictures import UnreadablePictureError
from ..visualization import numbered_names
from .converters import LOW_SCORE, ObjectTracker
from .detector import NMS_THRESHOLD, Detector, Threshold, about_duplicates, choose_threshold
from .prediction_page import SHORTEST_SIDE, PredictionPage
from .sources import Source, SourcePicture, find_sources, read_pictures
from .writers import FORMATS, LABELS_FOLDER, PREDICTIONS_FILE, OutputFolder

EXPLAINED = "explained"
"""Folder of the figures, below that of the drawn pictures."""
KINDS = ("overview", "heads", "boxes", "alignment")
"""Figures: all on one page; the paper's Fig. 5; boxes by layer; similarity before and after the aligner."""


@dataclass
class Prediction:
    """What `predict_files` did.

    Attributes:
        threshold: the score above which detections are drawn and listed.
        legend: the classes that pictures show by number, in words; empty where fonts have all names.
        detections: rows of `predictions.json`.
        pictures, explanations: paths of the drawn pictures and of the figures.
        unreadable: reason by input.
    """

    threshold: Threshold
    legend: str = ""
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
    max_frames: int | None = None,
    track: bool = False,
    formats: Sequence[str] = ("coco",),
    save_crop: bool = False,
    show_fps: bool = False,
    on_picture: Callable[[dict], None] | None = None,
    explain: Sequence[str] = (),
    explain_top: int = 3,
    compare_with: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
) -> Prediction:
    """Detects objects and writes, below `output_dir`, each picture with its boxes, and `predictions.json`.

    Each detection that is drawn is `{"image_id", "file_name", "category_id", "category_name", "bbox", "score"}` in that
    file, and after tracking `track_id`: images count from 1; `file_name` is that of the drawn picture below
    `output_dir`, which is the input's below its folder unless another input has the same; the category id is that of
    the set which the model was trained on (`config.category_ids`), or else the label; `bbox` is x, y, width, height in
    pixels of the upright picture, not clipped to it.

    A camera or a stream has no end. Unless `max_frames` is given, only its latest picture is kept, and its detections
    are written to `predictions.jsonl` and given to `on_picture`, but not kept.

    Args:
        inputs: pictures, videos, folders, patterns, addresses, cameras, see `find_sources`.
        model, compare_with: folder or Hub repository; the second is compared in the figures of the heads.
        device: by default CUDA, else MPS, else the CPU.
        top_k, one_label_per_query: as in `post_process_object_detection`.
        threshold: detections have a higher score; None for that of the model, see `choose_threshold`.
        nms_threshold: IoU above which the lower of two boxes with the same label is dropped; None drops nothing, which
            is the authors' way, and the one to measure with.
        frame_step, max_frames: of videos, every n-th frame, and at most so many of each input, or None for all.
        track: whether objects get ids that stay with them from frame to frame; successive pictures count as frames.
        formats: lists to write, some of `FORMATS`.
        save_crop, show_fps: whether to write the part of the picture in each box, and the pictures a second on each.
        on_picture: called after each picture with its `image_id`, `source`, `frame`, `seconds`, `file_name`, `width`,
            `height` and `detections`.
        explain, explain_top: figures, some of `KINDS`, of so many best detections, below `output_dir/explained`.
        report: path of an HTML page with all pictures and figures inside, or None.

    Raises:
        ValueError: a number is out of its range, there is nothing to read, an input lies in `output_dir`, or `explain`
            does not fit the model.
        ImportError: figures, a page or tracking need a package that is not installed; the message names it.
    """
    numbers = {"batch_size": batch_size, "frame_step": frame_step, "top_k": top_k, "max_frames": max_frames}
    for name, value in {**numbers, "explain_top": explain_top}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    for name, value in (("threshold", threshold), ("nms_threshold", nms_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1.")
    for name, values, known in (("formats", formats, FORMATS), ("explain", explain, KINDS)):
        if unknown := [value for value in values if value not in known]:
            raise ValueError(f"{name}={unknown[0]!r} must be one of {', '.join(known)}.")
    output = OutputFolder(Path(output_dir))
    sources = find_sources(inputs, leave_out=output.folder)
    if not sources:
        raise ValueError(f"No pictures or videos in {', '.join(map(str, inputs)) or 'no inputs'}.")
    if track:
        ObjectTracker(0.5)  # names a missing package before the model is loaded

    if (explain or compare_with is not None) and is_exported(model):
        raise ValueError(f"explain needs the layers of a model: give the folder that {model} was exported from.")
    detector = Detector(model, device)
    explainer = None
    if explain or compare_with is not None:
        other = None if compare_with is None else Detector(compare_with, device)
        explainer = Explainer(detector, explain, explain_top, other)
    result = Prediction(choose_threshold(detector.model.config, threshold))
    numbered = numbered_names(detector.names)
    if numbered:
        names = ", ".join(f"#{label} is {name}" for label, name in numbered.items())
        result.legend = f"No font on this system has the letters of some names, pictures show numbers: {names}."
    page = None if report is None else PredictionPage(Path(report), detector.short_name)
    options = {"top_k": top_k, "nms_threshold": nms_threshold, "one_label_per_query": one_label_per_query}
    lowest = result.threshold.value * (LOW_SCORE if track else 1)
    total = None if any(source.is_video for source in sources) else len(sources)
    pictures = _readable(sources, frame_step, max_frames, result.unreadable)
    pictures = iter(tqdm(pictures, "Detecting", total, unit="picture"))
    writes_lines = "jsonl" in formats or any(source.is_live for source in sources)
    image_ids, tracker, tracked, begin = itertools.count(1), None, None, time.perf_counter()
    while batch := list(itertools.islice(pictures, batch_size)):
        found = detector.detect([picture.image for _, picture in batch], lowest, **options)
        for (source, picture), detections in zip(batch, found, strict=True):
            image, image_id = picture.image, next(image_ids)
            is_kept = max_frames is not None or not source.is_live
            if track:
                sequence = source if source.is_video else None  # pictures are one sequence
                if tracker is None or sequence != tracked:
                    tracker, tracked = ObjectTracker(result.threshold.value), sequence
                detections = tracker.update(detections)
            drawn = detector.draw(image, detections)
            if show_fps:  # white on black in the top left corner
                text = f"{image_id / (time.perf_counter() - begin):.1f} FPS"
                font, draw = ImageFont.load_default(max(12, min(image.size) // 24)), ImageDraw.Draw(drawn)
                draw.rectangle((0, 0, *draw.textbbox((4, 2), text, font=font)[2:]), fill="black")
                draw.text((4, 2), text, fill="white", font=font)
            name = picture.name if is_kept else f"{source.name}/latest.jpg"
            file_name = output.write_picture(drawn, name, replace=not is_kept)
            rows = detector.coco_rows(image_id, file_name, detections)
            line = {"image_id": image_id, "source": str(source.path), "frame": picture.frame}
            line |= {"seconds": picture.seconds, "file_name": file_name, "width": image.width, "height": image.height}
            left_out = "image_id", "file_name"
            line["detections"] = [{key: row[key] for key in row if key not in left_out} for row in rows]
            if on_picture is not None:
                on_picture(line)
            if writes_lines:
                output.append_line(json.dumps(line, ensure_ascii=False))
            if not is_kept:
                continue
            result.pictures.append(output.folder / file_name)
            result.detections += rows
            if "yolo" in formats:
                output.write_yolo(file_name, image, detections)
            if save_crop:
                output.write_crops(file_name, image, detections, detector.names)
            figures = {} if explainer is None else dict(explainer.figures(image, detections))
            for kind, figure in figures.items():
                name = f"{EXPLAINED}/{PurePosixPath(file_name).with_suffix('')}-{kind}.png"
                result.explanations.append(output.folder / output.write_picture(figure, name))
            if page is not None:
                classes = [detector.names[label] for label in detections["labels"].tolist()]
                page.add(picture.name, detector.draw(image, detections, SHORTEST_SIDE), classes, list(figures.values()))
    if "coco" in formats:
        output.write_text(PREDICTIONS_FILE, json.dumps(result.detections, indent=1, ensure_ascii=False) + "\n")
    if "csv" in formats:
        output.write_csv(result.detections)
    if "yolo" in formats:
        output.write_text(f"{LABELS_FOLDER}/classes.txt", "".join(f"{name}\n" for name in detector.names))
    if page is not None:
        page.write([str(result.threshold), about_duplicates(nms_threshold)], result.unreadable, numbered)
    return result


class Explainer:
    """Draws figures of what a SAM-DETR looked at, for its `count` best detections of each picture.

    `kinds` are some of `KINDS`; `heads` shows below the attention of an `other` model to the same object.
    """

    def __init__(self, detector: Detector, kinds: Sequence[str], count: int = 3, other: Detector | None = None):
        from ..visualization import explain  # here, since it needs matplotlib

        self.draw, self.kinds, self.count = explain, kinds, count
        self.detectors = [detector] if other is None else [detector, other]
        if other is not None and "heads" not in kinds:
            raise ValueError("compare_with shows in the figure of the heads: explain them too (--explain heads).")
        for model in (one.model for one in self.detectors):
            if not isinstance(model, SamDetrForObjectDetection):
                raise ValueError(f"Only SAM-DETRs can be explained, not a {type(model).__name__}.")
        if "alignment" in kinds and detector.model.config.query_resampling == "none":
            raise ValueError("explain='alignment' needs an aligner: this model has no aligner.")

    def figures(self, image: Image.Image, detections: dict[str, Tensor]) -> Iterator[tuple[str, Image.Image]]:
        """Names, such as `overview` or `heads-2`, and figures of an upright RGB picture; none without detections."""
        if not len(detections["scores"]):
            return
        draw, shown = self.draw, self.detectors if "heads" in self.kinds else self.detectors[:1]
        observations = [draw.observe(one.model, one.processor, image) for one in shown]
        found = draw.find_best(observations[0], detections, self.count)
        figures = {
            "overview": draw.explanation_figure,
            "boxes": draw.box_path_figure,
            "alignment": draw.alignment_figure,
        }
        for kind in (kind for kind in KINDS if kind in self.kinds):
            if kind != "heads":
                yield kind, draw.figure_to_picture(figures[kind](observations[0], found))
                continue
            for number, one in enumerate(found, start=1):
                queries, titles = draw.same_object(observations, [each.short_name for each in shown], one)
                yield f"heads-{number}", draw.figure_to_picture(draw.attention_figure(observations, queries, titles))


def _readable(
    sources: list[Source], frame_step: int, max_frames: int | None, unreadable: dict[str, str]
) -> Iterator[tuple[Source, SourcePicture]]:
    """Pictures with their sources; what cannot be read is noted in `unreadable` and left out."""
    for source in sources:
        try:
            for picture in itertools.islice(read_pictures(source, frame_step), max_frames):
                yield source, picture
        except Exception as error:  # decoders raise all kinds for broken files, and the other files are still good
            reason = error.reason if isinstance(error, UnreadablePictureError) else str(error)
            unreadable[str(source.path)] = reason or type(error).__name__
