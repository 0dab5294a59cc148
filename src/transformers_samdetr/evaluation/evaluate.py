"""Runs a detector over a set of pictures, on one process or many, with the same numbers; from a saved model too."""

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection
from transformers.image_processing_utils import BaseImageProcessor

from ..data.dataset import DetectionDataset
from ..data.load import load_detection_data
from .coco_evaluator import CocoEvaluator, EvaluationResult
from .set_loss import SetLoss

METRICS_FILE = "metrics.json"
Batch = tuple[bool, list[tuple[int | None, Image.Image, Mapping[str, Any]]]]
"""Whether it counts on this process; and of each picture its position in the set, itself, and its annotations."""


@torch.no_grad()
def evaluate_detector(
    model: nn.Module,
    processor: BaseImageProcessor,
    dataset: Dataset,
    names: Sequence[str],
    batch_size: int = 1,
    workers: int = 0,
    max_detections: Sequence[int] = (1, 10, 100),
    worst: int = 0,
    set_labels: Sequence[int] | None = None,
    loss: SetLoss | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> CocoEvaluator:
    """Detects on every picture and gives every process the matches of all.

    Batches are those of a single process, dealt out in turn, so that a picture is padded as it would be there and
    the numbers do not depend on how many processes there are. All processes take equally many steps, which wrappers of
    the model that communicate need; what a process sees twice counts once.

    Args:
        model, processor: a detector on its device, in whatever wrapper, whose mode is restored; its image processor.
        dataset: of known length, or a stream, which every process then reads to its end by itself; an example is the
            upright RGB picture and `{"image_id", "annotations"}` with all COCO annotations of it, boxes (x, y, width,
            height) in its pixels, labels as `category_id`. Ids may be strings.
        batch_size, workers: pictures that go through the model together, processes that load them (one for a stream).
        names, max_detections, worst: as in `CocoEvaluator`; at most `max_detections[-1]` detections of a picture count.
        set_labels: the set's label of each of the model's, -1 for none: such detections do not count. Without it the
            labels are the same; see `set_labels_of`.
        loss: takes the training loss of the pictures, whose annotations then go through the processor as well.
        progress: wraps the batches of this process, as tqdm does.
    """
    state = PartialState()
    if isinstance(dataset, IterableDataset):
        batches: Dataset = _StreamedBatches(dataset, batch_size, state.num_processes, state.process_index)
        workers = min(workers, 1)
    else:
        batches = _Batches(dataset, batch_size, state.num_processes, state.process_index)
    collate = functools.partial(_collate, processor, loss is not None)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, collate_fn=collate)
    device = next(model.parameters()).device
    evaluator = CocoEvaluator(names, max_detections, worst)
    was_training = model.training
    model.eval()
    try:
        for is_own, positions, inputs, sizes, annotations in progress(loader):
            # labels stay on the host, where the model checks them
            outputs = model(**{name: v.to(device) if name != "labels" else v for name, v in inputs.items()})
            if loss is not None:
                loss.add(outputs.loss, sum(len(labels["class_labels"]) for labels in inputs["labels"]), is_own)
            most = max_detections[-1]
            results = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes, top_k=most)
            for position, annotation, result in zip(positions, annotations, results, strict=True):
                result = {name: values.cpu() for name, values in result.items()}
                if set_labels is not None:
                    result["labels"] = torch.tensor(set_labels)[result["labels"]]
                    known = result["labels"] >= 0
                    result = {name: values[known] for name, values in result.items()}
                evaluator.add(annotation["image_id"], result, annotation["annotations"], position)
    finally:
        model.train(was_training)
    evaluator.gather()
    return evaluator


class _Batches(Dataset):
    """The batches of one process; those that only make the steps equally many do not count."""

    def __init__(self, dataset: Dataset, batch_size: int, processes: int, rank: int):
        self.dataset, self.processes, self.rank = dataset, processes, rank
        self.batches = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))  # of all processes

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.processes)

    def __getitem__(self, step: int) -> Batch:
        turn = step * self.processes + self.rank
        is_own = turn < len(self.batches)
        return is_own, [(index, *self.dataset[index]) for index in self.batches[turn if is_own else -1]]


class _StreamedBatches(IterableDataset):
    """The same of a stream, with None for each example's position, since a stream cannot go back."""

    def __init__(self, stream: IterableDataset, batch_size: int, processes: int, rank: int):
        self.stream, self.batch_size, self.processes, self.rank = stream, batch_size, processes, rank

    def __iter__(self) -> Iterator[Batch]:
        examples = ((None, *example) for example in self.stream)
        turn, batch = 0, []
        for turn, batch in enumerate(iter(lambda: list(itertools.islice(examples, self.batch_size)), [])):
            if turn % self.processes == self.rank:
                yield True, batch
        if batch and self.rank > turn % self.processes:
            yield False, batch


def _collate(processor: BaseImageProcessor, with_labels: bool, batch: Batch) -> tuple[bool, list, dict, list, list]:
    """Whether the batch counts, positions, inputs, heights and widths, and the annotations, with crowds, unclipped."""
    is_own, examples = batch
    positions, images, annotations = (list(column) for column in zip(*examples, strict=True))
    labels = {}
    if with_labels:  # whose ids must be numbers
        labels["annotations"] = [{**annotation, "image_id": i} for i, annotation in enumerate(annotations)]
    inputs = dict(processor(images=images, return_tensors="pt", **labels))
    return is_own, positions, inputs, [(image.height, image.width) for image in images], annotations


def set_labels_of(id2label: Mapping[int, str], names: Sequence[str]) -> list[int]:
    """The set's label of each of a model's classes, matched by name, -1 where the set does not have it.

    >>> set_labels_of({0: "N/A", 1: "person", 2: "cat"}, ["cat", "person"])
    [-1, 1, 0]

    Raises:
        ValueError: the model lacks classes of the set.
    """
    known = set(id2label.values())
    missing = [name for name in names if name not in known]
    if missing:
        problem = f"The model does not know {missing[:10]}, {len(missing)} of the set's {len(names)} classes"
        remedy = "Evaluate on a set with these names, or fine-tune on this one."
        raise ValueError(f"{problem}; it has {list(id2label.values())[:10]}. {remedy}")
    label_of = {name: label for label, name in enumerate(names)}
    return [label_of.get(id2label[label], -1) for label in range(len(id2label))]


def evaluate_saved_model(
    model: str,
    data: str,
    output_dir: str | Path,
    report: str | Path | None = None,
    batch_size: int = 1,
    workers: int = 0,
    image_size: int | None = None,
    max_detections: Sequence[int] = (1, 10, 100),
    threshold: float | None = None,
    worst: int = 4,
    other_model: str | None = None,
    **options: Any,
) -> tuple[EvaluationResult, EvaluationResult | None]:
    """Evaluates on this process, or under `accelerate launch` on all, and writes the results on the first.

    Classes are matched by name; detections of classes that the set does not have are not counted.

    Args:
        model, other_model: folder or Hub name; the other's result comes second, with a paired test of both.
        data, options: as in `load_detection_data`; its evaluation set is used. Of a set without splits that is all of
            it, or the fifth that training held out if the model was trained on it.
        output_dir, report: folder, made here, of `metrics.json` and a PNG of each figure; path of an HTML page or None.
        batch_size, workers: of each process, as in `evaluate_detector`.
        image_size: fixed height and width in pixels, or None for what the model was saved with.
        max_detections: COCOeval's `maxDets`; AR is given for each, and AP for the last.
        threshold: lowest score of the detections in the confusion matrix, or None for that of the highest F1.
        worst: pictures of each kind of error in the report.

    Raises:
        ValueError: the model lacks a class of the set, or a value in the set is wrong.
    """
    from .evaluation_page import result_figures, result_json, write_report  # matplotlib, which training need not import

    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must be between 0 and 1.")
    accelerator = Accelerator()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)  # now, rather than after hours
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():  # so that one process fills the caches of the others
        models = [model] if other_model is None else [model, other_model]
        trained_on = {getattr(AutoConfig.from_pretrained(name), "data_fingerprint", None) for name in models}
        source = load_detection_data(data, hold_out=False, **options)
        if trained_on != {None} and not len(source.train):
            held_out = load_detection_data(data, **options)
            source = held_out if held_out.fingerprint in trained_on else source
    accelerator.print(source.describe())
    dataset = DetectionDataset(source.evaluation)
    hidden = not accelerator.is_local_main_process or not sys.stderr.isatty()

    def short(name: str) -> str:  # a folder's own name; Hub names stay whole
        return Path(name).resolve().name if Path(name).exists() else name

    def run(name: str, worst: int) -> EvaluationResult:
        size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
        with accelerator.main_process_first():
            processor = AutoImageProcessor.from_pretrained(name, **size)
            detector = AutoModelForObjectDetection.from_pretrained(name)
        labels = set_labels_of(detector.config.id2label, source.names)
        prepared = accelerator.prepare_model(detector, evaluation_mode=True)
        progress = functools.partial(tqdm, desc=f"Evaluating {short(name)}", disable=hidden)
        settings = (batch_size, workers, max_detections, worst)
        return evaluate_detector(
            prepared, processor, dataset, source.names, *settings, set_labels=labels, progress=progress
        ).result()

    result = run(model, worst if report is not None else 0)
    other = None if other_model is None else run(other_model, 0)
    left_out = len(dataset) - result.num_images
    if left_out:
        accelerator.print(f"{left_out} of {len(dataset)} pictures do not count: unusable, or with the id of another.")
    if accelerator.is_main_process:
        threshold = result.best_threshold() if threshold is None else threshold
        content = {"model": model, "data": data, "images_left_out": left_out, **result_json(result, threshold)}
        if other is not None:
            content["comparison"] = {"other_model": other_model, "metrics": result.difference_to(other)}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (output_dir / METRICS_FILE).write_text(text, encoding="utf-8")
        figures = result_figures(result, threshold)
        for name, figure in figures.items():
            figure.savefig(output_dir / f"{name}.png", dpi=150)
        if report is not None:
            title = f"{short(model)} on {short(data)}"
            write_report(report, result, title, threshold, figures, lambda position: dataset[position][0])
    return result, other


def compare_average_precision(
    runners: Mapping[str, Callable[..., Any]], model: str, data: str, batch_size: int = 1
) -> dict[str, float]:
    """COCO's AP in percent by name, on the evaluation pictures of a set, and `images`, how many there are.

    `runners` are what `evaluate_detector` takes, all with the image processor and labels of `model`, a folder or Hub
    name. A ValueError says which classes of the set it does not know.
    """
    source, processor = load_detection_data(data), AutoImageProcessor.from_pretrained(model)
    labels = set_labels_of(AutoConfig.from_pretrained(model).id2label, source.names)
    dataset, found = DetectionDataset(source.evaluation), {}
    for name, runner in runners.items():
        result = evaluate_detector(runner, processor, dataset, source.names, batch_size, set_labels=labels).result()
        found |= {name: result.metrics()["AP"], "images": result.num_images}
    return found
