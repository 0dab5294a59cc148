"""The authors' checkpoints to folders that Transformers loads: read safely, recognised, converted, written, checked.

The only file that knows the authors' names. Not part of a Hub folder.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .annotations import shown
from .configuration_sam_detr import SamDetrConfig
from .hub import save_for_hub
from .image_processing_sam_detr import SamDetrImageProcessor
from .model_card import ModelCard
from .modeling_sam_detr import SamDetrForObjectDetection
from .presets import PRESETS, preset_fields

KEY_MAP: dict[str, str | tuple[str, ...] | None] = {
    # `*` matches one number or leaf name, `**` any rest. A tuple splits the tensor into equal parts along its first
    # axis; None drops it. The first pattern that matches is used.
    "backbone.0.body.**.num_batches_tracked": None,  # the batch norms are frozen
    "backbone.0.body.**": "model.backbone.feature_extractor._backbone.**",
    "input_proj.*.0.*": "model.backbone.input_projections.*.convolution.*",
    "input_proj.*.1.*": "model.backbone.input_projections.*.norm.*",
    "transformer.level_embed": "model.backbone.level_embeddings",
    "query_embed.weight": "model.query_reference_boxes",
    # encoder, dense
    "transformer.encoder.layers.*.self_attn.in_proj_*": (
        "model.encoder.layers.*.self_attn.q_proj.*",
        "model.encoder.layers.*.self_attn.k_proj.*",
        "model.encoder.layers.*.self_attn.v_proj.*",
    ),
    "transformer.encoder.layers.*.self_attn.out_proj.*": "model.encoder.layers.*.self_attn.o_proj.*",
    # encoder, deformable
    **{
        f"transformer.encoder.layers.*.self_attn.{name}.*": f"model.encoder.layers.*.self_attn.{name}.*"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    },
    # encoder, both
    "transformer.encoder.layers.*.norm1.*": "model.encoder.layers.*.self_attn_layer_norm.*",
    "transformer.encoder.layers.*.linear1.*": "model.encoder.layers.*.mlp.fc1.*",
    "transformer.encoder.layers.*.linear2.*": "model.encoder.layers.*.mlp.fc2.*",
    "transformer.encoder.layers.*.norm2.*": "model.encoder.layers.*.final_layer_norm.*",
    # decoder: self-attention
    "transformer.decoder.layers.*.sa_qcontent_proj.*": "model.decoder.layers.*.self_attn.q_content_proj.*",
    "transformer.decoder.layers.*.sa_qpos_proj.*": "model.decoder.layers.*.self_attn.q_position_proj.*",
    "transformer.decoder.layers.*.sa_kcontent_proj.*": "model.decoder.layers.*.self_attn.k_content_proj.*",
    "transformer.decoder.layers.*.sa_kpos_proj.*": "model.decoder.layers.*.self_attn.k_position_proj.*",
    "transformer.decoder.layers.*.sa_v_proj.*": "model.decoder.layers.*.self_attn.v_proj.*",
    "transformer.decoder.layers.*.self_attn.out_proj.*": "model.decoder.layers.*.self_attn.o_proj.*",
    "transformer.decoder.layers.*.norm1.*": "model.decoder.layers.*.self_attn_layer_norm.*",
    # decoder: semantics aligner; odd numbers of `point2` are its ReLUs
    "transformer.decoder.layers.*.point1.0.*": "model.decoder.layers.*.aligner.region_reduction.*",
    "transformer.decoder.layers.*.point2.0.*": "model.decoder.layers.*.aligner.keypoint_head.layers.0.*",
    "transformer.decoder.layers.*.point2.2.*": "model.decoder.layers.*.aligner.keypoint_head.layers.1.*",
    "transformer.decoder.layers.*.point2.4.*": "model.decoder.layers.*.aligner.keypoint_head.layers.2.*",
    "transformer.decoder.layers.*.point2.6.*": "model.decoder.layers.*.aligner.keypoint_head.layers.3.*",
    "transformer.decoder.layers.*.attn1.*": "model.decoder.layers.*.aligner.content_reweighting.*",
    "transformer.decoder.layers.*.attn2.*": "model.decoder.layers.*.aligner.position_reweighting.*",
    # decoder: cross-attention and feed-forward block
    "transformer.decoder.layers.*.ca_qcontent_proj.*": "model.decoder.layers.*.cross_attn.q_content_proj.*",
    "transformer.decoder.layers.*.ca_qpos_sine_proj.**": "model.decoder.layers.*.cross_attn.q_position_proj.**",
    "transformer.decoder.layers.*.ca_kcontent_proj.*": "model.decoder.layers.*.cross_attn.k_content_proj.*",
    "transformer.decoder.layers.*.ca_kpos_sine_proj.**": "model.decoder.layers.*.cross_attn.k_position_proj.**",
    "transformer.decoder.layers.*.ca_v_proj.*": "model.decoder.layers.*.cross_attn.v_proj.*",
    "transformer.decoder.layers.*.cross_attn.out_proj.*": "model.decoder.layers.*.cross_attn.o_proj.*",
    "transformer.decoder.layers.*.norm2.*": "model.decoder.layers.*.cross_attn_layer_norm.*",
    "transformer.decoder.layers.*.linear1.*": "model.decoder.layers.*.mlp.fc1.*",
    "transformer.decoder.layers.*.linear2.*": "model.decoder.layers.*.mlp.fc2.*",
    "transformer.decoder.layers.*.norm3.*": "model.decoder.layers.*.final_layer_norm.*",
    # heads; the authors save the box heads under two names, and the second wins when their model is loaded
    "transformer.decoder.bbox_embed.**": None,
    "bbox_embed.*.layers.*.*": "model.decoder.box_heads.*.layers.*.*",
    "class_embed.*.*": "class_heads.*.*",
}

# fields that no tensor shows, from the authors' command line where the checkpoint stores it
ARGUMENT_MAP: dict[str, tuple[str, ...]] = {
    "dropout": ("dropout", "attention_dropout", "activation_dropout"),
    "enc_n_points": ("encoder_n_points",),
    "set_cost_class": ("class_cost",),
    "set_cost_bbox": ("bbox_cost",),
    "set_cost_giou": ("giou_cost",),
    "cls_loss_coef": ("class_loss_coefficient",),
    "bbox_loss_coef": ("bbox_loss_coefficient",),
    "giou_loss_coef": ("giou_loss_coefficient",),
    "focal_alpha": ("focal_alpha",),
    "aux_loss": ("auxiliary_loss",),
}

_RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}
"""Name by the number of blocks in each stage."""

PUBLISHED_AP: dict[tuple[str, int], float] = {
    ("sam-detr-r50", 12): 34.2,
    ("sam-detr-r50-smca", 12): 37.0,
    ("sam-detr-r50-dc5", 12): 39.1,
    ("sam-detr-r50-dc5-smca", 12): 41.3,
    ("sam-detr-pp-r50", 12): 41.9,
    ("sam-detr-pp-r50-smca", 12): 43.2,
    ("sam-detr-pp-r50", 50): 47.5,
    ("sam-detr-pp-r50-smca", 50): 48.0,
}
"""COCO val2017 AP by preset and epochs, from the paper's Tables 1 and 2."""


def convert_checkpoint(
    checkpoint: str | Path,
    output_dir: str | Path,
    dilation: bool | None = None,
    card: ModelCard | None = None,
) -> tuple[SamDetrForObjectDetection, ModelCard]:
    """Writes `output_dir` as `hub.save_for_hub` does, with the weights of `checkpoint`.

    Args:
        checkpoint: one of the authors' 12 released files, or one that their code has written.
        output_dir: a folder, made if needed.
        dilation: whether it is a DC5 model, where the file does not say so.
        card: what the model card should say; what it leaves open is filled in from the checkpoint.

    Raises:
        FileNotFoundError, ValueError: see `load_original_checkpoint`, `config_from_checkpoint`, `convert_state_dict`.
    """
    state_dict, args = load_original_checkpoint(checkpoint)
    config = config_from_checkpoint(state_dict, args, dilation)
    with torch.device("meta"):
        model = SamDetrForObjectDetection(config)
    model.load_state_dict(convert_state_dict(state_dict, config), assign=True)
    card = _complete_card(card or ModelCard(), Path(checkpoint), model, args)
    save_for_hub(model.eval(), SamDetrImageProcessor(), output_dir, card)
    return model, card


def _complete_card(card: ModelCard, checkpoint: Path, model: SamDetrForObjectDetection, args: dict | None) -> ModelCard:
    """Fills in the checkpoint's origin and its published AP, which is said not to have been measured again."""
    variant, epochs = variant_name(model.config), training_epochs(model.config, args)
    source = f"Converted from the SAM-DETR authors' checkpoint `{checkpoint.name}`"
    if epochs:
        source += f", trained for {epochs} epochs"
    published = PUBLISHED_AP.get((variant, epochs))
    if published is not None:
        source += (
            f". The paper reports {published} AP on COCO val2017 for this model and schedule; "
            "that number was not measured again on the converted weights"
        )
    training_data = "COCO train2017" if (args or {}).get("dataset_file") == "coco" else None
    return replace(
        card,
        name=card.name or variant,
        source=card.source or source + ".",
        training_data=card.training_data or training_data,
    )


def load_original_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of one of the authors' `.pth` files, and their command line where it was stored.

    Nothing in the file can run: besides tensors and plain containers only `argparse.Namespace` is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file asks for anything else, is damaged, holds no state dict, or tensors that are not finite or
            larger than the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        _require_uncompressed(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|function|global:?)\s+`?([\w.]+\.[\w.]+)", str(error))
        asked = f"it asks for `{wanted[1]}`" if wanted else "it is more than tensors, or damaged"
        raise ValueError(
            f"{path} was refused: {asked}. Only tensors, plain containers and argparse.Namespace are read, since "
            "anything else in a pickle could run code."
        ) from None
    except Exception as error:  # torch's unpickler raises all kinds for damaged files
        raise ValueError(f"{path} is no PyTorch checkpoint, or damaged ({type(error).__name__}: {error}).") from error

    args = content.get("args") if isinstance(content, Mapping) else None
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"{path} holds 'args' of type {type(args).__name__}: expected a Namespace or a dict.")
    state_dict = content.get("model", content) if isinstance(content, Mapping) else content
    named = isinstance(state_dict, Mapping) and all(isinstance(name, str) for name in state_dict)
    if not named or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} holds no state dict: expected tensors by name, or a dict with them under 'model'.")
    wrong = [name for name, tensor in state_dict.items() if not _is_plain(tensor)]
    if wrong:
        raise ValueError(
            f"{path} holds tensors that no checkpoint of SAM-DETR has, not dense, larger than what is stored of them, "
            f"or not finite: {shown(', '.join(wrong))}."
        )
    return dict(state_dict), args


def _require_uncompressed(path: Path) -> None:
    """Refuses archives that grow when they are read; torch writes none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"compressed entries, such as {shown(packed[0])}")


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is dense, no larger than its storage, which was read from the file, and finite."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return False
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def config_from_checkpoint(
    state_dict: Mapping[str, Tensor],
    args: argparse.Namespace | Mapping[str, Any] | None = None,
    dilation: bool | None = None,
) -> SamDetrConfig:
    """The configuration of a checkpoint: from its tensors, and from `args` what these cannot say.

    Args:
        state_dict: the authors' tensors; only their shapes are read.
        args: the authors' command line as stored in the checkpoint.
        dilation: whether it is a DC5 model, which no tensor shows; overrides `args`.

    Raises:
        ValueError: a tensor that tells the architecture is missing or has an unknown shape, or nothing says whether a
            single-scale model is DC5.
    """
    args = vars(args) if isinstance(args, argparse.Namespace) else args or {}
    is_multi_scale = "transformer.level_embed" in state_dict
    if dilation is None:
        dilation = args.get("dilation", False if is_multi_scale else None)
    if dilation is None:
        raise ValueError(
            "The tensors of R50 and R50-DC5 models are alike and this checkpoint has no stored `args` with `dilation`: "
            "pass dilation=True for DC5 or dilation=False otherwise (--dilation or --no-dilation)."
        )
    num_queries = _shape(state_dict, "query_embed.weight")[0]
    num_labels, d_model = _shape(state_dict, "class_embed.0.weight")
    if d_model < 4:
        raise ValueError(f"class_embed.0.weight has the shape {(num_labels, d_model)}: a model is at least 4 wide.")
    heads = _shape(state_dict, "transformer.decoder.layers.0.attn1.weight")[0] // d_model
    point_outputs = _shape(state_dict, "transformer.decoder.layers.0.point2.6.weight")[0]
    region_inputs = _shape(state_dict, "transformer.decoder.layers.0.point2.0.weight")[1]
    if point_outputs not in (2 * heads, 4 * heads):
        raise ValueError(
            f"transformer.decoder.layers.0.point2.6.weight has {point_outputs} outputs; with {heads} heads the "
            f"authors' models have {2 * heads}, or {4 * heads} with SMCA."
        )
    fields: dict[str, Any] = {
        field: args[argument] for argument, names in ARGUMENT_MAP.items() if argument in args for field in names
    }
    if num_labels == len(preset_fields("sam-detr-r50")["id2label"]):
        fields |= {name: preset_fields("sam-detr-r50")[name] for name in ("id2label", "label2id")}
    else:
        fields["num_labels"] = num_labels
    blocks = tuple(_count(state_dict, f"backbone.0.body.layer{stage}") for stage in (1, 2, 3, 4))
    if blocks not in _RESNETS:
        raise ValueError(f"The backbone has {blocks} blocks a stage, known are {_RESNETS}.")
    num_levels = _shape(state_dict, "transformer.level_embed")[0] if is_multi_scale else 1
    if num_levels > 4:
        raise ValueError(f"transformer.level_embed has {num_levels} levels; a ResNet has 4 stages.")
    return SamDetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": _RESNETS[blocks],
            "out_indices": list(range(5 - num_levels, 5)),
        },
        dilation=bool(dilation),
        num_feature_levels=num_levels,
        input_projection_norm="input_proj.0.1.weight" in state_dict,
        d_model=d_model,
        num_queries=num_queries,
        encoder_layers=_count(state_dict, "transformer.encoder.layers"),
        encoder_attention_heads=args.get("nheads", heads),
        encoder_ffn_dim=_shape(state_dict, "transformer.encoder.layers.0.linear1.weight")[0],
        decoder_layers=_count(state_dict, "transformer.decoder.layers"),
        decoder_attention_heads=heads,
        decoder_ffn_dim=_shape(state_dict, "transformer.decoder.layers.0.linear1.weight")[0],
        roi_size=round((region_inputs / (d_model // 4)) ** 0.5),
        num_keypoints=heads,
        smca=point_outputs == 4 * heads,
        **fields,
    )


def convert_state_dict(state_dict: Mapping[str, Tensor], config: SamDetrConfig) -> dict[str, Tensor]:
    """The authors' tensors under the names of `SamDetrForObjectDetection(config)`.

    Raises:
        ValueError: tensors are unknown, missing, or of another shape than the configuration asks for; all are listed.
    """
    not_float = [
        name
        for name, tensor in state_dict.items()
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    if not_float:
        raise ValueError(f"Tensors are not of floating type: {shown(', '.join(not_float))}.")
    converted, origin, unknown = {}, {}, []
    for name, tensor in state_dict.items():
        try:
            names = translate(name)
        except KeyError:
            unknown.append(name)
            continue
        if len(names) > 1 and len(tensor) % len(names) == 0:
            parts = tensor.chunk(len(names))
        else:
            parts = [tensor] * len(names)  # one name; or a shape that the comparison below refuses
        for our_name, part in zip(names, parts, strict=True):
            converted[our_name] = part.clone()  # parts and shared tensors become independent, as safetensors wants
            origin[our_name] = name

    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in SamDetrForObjectDetection(config).state_dict().items()}
    unknown += [f"{origin[name]} ({name})" for name in converted if name not in expected]
    missing = [f"{_original_name(name)} ({name})" for name in expected if name not in converted]
    misshapen = [
        f"{origin[name]} ({name}) needs {expected[name]}, has {tuple(tensor.shape)}"
        for name, tensor in converted.items()
        if expected.get(name, tuple(tensor.shape)) != tuple(tensor.shape)
    ]
    problems = {"unknown": unknown, "missing": missing, "of another shape": misshapen}
    if any(problems.values()):
        listed = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        raise ValueError(f"This is not a checkpoint of SAM-DETR that can be converted. Tensors {'; '.join(listed)}.")
    return converted


def translate(name: str) -> tuple[str, ...]:
    """Our names for an authors' tensor: one, several where it is cut, none where it is dropped.

    >>> translate("transformer.decoder.layers.3.point2.6.bias")
    ('model.decoder.layers.3.aligner.keypoint_head.layers.3.bias',)

    Raises:
        KeyError: no pattern of `KEY_MAP` fits.
    """
    for pattern, ours in KEY_MAP.items():
        if match := re.fullmatch(_as_regex(pattern), name):
            templates = () if ours is None else (ours,) if isinstance(ours, str) else ours
            return tuple(re.sub(r"\*\*?", "{}", template).format(*match.groups()) for template in templates)
    raise KeyError(name)


def _original_name(our_name: str) -> str:
    """The inverse of `translate`, for messages."""
    for pattern, ours in KEY_MAP.items():
        for template in (ours,) if isinstance(ours, str) else ours or ():
            if match := re.fullmatch(_as_regex(template), our_name):
                return re.sub(r"\*\*?", "{}", pattern).format(*match.groups())
    return "no tensor of the authors"


def _as_regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", r"(.+)").replace(r"\*", r"(\w+)")


def variant_name(config: SamDetrConfig) -> str | None:
    """The preset that has this architecture (denoising, which no checkpoint of the authors has, left aside)."""
    for name, fields in PRESETS.items():
        if "backbone_config" in fields or "num_denoising_groups" in fields:
            continue
        wanted = {"dilation": False, "smca": False, "num_feature_levels": 1} | fields
        if all(getattr(config, field) == value for field, value in wanted.items()):
            return name if config.backbone_config.backbone == "resnet50" else None
    return None


def training_epochs(config: SamDetrConfig, args: Mapping[str, Any] | None) -> int | None:
    """The length of the schedule in epochs: as stored, or as a single-scale model's GroupNorm tells, or None."""
    if args and args.get("epochs"):
        epochs = args["epochs"]
        if not isinstance(epochs, int):
            raise ValueError(f"The stored argument epochs={shown(epochs, repr)} is no number of epochs.")
        return epochs
    if config.num_feature_levels == 1:
        return 12 if config.input_projection_norm else 50
    return None


def _shape(state_dict: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state_dict:
        raise ValueError(f"This is not a checkpoint of SAM-DETR that can be converted. Tensors missing: {name}.")
    shape = tuple(state_dict[name].shape)
    if len(shape) != 2:  # as all have that tell the architecture
        raise ValueError(f"This is not a checkpoint of SAM-DETR that can be converted: {name} has the shape {shape}.")
    return shape


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow the prefix."""
    rests = (name.removeprefix(prefix + ".") for name in state_dict if name.startswith(prefix + "."))
    return len({rest.split(".")[0] for rest in rests})
