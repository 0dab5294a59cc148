"""How stable the matching is: which objects have another query than an epoch before (DN-DETR, section 3)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transformers_samdetr.matcher import match
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection
from transformers_samdetr.outputs import SamDetrObjectDetectionOutput
from transformers_samdetr.targets import prepare_targets


@dataclass
class Assignment:
    """Which query each of the N objects of a set is matched with, layer by layer.

    Attributes:
        query: `(layers, N)` int64, index of the query in its image; -1 where there were more objects than queries.
        image: `(N,)` int64, index of the object's image in the set.
        num_images: of the set, those without objects included.
        num_queries: of an image.
    """

    query: Tensor
    image: Tensor
    num_images: int
    num_queries: int

    def check_comparable(self, other: "Assignment") -> None:
        """
        Raises:
            ValueError: the other one is not of the same objects and as many queries.
        """
        mine, others = (
            "{1} objects at {0} layers in {2} images of {3} queries".format(*a.query.shape, a.num_images, a.num_queries)
            for a in (self, other)
        )
        if mine != others or not torch.equal(self.image, other.image):
            raise ValueError(
                f"The assignments cannot be compared: {mine}, and {others}. Take the same pictures in the same order, "
                "and as many layers and queries."
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while this lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def predictions_by_layer(outputs: SamDetrObjectDetectionOutput) -> tuple[Tensor, Tensor]:
    """Logits `(B, layers, Q, K)` and boxes `(B, layers, Q, 4)` of every decoder layer.

    Raises:
        ValueError: the model returns the last layer's alone.
    """
    if outputs.auxiliary_outputs is None:
        raise ValueError("auxiliary_outputs=None: the model has to return every layer's, with auxiliary_loss=True.")
    layers = [*outputs.auxiliary_outputs, {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    return tuple(torch.stack([layer[name] for layer in layers], dim=1) for name in ("logits", "pred_boxes"))


@dataclass
class MatchedObjects:
    """The N objects of a batch that have a query, image by image, in each image as in its labels; `(layers, N)` each.

    Attributes:
        image: index of the object's image.
        query: index of its query in the image.
        target: index of the object among those of its image.
        boxes: `(B, T, 4)` of all objects, padded: center x, center y, width, height, normalised by the valid image.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    boxes: Tensor


def match_objects(
    model: SamDetrForObjectDetection, outputs: SamDetrObjectDetectionOutput, labels: list[Mapping[str, Tensor]]
) -> MatchedObjects:
    """Matches at each layer by what it predicts there, as in the loss."""
    logits, boxes = predictions_by_layer(outputs)
    targets = prepare_targets(labels, len(logits), model.config.num_labels, logits.device)
    matches = match(logits, boxes, targets, model.config)
    # matches come in the order of the queries, which is another one at each layer
    order = torch.argsort(matches.image * targets.labels.shape[1] + matches.target, dim=1)
    image = matches.image.expand_as(order).gather(1, order)
    query, target = (pairs.gather(1, order) for pairs in (matches.query, matches.target))
    return MatchedObjects(image, query, target, targets.boxes)


@torch.no_grad()
def assign_queries(model: SamDetrForObjectDetection, batches: Iterable[Mapping[str, Any]]) -> Assignment:
    """Matches the objects of a set as the training loss does, with the model as it stands, in evaluation mode.

    Args:
        model: its mode is restored.
        batches: what the model takes, with `labels`.
    """
    queries, images, first = [], [], 0
    with evaluating(model):
        for batch in batches:
            labels = batch["labels"]
            outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
            objects = match_objects(model, outputs, labels)
            counts = torch.tensor([len(image["class_labels"]) for image in labels])
            starts = counts.cumsum(0) - counts
            found = torch.full((len(objects.query), int(counts.sum())), -1)
            found.scatter_(1, starts[objects.image.cpu()] + objects.target.cpu(), objects.query.cpu())
            queries.append(found)
            images.append(first + torch.arange(len(counts)).repeat_interleave(counts))
            first += len(counts)
    return Assignment(torch.cat(queries, dim=1), torch.cat(images), first, model.config.num_queries)


def changed_objects(before: Assignment, after: Assignment) -> Tensor:
    """`(layers,)`: the share of objects that have another query than before; 0 without objects.

    Raises:
        ValueError: the assignments are not of the same objects.
    """
    before.check_comparable(after)
    return (before.query != after.query).double().sum(-1) / max(before.query.shape[1], 1)


def instability(before: Assignment, after: Assignment) -> Tensor:
    """`(layers,)`: DN-DETR's measure, the number of queries of an image that have another object, or none any more.

    An object that moves to a free query counts twice, for the query that it leaves and for the one that it takes.

    Raises:
        ValueError: the assignments are not of the same objects.
    """
    before.check_comparable(after)
    return (_objects_of_queries(before) != _objects_of_queries(after)).double().sum((1, 2)) / max(before.num_images, 1)


def _objects_of_queries(assignment: Assignment) -> Tensor:
    """`(layers, images, Q)`: the object of each query, -1 for none."""
    layers, objects = assignment.query.shape
    # a last column takes what has no query, and is cut off
    found = torch.full((layers, assignment.num_images, assignment.num_queries + 1), -1)
    columns = assignment.query.where(assignment.query >= 0, assignment.num_queries)
    found[torch.arange(layers)[:, None], assignment.image, columns] = torch.arange(objects)
    return found[..., :-1]
