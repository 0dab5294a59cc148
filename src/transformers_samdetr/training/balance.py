"""Imbalanced sets: weights of classes in the loss, and pictures of rare classes more often."""

import math
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pyarrow.compute as pc
from datasets import IterableDataset

from ..data.schema import CHUNK, AnySet

MOST = 10.0
"""How many times the smallest of balanced class weights the largest may be."""


def labels_of_objects(train: AnySet, field: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture's row and the label of each object that is no crowd, `(T,)` each; `field` of a recipe asks."""
    if isinstance(train, IterableDataset):
        raise ValueError(f"{field}='balanced' is not possible: it counts all objects first, which a stream cannot.")
    rows, labels, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for batch in train.select_columns(["objects"]).with_format("arrow").iter(batch_size=CHUNK):
        objects = batch["objects"].combine_chunks()
        categories, crowds = (objects.field(name) for name in ("category", "iscrowd"))
        counted = pc.list_flatten(crowds).to_numpy(zero_copy_only=False) != 1
        rows.append(pc.list_parent_indices(categories).to_numpy()[counted] + start)
        labels.append(pc.list_flatten(categories).to_numpy()[counted])
        start += len(objects)
    return np.concatenate(rows), np.concatenate(labels)


def repeat_factors(train: AnySet, num_classes: int) -> np.ndarray:
    """How often each picture comes in an epoch: repeat-factor sampling (LVIS, Gupta et al. 2019), `(N,)` float64.

    r(I) = max over the classes c of picture I of max(1, sqrt(t / f(c))), with f(c) the share of pictures that have c.
    t is 1 / K (the paper's 0.001, of LVIS's 1 203 classes), or the share of the most frequent class if that is less.
    So an epoch becomes at most twice as long. A stream is refused.
    """
    rows, labels = labels_of_objects(train, "sampling")
    rows, labels = np.divmod(np.unique(rows * num_classes + labels), num_classes)  # each class once a picture
    share = np.bincount(labels, minlength=num_classes) / max(len(train), 1)
    of_class = np.sqrt(min(1 / num_classes, share.max()) / np.where(share > 0, share, np.inf))
    factors = np.ones(len(train))
    np.maximum.at(factors, rows, of_class[labels])
    return factors


def class_weights(given: str, names: Sequence[str], train: AnySet) -> list[float]:
    """The weight of each class in the loss, for `Recipe.class_weights`.

    `"balanced"`: 1 / sqrt(objects of the class in the training set), at most `MOST` times that of the most frequent
    class, divided by the mean over the classes, which so is 1. A class without objects counts as the most frequent one.

    Args:
        given: as the recipe has it.
        names: of the classes.
        train: the training set, which `"balanced"` reads.

    Raises:
        ValueError: a name is no class, a weight no number from 0 on, or there are more or fewer weights than classes.
    """
    if given == "balanced":
        counts = np.bincount(labels_of_objects(train, "class_weights")[1], minlength=len(names))
        most = max(counts.max(), 1)
        weights = np.sqrt(most / np.where(counts > 0, counts, most)).clip(max=MOST)
        return [round(weight, 6) for weight in (weights / weights.mean()).tolist()]

    def refuse(remedy: str) -> ValueError:
        return ValueError(f"class_weights={given!r} is not possible: {remedy}.")

    pairs = [entry.rpartition("=") for entry in given.split(",")]
    try:
        values = [float(value) for *_, value in pairs]
    except ValueError:
        values = [math.nan]
    if not (all(0 <= value < math.inf for value in values) and any(values)):
        raise refuse("give 'balanced', numbers from 0 on, not all 0, or NAME=NUMBER pairs, with commas")
    is_named = any(sign for _, sign, _ in pairs)
    keys = [name.strip() for name, *_ in pairs] if is_named else names
    if len(values) != len(keys):
        raise refuse(f"there are {len(values)} weights for {len(names)} classes")
    for name in keys:
        if name not in names:
            near = get_close_matches(name, names, 1) or names[:20]
            raise refuse(f"no class is called {name!r}, but {', '.join(map(repr, near))}")
    return [dict(zip(keys, values, strict=True)).get(name, 1.0) for name in names]
