"""SAM-DETR model configuration: one field per choice of the paper, each validated."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

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

QUERY_RESAMPLING = ("keypoints", "average", "max", "none")
KEYPOINT_SEARCH_RANGES = ("box", "image")
REFERENCE_BOXES = ("learned", "fixed")
OTHER_DETECTORS = ("backbone", "backbone_kwargs", "use_timm_backbone")
"""Arguments of Transformers' older detectors; here `backbone_config` says it all."""
AUTO_MAPS: dict[str, dict[str, str | list[str]]] = {
    "config.json": {
        "AutoConfig": "configuration_sam_detr.SamDetrConfig",
        "AutoModel": "modeling_sam_detr.SamDetrModel",
        "AutoModelForObjectDetection": "modeling_sam_detr.SamDetrForObjectDetection",
    },
    "preprocessor_config.json": {
        # PIL's, then Torchvision's: a list, because a dict by backend does not survive a Hub repository
        "AutoImageProcessor": [
            "image_processing_sam_detr.SamDetrImageProcessorPil",
            "image_processing_sam_detr.SamDetrImageProcessor",
        ]
    },
}
"""`auto_map` of each file of a saved folder: where Transformers' Auto classes find the code of this package."""
CUSTOM_PIPELINES = {
    "object-detection": {
        "impl": "image_processing_sam_detr.SamDetrObjectDetectionPipeline",
        "pt": ["AutoModelForObjectDetection"],
    }
}
"""Of `config.json`: the class that `pipeline(..., trust_remote_code=True)` takes."""
ENTRY_FILES = ("configuration_sam_detr.py", "image_processing_sam_detr.py", "modeling_sam_detr.py")


def code_files() -> list[Path]:
    """Every file of the package that a saved model needs where the package is not installed."""
    # a model loaded as remote code has only those of the classes that were asked for
    entries = [path for name in ENTRY_FILES if (path := Path(__file__).with_name(name)).is_file()]
    return sorted({*entries, *(Path(needed) for entry in entries for needed in get_relative_import_files(entry))})


def save_code(folder: str | os.PathLike, name: str) -> None:
    """Writes the code into a saved folder, and where it is into the file `name`, a key of `AUTO_MAPS`."""
    for file in code_files():
        if not (Path(folder) / file.name).is_file() or not file.samefile(Path(folder) / file.name):
            shutil.copyfile(file, Path(folder) / file.name)
    file = Path(folder) / name
    content = json.loads(file.read_text(encoding="utf-8")) | {"auto_map": AUTO_MAPS[name]}
    if name == "config.json":
        content["custom_pipelines"] = CUSTOM_PIPELINES
    partial = file.with_name(f".{name}.partial")  # replaced at once: a process that is killed leaves no half file
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(file)


# What a user reads when a configuration is refused. Transformers checks configurations with huggingface_hub's strict
# dataclasses, whose errors are no `ValueError` and lead with the name of a validator. Here they become one sentence:
# the field, its value, and what would be right.

SIMILAR = 0.85
"""How alike a name must be to a field's, of 1, to be taken for a slip of the pen."""


class SamDetrConfigError(StrictDataclassError, ValueError):
    """No SAM-DETR can have this value; the message names the field, the value and the remedy."""


def readable_errors(cls: type) -> type:
    """Goes above `@strict`: building the class, and setting a field, raise `SamDetrConfigError`."""
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _translating(getattr(cls, name)))
    return cls


def _translating(method: Callable) -> Callable:
    @wraps(method)
    def translated(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except SamDetrConfigError:
            raise
        except StrictDataclassError as error:
            raise SamDetrConfigError(_sentence(type(self), error)) from error

    return translated


def _sentence(cls: type, error: StrictDataclassError) -> str:
    """Of a validator of ours its own message; of a wrong type, one with the type that the field has."""
    field, cause = re.search(r"for field '(\w+)'", str(error)), str(error.__cause__)
    if field is None:
        return cause
    found = re.search(r"with value (.+?) doesn't match|\(value: (.+)\)$", cause)
    value = found and (found[1] or found[2])
    return f"`{field[1]}={value}` is not possible: it must be {_kind(cls.__dataclass_fields__[field[1]].type)}."


def _kind(annotation: Any) -> str:
    """A type as one would say it.

    >>> _kind(list[int] | None)
    'list[int] or None'
    """
    kinds = getattr(annotation, "__args__", ()) if not hasattr(annotation, "__origin__") else ()
    if kinds:
        return " or ".join(_kind(kind) for kind in kinds)
    if annotation is type(None):
        return "None"
    return (
        annotation.__name__
        if isinstance(annotation, type) and not hasattr(annotation, "__origin__")
        else str(annotation)
    )


def similar_name(name: str, known: Collection[str], cutoff: float = SIMILAR) -> str | None:
    """The known name that is most like `name`, if one is enough.

    >>> similar_name("num_querys", ["num_queries", "num_keypoints"])
    'num_queries'
    """
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


@auto_docstring(checkpoint="sam-detr-r50")
@readable_errors
@strict
class SamDetrConfig(PreTrainedConfig):
    r"""
    use_pretrained_backbone (`bool`, *optional*, defaults to `False`):
        Whether a newly built model starts from timm's pretrained backbone weights (the only case in which something
        is downloaded). Loading a checkpoint with `from_pretrained` never does.
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
        The feature level that each decoder layer reads, 0 being the finest. By default from coarse to fine in equal
        parts: `[2, 2, 1, 1, 0, 0]` for six layers and three levels (paper section 4.3).
    input_projection_norm (`bool`, *optional*, defaults to `True`):
        GroupNorm after the 1x1 input projection. The authors' single-scale checkpoints of 50 epochs have none.
    encoder_n_points (`int`, *optional*, defaults to 4):
        Sampling points of each head and level in the deformable encoder.
    query_resampling (`str`, *optional*, defaults to `"keypoints"`):
        How the Semantics Aligner makes new queries from region features (paper Table 3): `"keypoints"`, `"average"`
        or `"max"` pooling, or `"none"`: no aligner, the decoder of DETR (which has no reference boxes, so
        `reference_boxes` and `feature_reweighting` have no meaning there).
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
    class_cost (`float`, *optional*, defaults to 2):
        Weight of the focal class term in the matching cost.
    bbox_cost (`float`, *optional*, defaults to 5):
        Weight of the L1 box distance in the matching cost.
    giou_cost (`float`, *optional*, defaults to 2):
        Weight of the generalised IoU in the matching cost.
    class_loss_coefficient (`float`, *optional*, defaults to 2):
        Weight of the focal class loss.
    class_weights (`list[float]`, *optional*):
        What the class loss of each class is multiplied by, for imbalanced sets; by default all count alike.
    auxiliary_loss (`bool`, *optional*, defaults to `True`):
        Whether the loss covers every decoder layer instead of the last one alone.

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
    # what Transformers takes beside its fields
    OTHER_NAMES: ClassVar = ("num_labels", "attn_implementation", "output_attentions", "torch_dtype", "name_or_path")

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
        self._refuse_slips(kwargs)
        if not __name__.startswith("transformers_modules."):  # only remote code is found by these
            kwargs.pop("auto_map", None)
            kwargs.pop("custom_pipelines", None)
        self.backbone_config = self._complete_backbone_config(self.backbone_config)
        if SubConfigSpec is None and isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        if self.decoder_feature_levels is None:
            # coarse to fine: the last level first, each for an equal share of the layers
            self.decoder_feature_levels = [
                self.num_feature_levels - 1 - layer * self.num_feature_levels // max(self.decoder_layers, 1)
                for layer in range(self.decoder_layers)
            ]
        self.decoder_feature_levels = list(self.decoder_feature_levels)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any):
        if name == "id2label" and isinstance(value, Mapping):
            value = {int(key): label for key, label in value.items()}  # JSON's keys are text
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """The configuration that was saved; with other classes, without what training saved of the old ones."""
        names = list((kwargs.get("id2label") or {}).values())
        old_names = list((config_dict.get("id2label") or {}).values())
        if (names and names != old_names) or kwargs.get("num_labels", len(old_names)) != len(old_names):
            config_dict = {
                key: value
                for key, value in config_dict.items()
                if key not in ("category_ids", "class_weights", "detection_threshold")
            }
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

    @classmethod
    def _refuse_slips(cls, others: dict):
        """Transformers keeps whatever has no field, as attributes; a field that is misspelt would go unnoticed."""
        for name in others:
            if name in OTHER_DETECTORS:
                raise SamDetrConfigError(
                    f"`{name}={others[name]!r}` is not possible: say it in backbone_config, such as "
                    "{'model_type': 'timm_backbone', 'backbone': 'resnet50', 'out_indices': [4]}."
                )
            meant = None if hasattr(cls, name) else similar_name(name, [field.name for field in fields(cls)])
            if meant is not None:
                raise SamDetrConfigError(f"`{name}={others[name]!r}` is not possible: is `{meant}` meant?")

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
        if "model_type" not in backbone_config:
            self._refuse("backbone_config", "it lacks 'model_type', which is 'timm_backbone' for timm's")
        if backbone_config.get("model_type") == "timm_backbone":
            backbone_config.setdefault("out_indices", list(range(-self.num_feature_levels, 0)))
            backbone_config.setdefault("num_channels", self.num_channels)
            if self.dilation and backbone_config.get("output_stride") is None:
                backbone_config["output_stride"] = 16
        return backbone_config

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "SamDetrConfig":
        """The configuration of one of the paper's models, or of `sam-detr-tiny`, with some fields replaced.

        Args:
            name: one of `PRESETS`, such as `"sam-detr-pp-r50-smca"`.
            overrides: any field of the configuration.

        Raises:
            ValueError: the name is no preset; the message lists them. Or an override is no field, or has a value that
                is not possible; the message names it.
        """
        preset = preset_fields(name)
        known = {*(field.name for field in fields(cls)), *cls.attribute_map, *cls.OTHER_NAMES}
        for unknown in (override for override in overrides if override not in known):
            meant = similar_name(unknown, known, cutoff=0.5)
            raise SamDetrConfigError(
                f"`{unknown}={overrides[unknown]!r}` is not possible: there is no such field"
                + (f"; is `{meant}` meant?" if meant else ".")
            )
        if overrides.keys() & {"num_labels", "id2label", "label2id"}:
            preset.pop("id2label", None)  # the user's classes replace COCO's
            preset.pop("label2id", None)
        return cls(**{**preset, **overrides})

    def validate_architecture(self):
        """Part of the `@strict` validation: refuses what no SAM-DETR can be, naming field, value and remedy."""
        self._validate_sizes()
        self._validate_choices()
        self._validate_weights()
        self._validate_backbone()

    def _refuse(self, field: str, remedy: str):
        raise SamDetrConfigError(f"`{field}={getattr(self, field)!r}` is not possible: {remedy}.")

    def _validate_sizes(self):
        for field in (
            "d_model num_queries encoder_attention_heads encoder_ffn_dim encoder_n_points decoder_layers "
            "decoder_attention_heads decoder_ffn_dim num_keypoints roi_size num_channels"
        ).split():
            if getattr(self, field) < 1:
                self._refuse(field, "it must be at least 1")
        for field in ("encoder_layers", "num_denoising_groups"):
            if getattr(self, field) < 0:
                self._refuse(field, "it must be at least 0")
        if self.num_feature_levels not in (1, 3):
            self._refuse("num_feature_levels", "1 (SAM-DETR) or 3 (SAM-DETR++) feature levels are supported")
        levels = self.decoder_feature_levels
        if len(levels) != self.decoder_layers or not all(0 <= level < self.num_feature_levels for level in levels):
            self._refuse(
                "decoder_feature_levels",
                f"it must name a level from 0 (finest) to {self.num_feature_levels - 1} for each of the "
                f"{self.decoder_layers} decoder layers",
            )
        for field in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, field):
                self._refuse(field, f"it must divide d_model={self.d_model}")
        if self.d_model % 4:
            self._refuse("d_model", "it must be a multiple of 4 for the sine embeddings")
        if self.input_projection_norm and self.d_model % 32:
            self._refuse("d_model", "it must be a multiple of 32 for the GroupNorm, or set input_projection_norm=False")
        if self.num_labels < 1:
            self._refuse("num_labels", "a detector needs at least one class")

    def _validate_choices(self):
        for field, choices in (
            ("query_resampling", QUERY_RESAMPLING),
            ("keypoint_search_range", KEYPOINT_SEARCH_RANGES),
            ("reference_boxes", REFERENCE_BOXES),
        ):
            if getattr(self, field) not in choices:
                self._refuse(field, f"choose one of {', '.join(map(repr, choices))}")
        if self.activation_function not in ACT2FN:
            self._refuse("activation_function", f"choose one of {', '.join(ACT2FN)}")
        if self.query_resampling == "keypoints":
            if self.num_keypoints not in (1, 2, 4, 8) or self.decoder_attention_heads % self.num_keypoints:
                self._refuse(
                    "num_keypoints",
                    f"choose 1, 2, 4 or 8, a divisor of decoder_attention_heads={self.decoder_attention_heads}",
                )
        elif self.smca:
            self._refuse("smca", f"query_resampling={self.query_resampling!r} has no keypoints to center it on")
        if self.query_resampling == "none" and self.num_denoising_groups:
            self._refuse(
                "num_denoising_groups", "query_resampling='none' has no reference boxes to denoise; set it to 0"
            )

    def _validate_weights(self):
        for field in ("dropout", "attention_dropout", "activation_dropout", "denoising_label_noise", "focal_alpha"):
            if not 0 <= getattr(self, field) <= 1:
                self._refuse(field, "it must lie in [0, 1]")
        if not 0 <= self.denoising_box_noise < 1:
            self._refuse("denoising_box_noise", "it must lie in [0, 1), or boxes would vanish")
        costs = ("class_cost", "bbox_cost", "giou_cost")
        for field in (*costs, "class_loss_coefficient", "bbox_loss_coefficient", "giou_loss_coefficient"):
            if not 0 <= getattr(self, field) < float("inf"):
                self._refuse(field, "it must be a finite number, at least 0")
        if self.class_weights is not None:
            if len(self.class_weights) != self.num_labels:
                self._refuse("class_weights", f"give one for each of the {self.num_labels} classes")
            if not all(0 <= weight < float("inf") for weight in self.class_weights):
                self._refuse("class_weights", "each must be a finite number, at least 0")
        if not any(getattr(self, field) for field in costs):
            self._refuse("class_cost", "class_cost, bbox_cost and giou_cost cannot all be 0")

    def _validate_backbone(self):
        is_timm = self.backbone_config.model_type == "timm_backbone"
        if self.dilation and not is_timm:
            self._refuse("dilation", f"the backbone {self.backbone_config.model_type!r} cannot be dilated; use timm's")
        if self.mask_padding and not is_timm:
            self._refuse(
                "mask_padding",
                f"how the backbone {self.backbone_config.model_type!r} reads padding is not known; use a timm ResNet "
                "or EfficientNet-Lite, or pad all pictures to one size with the image processor's pad_size",
            )
        if self.use_pretrained_backbone and not is_timm:
            self._refuse(
                "use_pretrained_backbone",
                "only timm backbones are downloaded; load another one's weights with model.load_backbone_weights(...)",
            )
        if is_timm:
            self._validate_timm_name(self.backbone_config.backbone)
        out_indices = getattr(self.backbone_config, "out_indices", None) or ()
        if len(out_indices) != self.num_feature_levels:
            raise SamDetrConfigError(
                f"`backbone_config.out_indices={list(out_indices)}` is not possible: "
                f"num_feature_levels={self.num_feature_levels} needs that many stages, the last ones, finest first."
            )

    @staticmethod
    def _validate_timm_name(name: str):
        import timm  # here, since it takes a second to import

        if ":" not in name and not timm.is_model(name):  # with a colon it is a place, such as hf-hub:timm/resnet50
            meant = similar_name(name, timm.list_models(), cutoff=0.5)
            raise SamDetrConfigError(
                f"`backbone_config.backbone={name!r}` is not possible: timm has no such model"
                + (f"; is {meant!r} meant?" if meant else ".")
            )


__all__ = ["SamDetrConfig"]
