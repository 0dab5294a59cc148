"""What training starts from: a preset or a checkpoint, the data's classes and places, a pretrained backbone."""

from collections.abc import Sequence

import timm
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import set_seed

from .. import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from ..data.schema import AnySet
from ..presets import PRESET_IMAGE_SIZES, PRESETS
from .efficientnet_lite0 import read_efficientnet_lite0
from .initial_boxes import NoBoxes, boxes_of_objects
from .recipes import Recipe


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
