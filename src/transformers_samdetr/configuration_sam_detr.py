"""SAM-DETR model configuration: one field per choice of the paper, each validated."""

import inspect
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import auto_docstring

from .presets import preset_fields

try:
    from transformers.configuration_utils import SubConfigSpec
except ImportError:  # older Transformers: a sub-configuration is named by its class, and built here
    SubConfigSpec = None

AUTO_MAPS: dict[str, dict[str, str | list[str]]] = {
    "config.json": {
        "AutoConfig": "configuration_sam_detr.SamDetrConfig",
        "AutoModel": "modeling_sam_detr.SamDetrModel",
        "AutoModelForObjectDetection": "modeling_sam_detr.SamDetrForObjectDetection",
    },
    "preprocessor_config.json": {
        # PIL's, then Torchvision's: a list, because a dict by backend does not survive a Hub repository
        "AutoImageProcessor": [f"image_processing_sam_detr.SamDetrImageProcessor{kind}" for kind in ("Pil", "")]
    },
}
"""`auto_map` of each file of a saved folder: where Transformers' Auto classes find the code of this package."""


def code_files() -> list[Path]:
    """Every file of the package that a saved model needs where the package is not installed."""
    names = ("configuration_sam_detr.py", "image_processing_sam_detr.py", "modeling_sam_detr.py")
    # a model loaded as remote code has only those of the classes that were asked for
    entries = [path for name in names if (path := Path(__file__).with_name(name)).is_file()]
    return sorted({*entries, *(Path(needed) for entry in entries for needed in get_relative_import_files(entry))})


def save_code(folder: str | os.PathLike, name: str) -> None:
    """Writes the code into a saved folder, and where it is into the file `name`, a key of `AUTO_MAPS`."""
    for file in code_files():
        if not (Path(folder) / file.name).is_file() or not file.samefile(Path(folder) / file.name):
            shutil.copyfile(file, Path(folder) / file.name)
    file = Path(folder) / name
    content = json.loads(file.read_text(encoding="utf-8")) | {"auto_map": AUTO_MAPS[name]}
    if name == "config.json":
        pipeline = "image_processing_sam_detr.SamDetrObjectDetectionPipeline"
        content["custom_pipelines"] = {"object-detection": {"impl": pipeline, "pt": ["AutoModelForObjectDetection"]}}
    partial = file.with_name(f".{name}.partial")  # replaced at once: a process that is killed leaves no half file
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(file)


class SamDetrConfigError(StrictDataclassError, ValueError):
    """No SAM-DETR can have this value; the message names the field, the value and the remedy."""

    @classmethod
    def of(cls, field: str, value: object, remedy: str) -> "SamDetrConfigError":
        return cls(f"`{field}={value}` is not possible: {remedy}")


def readable_errors(cls: type) -> type:
    """Goes above `@strict`, whose errors are no `ValueError` and lead with a validator's name; here one sentence."""

    def translating(method: Callable) -> Callable:
        @wraps(method)
        def translated(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except SamDetrConfigError:
                raise
            except StrictDataclassError as error:
                field, cause = re.search(r"for field '(\w+)'", str(error)), str(error.__cause__)
                if field is None:  # the message of a validator of ours
                    raise SamDetrConfigError(cause) from error
                value = re.search(r"with value (.+?) doesn't match|\(value: (.+)\)$", cause)
                kind = inspect.formatannotation(cls.__dataclass_fields__[field[1]].type)
                kind = re.sub(r"\w+\.", "", kind).replace(" | ", " or ")
                value = value and (value[1] or value[2])
                raise SamDetrConfigError.of(field[1], value, f"it must be {kind}.") from error

        return translated

    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, translating(getattr(cls, name)))
    return cls


def _ask_for_similar(name: str, known: Collection[str], cutoff: float, quote: str = "`") -> str | None:
    """A question for the known name that is most like `name`, if one is enough."""
    meant = get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"is {quote}{meant[0]}{quote} meant?" if meant else None


def _names_by_label(names: Any) -> dict[int, str]:
    """Class names by label, of a mapping (JSON's keys are text) or a list."""
    try:
        return {int(key): name for key, name in (names.items() if isinstance(names, Mapping) else enumerate(names))}
    except (TypeError, ValueError):
        remedy = "give the names by label, such as {0: 'cat', 1: 'dog'}"
        raise SamDetrConfigError.of("id2label", repr(names), f"{remedy}.") from None


_SIZES = (
    "d_model num_queries encoder_attention_heads encoder_ffn_dim encoder_n_points decoder_layers "
    "decoder_attention_heads decoder_ffn_dim num_keypoints roi_size num_channels"
)
_RATES = "dropout attention_dropout activation_dropout denoising_label_noise focal_alpha"
_WEIGHTS = "class_cost bbox_cost giou_cost class_loss_coefficient bbox_loss_coefficient giou_loss_coefficient"
_LIMITS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (_SIZES, lambda value: value >= 1, "it must be at least 1"),
    ("encoder_layers num_denoising_groups", lambda value: value >= 0, "it must be at least 0"),
    ("num_feature_levels", lambda value: value in (1, 3), "1 (SAM-DETR) or 3 (SAM-DETR++) levels are supported"),
    (_RATES, lambda value: 0 <= value <= 1, "it must lie in [0, 1]"),
    ("denoising_box_noise", lambda value: 0 <= value < 1, "it must lie in [0, 1), or boxes would vanish"),
    (_WEIGHTS, lambda value: 0 <= value < math.inf, "it must be a finite number, at least 0"),
)
"""Fields, what each of their values must pass, and what is said otherwise."""
_CHOICES = {
    "query_resampling": ("keypoints", "average", "max", "none"),
    "keypoint_search_range": ("box", "image"),
    "reference_boxes": ("learned", "fixed"),
    "activation_function": tuple(ACT2FN),
}


@auto_docstring(checkpoint="sam-detr-r50")
@readable_errors
@strict
class SamDetrConfig(PreTrainedConfig):
    r"""
    use_pretrained_backbone (`bool`, *optional*, defaults to `False`):
        Whether a new model downloads timm's pretrained backbone weights to start from; a loaded one never does.
    dilation (`bool`, *optional*, defaults to `False`):
        DC5: the last backbone stage keeps stride 16 and is dilated instead. Needs a timm backbone.
    mask_padding (`bool`, *optional*, defaults to `False`):
        Whether padding is kept out of all features, so that a picture has the same predictions in every batch, those of
        the picture alone. Otherwise convolutions, GroupNorm and region features see it, as the authors' do. For timm's
        plain ResNets and EfficientNet-Lites; weights serve both.
    num_queries (`int`, *optional*, defaults to 300):
        Number of object queries, the most objects found in one image.
    num_feature_levels (`int`, *optional*, defaults to 1):
        1: SAM-DETR, the last backbone stage. 3: SAM-DETR++, the last three, with a deformable encoder.
    decoder_feature_levels (`list[int]`, *optional*):
        The level that each decoder layer reads, 0 being the finest. By default from coarse to fine in equal parts:
        `[2, 2, 1, 1, 0, 0]` for six layers and three levels (paper section 4.3).
    input_projection_norm (`bool`, *optional*, defaults to `True`):
        GroupNorm after the 1x1 input projection. The authors' single-scale checkpoints of 50 epochs have none.
    encoder_n_points (`int`, *optional*, defaults to 4):
        Sampling points of each head and level in the deformable encoder.
    query_resampling (`str`, *optional*, defaults to `"keypoints"`):
        How the Semantics Aligner makes new queries from region features (paper Table 3): `"keypoints"`, `"average"` or
        `"max"` pooling, or `"none"`: DETR's decoder, without aligner, `reference_boxes` and `feature_reweighting`.
    num_keypoints (`int`, *optional*, defaults to 8):
        Salient points of each query; each serves `decoder_attention_heads / num_keypoints` heads (paper Fig. 7).
    keypoint_search_range (`str`, *optional*, defaults to `"box"`):
        Whether salient points lie within the reference `"box"` or anywhere in the `"image"` (paper Table 4).
    feature_reweighting (`bool`, *optional*, defaults to `True`):
        Reweight the aligned queries by the previous ones (paper equations 7 and 8).
    roi_size (`int`, *optional*, defaults to 7):
        Height and width of the region features.
    smca (`bool`, *optional*, defaults to `False`):
        Add a Gaussian around each salient point to the cross-attention logits (paper section 4.5.1).
    reference_boxes (`str`, *optional*, defaults to `"learned"`):
        Whether the initial reference boxes are `"learned"` or `"fixed"` (paper Table 5).
    num_denoising_groups (`int`, *optional*, defaults to 0):
        Groups of noised ground-truth boxes added as queries in training (DN-DETR; the paper's DN models: 5).
    denoising_label_noise (`float`, *optional*, defaults to 0.2):
        Probability that the label of a noised box is replaced by a random class.
    denoising_box_noise (`float`, *optional*, defaults to 0.4):
        Largest relative change of a noised box: its center moves by up to half of it, its size by up to all of it.
    class_loss_coefficient (`float`, *optional*, defaults to 2):
        Weight of the focal class loss.
    class_weights (`list[float]`, *optional*):
        What the class loss of each class is multiplied by, for imbalanced sets; by default all count alike.

    Example:

    ```python
    >>> from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection

    >>> config = SamDetrConfig.from_preset("sam-detr-r50-smca", num_queries=100)
    >>> model = SamDetrForObjectDetection(config)  # random weights

    ```"""

    model_type = "sam_detr"
    if SubConfigSpec is None:
        sub_configs = {"backbone_config": AutoConfig}
    else:
        sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="timm_backbone")}
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    backbone_config: dict | PreTrainedConfig | None = None
    use_pretrained_backbone: bool = False
    dilation: bool = False
    mask_padding: bool = False
    num_channels: int = 3
    num_feature_levels: int = 1
    decoder_feature_levels: list[int] | tuple[int, ...] | None = None
    input_projection_norm: bool = True
    d_model: int = 256
    num_queries: int = 300
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    encoder_n_points: int = 4
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    activation_function: str = "relu"
    is_encoder_decoder: bool = True
    query_resampling: str = "keypoints"
    num_keypoints: int = 8
    keypoint_search_range: str = "box"
    feature_reweighting: bool = True
    roi_size: int = 7
    smca: bool = False
    reference_boxes: str = "learned"
    num_denoising_groups: int = 0
    denoising_label_noise: float | int = 0.2
    denoising_box_noise: float | int = 0.4
    class_cost: float | int = 2
    bbox_cost: float | int = 5
    giou_cost: float | int = 2
    class_loss_coefficient: float | int = 2
    bbox_loss_coefficient: float | int = 5
    giou_loss_coefficient: float | int = 2
    focal_alpha: float | int = 0.25
    class_weights: list[float | int] | None = None
    auxiliary_loss: bool = True

    def __post_init__(self, **kwargs):
        # Transformers keeps whatever has no field, as attributes; a field that is misspelt would go unnoticed
        for name, value in kwargs.items():
            if name in ("backbone", "backbone_kwargs", "use_timm_backbone"):  # of Transformers' older detectors
                remedy = "{'model_type': 'timm_backbone', 'backbone': 'resnet50', 'out_indices': [4]}."
                raise SamDetrConfigError.of(name, repr(value), f"say it in backbone_config, such as {remedy}")
            names = [field.name for field in fields(self)]
            if not hasattr(type(self), name) and (question := _ask_for_similar(name, names, cutoff=0.85)):
                raise SamDetrConfigError.of(name, repr(value), question)
        if not __name__.startswith("transformers_modules."):  # only remote code is found by these
            kwargs.pop("auto_map", None)
            kwargs.pop("custom_pipelines", None)
        self.backbone_config = self._complete_backbone_config(self.backbone_config)
        if SubConfigSpec is None and isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        if self.decoder_feature_levels is None:
            # coarse to fine: the last level first, each for an equal share of the layers
            layers, levels = self.decoder_layers, self.num_feature_levels
            self.decoder_feature_levels = [levels - 1 - layer * levels // layers for layer in range(layers)]
        self.decoder_feature_levels = list(self.decoder_feature_levels)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any):
        if name == "id2label" and value is not None:
            value = _names_by_label(value)
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """The configuration that was saved; with other classes, without what training saved of the old ones."""
        names = list(_names_by_label(kwargs.get("id2label") or {}).values())
        old_names = list((config_dict.get("id2label") or {}).values())
        if (names and names != old_names) or kwargs.get("num_labels", len(old_names)) != len(old_names):
            of_old_names = ("category_ids", "class_weights", "detection_threshold")
            config_dict = {key: value for key, value in config_dict.items() if key not in of_old_names}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields; where remote code is found depends on the folder, and is written by `save_pretrained`."""
        return {key: value for key, value in super().to_dict().items() if key not in ("auto_map", "custom_pipelines")}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Writes `config.json` and the code, so that the folder loads with `trust_remote_code=True` anywhere."""
        super().save_pretrained(save_directory, **kwargs)
        save_code(save_directory, "config.json")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def _complete_backbone_config(self, backbone_config):
        """ResNet-50 where nothing is said; a timm backbone's last stages and DC5's stride where left open."""
        if backbone_config is None:
            last_stages = [2, 3, 4] if self.num_feature_levels == 3 else [4]
            backbone_config = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": last_stages}
        if not isinstance(backbone_config, dict):
            if self.dilation and getattr(backbone_config, "output_stride", 16) is None:
                backbone_config.output_stride = 16
            return backbone_config
        backbone_config = dict(backbone_config)
        has_type = "model_type" in backbone_config
        self._require("backbone_config", has_type, "it lacks 'model_type', which is 'timm_backbone' for timm's")
        if backbone_config["model_type"] == "timm_backbone":
            backbone_config.setdefault("out_indices", list(range(-self.num_feature_levels, 0)))
            backbone_config.setdefault("num_channels", self.num_channels)
            if self.dilation and backbone_config.get("output_stride") is None:
                backbone_config["output_stride"] = 16
        return backbone_config

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "SamDetrConfig":
        """The configuration `name`, such as `"sam-detr-pp-r50-smca"`, of `PRESETS`, with some fields replaced.

        Raises:
            ValueError: the name is no preset, or an override no field or not possible; the message names it.
        """
        preset = preset_fields(name)
        of_transformers = {"num_labels", "attn_implementation", "output_attentions", "torch_dtype", "name_or_path"}
        known = {*(field.name for field in fields(cls)), *cls.attribute_map, *of_transformers}
        for unknown in (override for override in overrides if override not in known):
            question = _ask_for_similar(unknown, known, cutoff=0.5)
            remedy = "there is no such field" + (f"; {question}" if question else ".")
            raise SamDetrConfigError.of(unknown, repr(overrides[unknown]), remedy)
        if overrides.keys() & {"num_labels", "id2label", "label2id"}:  # the user's classes replace COCO's
            del preset["id2label"], preset["label2id"]
        return cls(**{**preset, **overrides})

    def _require(self, field: str, is_possible: object, remedy: str):
        if not is_possible:
            raise SamDetrConfigError.of(field, repr(getattr(self, field)), f"{remedy}.")

    def validate_architecture(self):
        """Part of the `@strict` validation: refuses what no SAM-DETR can be, naming field, value and remedy."""
        for names, is_possible, remedy in _LIMITS:
            for name in names.split():
                self._require(name, is_possible(getattr(self, name)), remedy)
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"choose one of {', '.join(map(repr, choices))}")
        layers, levels, heads = self.decoder_layers, self.num_feature_levels, self.decoder_attention_heads
        self._require(
            "decoder_feature_levels",
            len(self.decoder_feature_levels) == layers and all(0 <= i < levels for i in self.decoder_feature_levels),
            f"it must name a level from 0 (finest) to {levels - 1} for each of the {layers} decoder layers",
        )
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            self._require(name, self.d_model % getattr(self, name) == 0, f"it must divide d_model={self.d_model}")
        self._require("d_model", self.d_model % 4 == 0, "it must be a multiple of 4 for the sine embeddings")
        remedy = "it must be a multiple of 32 for the GroupNorm, or set input_projection_norm=False"
        self._require("d_model", self.d_model % 32 == 0 or not self.input_projection_norm, remedy)
        self._require("num_labels", self.num_labels >= 1, "a detector needs at least one class")
        is_numbered = sorted(self.id2label) == list(range(len(self.id2label)))
        self._require("id2label", is_numbered, "number the classes from 0 on, without gaps")

        resampling, points = self.query_resampling, self.num_keypoints
        if resampling == "keypoints":
            remedy = f"choose 1, 2, 4 or 8, a divisor of decoder_attention_heads={heads}"
            self._require("num_keypoints", points in (1, 2, 4, 8) and heads % points == 0, remedy)
        else:
            self._require("smca", not self.smca, f"query_resampling={resampling!r} has no keypoints to center it on")
        remedy = "query_resampling='none' has no reference boxes to denoise; set it to 0"
        self._require("num_denoising_groups", resampling != "none" or not self.num_denoising_groups, remedy)
        if self.class_weights is not None:
            is_complete = len(self.class_weights) == self.num_labels
            self._require("class_weights", is_complete, f"give one for each of the {self.num_labels} classes")
            are_weights = all(0 <= weight < math.inf for weight in self.class_weights)
            self._require("class_weights", are_weights, "each must be a finite number, at least 0")
        has_cost = self.class_cost or self.bbox_cost or self.giou_cost
        self._require("class_cost", has_cost, "class_cost, bbox_cost and giou_cost cannot all be 0")
        self._validate_backbone()

    def _validate_backbone(self):
        kind = self.backbone_config.model_type
        if kind != "timm_backbone":
            self._require("dilation", not self.dilation, f"the backbone {kind!r} cannot be dilated; use timm's")
            remedy = (
                f"how the backbone {kind!r} reads padding is not known; use a timm ResNet or EfficientNet-Lite, or pad "
                "all pictures to one size with the image processor's pad_size"
            )
            self._require("mask_padding", not self.mask_padding, remedy)
            remedy = "only timm backbones are downloaded; load another one's weights with model.load_backbone_weights"
            self._require("use_pretrained_backbone", not self.use_pretrained_backbone, f"{remedy}(...)")
        else:
            import timm  # here, since it takes a second to import

            name = self.backbone_config.backbone
            if ":" not in name and not timm.is_model(name):  # with a colon it is a place, such as hf-hub:timm/resnet50
                question = _ask_for_similar(name, timm.list_models(), cutoff=0.5, quote="'")
                remedy = "timm has no such model" + (f"; {question}" if question else ".")
                raise SamDetrConfigError.of("backbone_config.backbone", repr(name), remedy)
        out_indices = list(getattr(self.backbone_config, "out_indices", None) or ())
        if len(out_indices) != self.num_feature_levels:
            remedy = f"num_feature_levels={self.num_feature_levels} needs as many stages, the last ones, finest first."
            raise SamDetrConfigError.of("backbone_config.out_indices", out_indices, remedy)
