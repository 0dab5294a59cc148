"""A saved model on a data set, from names to numbers, pictures and a page."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from ..data.dataset import DetectionDataset
from ..data.load import load_detection_data
from .detector import evaluate_detector, set_labels_of
from .report import result_figures, write_report
from .result import EvaluationResult
from .tables import result_json

METRICS_FILE = "metrics.json"


def evaluate_saved_model(
    model: str,
    data: str,
    output_dir: str | Path,
    report: str | Path | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    box_format: str | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    image_size: int | None = None,
    max_detections: Sequence[int] = (1, 10, 100),
    threshold: float | None = None,
    worst: int = 4,
) -> EvaluationResult:
    """Evaluates on this process, or under `accelerate launch` on all, and writes the results on the first.

    `output_dir` gets `metrics.json` and a PNG of each picture. Classes are matched by name; detections of classes that
    the set does not have do not count.

    Args:
        model: folder or Hub name.
        data, train_split, eval_split, columns, box_format, class_names: as in `load_detection_data`; its evaluation set
            is used. Give what training was given, so that both hold out the same pictures.
        output_dir: created if need be.
        report: path of an HTML page with all of it, or None.
        batch_size: pictures that go through the model together, on each process.
        workers: processes that load pictures, for each of these.
        image_size: fixed height and width in pixels, or None for what the model was saved with.
        max_detections: COCOeval's `maxDets`; AR is given for each, and AP for the last.
        threshold: lowest score of the detections in the confusion matrix, or None for that of the highest F1.
        worst: pictures of each kind of error in the report.

    Raises:
        ValueError: the model lacks a class of the set, or something in the set does not fit.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must be between 0 and 1.")
    accelerator = Accelerator()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)  # now, rather than after hours
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():  # so that one process fills the caches of the others
        source = load_detection_data(
            data,
            train_split=train_split,
            eval_split=eval_split,
            columns=columns,
            box_format=box_format,
            class_names=class_names,
        )
        size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
        processor = AutoImageProcessor.from_pretrained(model, **size)
        detector = AutoModelForObjectDetection.from_pretrained(model)
    accelerator.print(source.describe())
    dataset = DetectionDataset(source.evaluation)
    hidden = not accelerator.is_local_main_process or not sys.stderr.isatty()
    evaluator = evaluate_detector(
        accelerator.prepare_model(detector, evaluation_mode=True),
        processor,
        dataset,
        source.names,
        batch_size=batch_size,
        workers=workers,
        max_detections=max_detections,
        worst=worst if report is not None else 0,
        set_labels=set_labels_of(detector.config.id2label, source.names),
        progress=lambda loader: tqdm(loader, desc="Evaluating", disable=hidden),
    )
    result = evaluator.result()
    left_out = len(dataset) - result.num_images
    if left_out:
        accelerator.print(f"{left_out} of {len(dataset)} pictures do not count: unusable, or with the id of another.")
    if accelerator.is_main_process:
        threshold = result.best_threshold() if threshold is None else threshold
        content = {"model": model, "data": data, "images_left_out": left_out, **result_json(result, threshold)}
        (output_dir / METRICS_FILE).write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        figures = result_figures(result, threshold)
        for name, figure in figures.items():
            figure.savefig(output_dir / f"{name}.png", dpi=150)
        if report is not None:
            title = f"{_short_name(model)} on {_short_name(data)}"
            write_report(report, result, title, threshold, figures, lambda position: dataset[position][0])
    return result


def _short_name(source: str) -> str:
    """A folder's own name; Hub names stay whole."""
    return Path(source).resolve().name if Path(source).exists() else source
