"""A model over a set of pictures, on one process or many: every picture counted once, and the same numbers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from transformers.image_processing_utils import BaseImageProcessor

from .coco_evaluator import CocoEvaluator

Example = tuple[Image.Image, Mapping[str, Any]]


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
    progress: Callable[[Iterable], Iterable] = iter,
) -> CocoEvaluator:
    """Detects on every picture and gives every process the matches of all.

    Batches are those of a single process, dealt out in turn, so that a picture is padded as it would be there and
    the numbers do not depend on how many processes there are. All processes take equally many steps, which wrappers of
    the model that communicate need; what a process sees twice counts once.

    Args:
        model: a detector on its device, in whatever wrapper; its mode is restored.
        processor: its image processor.
        dataset: of known length; an example is the upright RGB picture and `{"image_id", "annotations"}` with all COCO
            annotations of it, boxes (x, y, width, height) in its pixels, labels as `category_id`. Ids may be strings.
        names: class names in the order of the labels.
        batch_size: pictures that go through the model together.
        workers: processes that load pictures, for each of these.
        max_detections, worst: as in `CocoEvaluator`; at most `max_detections[-1]` detections of a picture count.
        progress: wraps the batches of this process, as tqdm does.
    """
    state = PartialState()
    batches = list(BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False))
    steps = math.ceil(len(batches) / state.num_processes)
    turns = [step * state.num_processes + state.process_index for step in range(steps)]
    mine = [batches[min(turn, len(batches) - 1)] for turn in turns]
    loader = DataLoader(dataset, batch_sampler=mine, num_workers=workers, collate_fn=_Collate(processor))

    device = next(model.parameters()).device
    evaluator = CocoEvaluator(names, max_detections, worst)
    was_training = model.training
    model.eval()
    try:
        for inputs, sizes, annotations in progress(loader):
            outputs = model(**{name: values.to(device) for name, values in inputs.items()})
            results = processor.post_process_object_detection(
                outputs, threshold=0.0, target_sizes=sizes, top_k=max_detections[-1]
            )
            ids = [annotation["image_id"] for annotation in annotations]
            evaluator.add_batch(ids, results, [annotation["annotations"] for annotation in annotations])
    finally:
        model.train(was_training)
    evaluator.gather()
    return evaluator


class _Collate:
    """The model's inputs, the pictures' heights and widths, and the annotations as they are.

    The processor's own labels would not do: they lack crowd regions, and their boxes are clipped.
    """

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, examples: list[Example]) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]], list[Mapping]]:
        images = [image for image, _ in examples]
        inputs = dict(self.processor(images=images, return_tensors="pt"))
        return inputs, [(image.height, image.width) for image in images], [annotation for _, annotation in examples]
