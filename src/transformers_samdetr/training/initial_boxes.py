"""Reference boxes to start from: where the objects of a training set lie, and how large they are."""

from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ..data.schema import AnySet

MOST_PICTURES = 5000
"""Of a larger set, so many are looked at, picked at random."""
BOXES_A_CLUSTER = 4
"""Where there are fewer, each box counts several times, moved by up to a quarter of its size."""


class NoBoxes(ValueError):
    """A training set that gives no boxes to start from."""


def boxes_of_objects(train: AnySet, count: int, seed: int = 0) -> Tensor:
    """The centers of `count` clusters of a set's boxes, by k-means over place and size.

    Args:
        train: a set in the schema of `transformers_samdetr.data.schema`; pictures are not read.
        count: how many.
        seed: of the clusters.

    Returns:
        `(count, 4)` float32, center x, center y, width, height, normalised by the picture.

    Raises:
        NoBoxes: the set is streamed, or has no objects.
    """
    remedy = "choose initial_boxes='auto' or 'model', which start from the model's own boxes then."
    if isinstance(train, IterableDataset):
        raise NoBoxes(f"initial_boxes='training_set' needs all boxes at the start, which a stream has not: {remedy}")
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(train))[:MOST_PICTURES]
    pictures = train.select_columns(["width", "height", "objects"]).select(np.sort(rows))
    boxes = np.unique([box for picture in pictures for box in _normalised_boxes(picture)], axis=0)
    if not len(boxes):
        raise NoBoxes(f"initial_boxes='training_set' is not possible: the set has no objects; {remedy}")
    copies = -(-count * BOXES_A_CLUSTER // len(boxes))
    corners, sizes = np.split(np.tile(boxes, (copies, 1)), 2, axis=1)
    centers = corners + sizes / 2
    if copies > 1:
        centers += sizes * generator.uniform(-0.25, 0.25, sizes.shape)
    clusters, _ = kmeans2(np.concatenate([centers, sizes], axis=1), count, iter=30, minit="++", rng=generator)
    return torch.from_numpy(clusters).float().clamp(0, 1)


def _normalised_boxes(picture: dict[str, Any]) -> list[list[float]]:
    """Left, top, width and height of each object that is not a crowd, in parts of the picture."""
    objects, (width, height) = picture["objects"], (picture["width"], picture["height"])
    return [
        [x / width, y / height, w / width, h / height]
        for (x, y, w, h), is_crowd in zip(objects["bbox"], objects["iscrowd"], strict=True)
        if not is_crowd
    ]
