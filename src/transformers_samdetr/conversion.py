"""The authors' checkpoints to folders that Transformers loads: the only file that knows the authors' names."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .annotations import shown
from .configuration_sam_detr import SamDetrConfig
from .hub import ModelCard, save_for_hub
from .image_processing_sam_detr import SamDetrImageProcessor
from .modeling_sam_detr import SamDetrForObjectDetection
from .presets import PRESETS, preset_fields

_DEFORMABLE = "sampling_offsets attention_weights value_proj output_proj".split()
# parts of a layer of encoder or decoder: the authors' name and ours
_PARTS = {
    **{f"self_attn.{name}": f"self_attn.{name}" for name in _DEFORMABLE},
    **{f"sa_{one}content_proj": f"self_attn.{one}_content_proj" for one in "qk"},
    **{f"sa_{one}pos_proj": f"self_attn.{one}_position_proj" for one in "qk"},
    **{f"ca_{one}content_proj": f"cross_attn.{one}_content_proj" for one in "qk"},
    **{f"ca_{one}pos_sine_proj": f"cross_attn.{one}_position_proj" for one in "qk"},
    "self_attn.out_proj": "self_attn.o_proj",
    "sa_v_proj": "self_attn.v_proj",
    "ca_v_proj": "cross_attn.v_proj",
    "cross_attn.out_proj": "cross_attn.o_proj",
    "point1.0": "aligner.region_reduction",
    **{f"point2.{2 * index}": f"aligner.keypoint_head.layers.{index}" for index in range(4)},  # odd: its ReLUs
    "attn1": "aligner.content_reweighting",
    "attn2": "aligner.position_reweighting",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
    "norm1": "self_attn_layer_norm",
}
RENAMED: list[tuple[str, str]] = [
    ("backbone.0.body.**", "model.backbone.feature_extractor._backbone.**"),
    ("input_proj.*.0.*", "model.backbone.input_projections.*.convolution.*"),
    ("input_proj.*.1.*", "model.backbone.input_projections.*.norm.*"),
    ("transformer.level_embed", "model.backbone.level_embeddings"),
    ("transformer.encoder.layers.*.norm2.*", "model.encoder.layers.*.final_layer_norm.*"),
    ("transformer.decoder.layers.*.norm2.*", "model.decoder.layers.*.cross_attn_layer_norm.*"),
    ("transformer.decoder.layers.*.norm3.*", "model.decoder.layers.*.final_layer_norm.*"),
    ("query_embed.weight", "model.query_reference_boxes"),
    ("bbox_embed.*.layers.*.*", "model.decoder.box_heads.*.layers.*.*"),
    ("class_embed.*.*", "class_heads.*.*"),
]
RENAMED += [
    ("transformer.encoder.layers.*.self_attn.in_proj_*", f"model.encoder.layers.*.self_attn.{one}_proj.*")
    for one in "qkv"
]
RENAMED += [(f"transformer.*.layers.*.{theirs}.**", f"model.*.layers.*.{ours}.**") for theirs, ours in _PARTS.items()]
"""The authors' names of tensors and ours: `*` is one number or leaf name, `**` any rest. A tensor with several of ours
is cut into equal parts along its first axis."""
DROPPED = re.compile(r"backbone\.0\.body\..+\.num_batches_tracked|transformer\.decoder\.bbox_embed\..+")
"""The batch norms are frozen; box heads are saved under two names, of which the authors load the other."""

ARGUMENTS = {
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), "dropout"),
    **{f"{kind}_cost": f"set_cost_{kind}" for kind in ("class", "bbox", "giou")},
    **{f"{kind}_loss_coefficient": f"{kind}_loss_coef" for kind in ("bbox", "giou")},
    "class_loss_coefficient": "cls_loss_coef",
    "encoder_n_points": "enc_n_points",
    "focal_alpha": "focal_alpha",
    "auxiliary_loss": "aux_loss",
}
"""Fields that no tensor shows, and their arguments on the authors' command line, where the checkpoint stores it."""
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
    checkpoint: str | Path, output_dir: str | Path, dilation: bool | None = None, card: ModelCard | None = None
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

    card, variant, epochs = card or ModelCard(), variant_name(config), training_epochs(config, args)
    source = f"Converted from the SAM-DETR authors' checkpoint `{Path(checkpoint).name}`"
    source += f", trained for {epochs} epochs" if epochs else ""
    if (variant, epochs) in PUBLISHED_AP:
        source += (
            f". The paper reports {PUBLISHED_AP[variant, epochs]} AP on COCO val2017 for this model and schedule; "
            "that number was not measured again on the converted weights"
        )
    data = "COCO train2017" if (args or {}).get("dataset_file") == "coco" else None
    card = replace(
        card, name=card.name or variant, source=card.source or source + ".", training_data=card.training_data or data
    )
    save_for_hub(model.eval(), SamDetrImageProcessor(), output_dir, card)
    return model, card


def load_original_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of one of the authors' `.pth` files, and their command line where it was stored.

    Nothing in the file can run: besides tensors and plain containers only `argparse.Namespace` is read.

    Raises:
        FileNotFoundError, ValueError: no such file; it asks for anything else, is damaged, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch compresses nothing; such an archive could grow without end
                packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise ValueError(f"compressed entries, such as {shown(packed[0])}")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|function|global:?)\s+`?([\w.]+\.[\w.]+)", str(error))
        asked = f"it asks for `{wanted[1]}`" if wanted else "it is more than tensors, or damaged"
        remedy = "only tensors, plain containers and argparse.Namespace are read; anything else could run code"
        raise ValueError(f"{path} was refused, for {asked}: {remedy}.") from None
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
    wrong = ", ".join(name for name, tensor in state_dict.items() if not _is_plain(tensor))
    if wrong:
        raise ValueError(f"{path} holds tensors larger than stored, not dense or not finite: {shown(wrong)}.")
    return dict(state_dict), args


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
        ValueError: a tensor that tells the architecture is missing or of an unknown shape, or nothing says `dilation`.
    """

    def shape(name: str) -> tuple[int, ...]:
        """Of a matrix, as all are that tell the architecture."""
        found = tuple(state_dict[name].shape) if name in state_dict else None
        if found is None or len(found) != 2:
            problem = f"Tensors missing: {name}" if found is None else f"{name} has the shape {found}"
            raise ValueError(f"This is not a checkpoint of SAM-DETR that can be converted. {problem}.")
        return found

    def count(prefix: str) -> int:
        """How many different numbers follow the prefix."""
        return len({name.removeprefix(prefix).split(".")[0] for name in state_dict if name.startswith(prefix)})

    args = vars(args) if isinstance(args, argparse.Namespace) else args or {}
    is_multi_scale = "transformer.level_embed" in state_dict
    if dilation is None:
        dilation = args.get("dilation", False if is_multi_scale else None)
    if dilation is None:
        remedy = "pass dilation=True for DC5 or dilation=False otherwise (--dilation or --no-dilation)"
        raise ValueError(f"Nothing in this checkpoint tells R50 from R50-DC5: {remedy}.")
    num_queries, _ = shape("query_embed.weight")
    num_labels, d_model = shape("class_embed.0.weight")
    if d_model < 4:
        raise ValueError(f"class_embed.0.weight has the shape {(num_labels, d_model)}: a model is at least 4 wide.")
    encoder, decoder = "transformer.encoder.layers.", "transformer.decoder.layers."
    heads = shape(f"{decoder}0.attn1.weight")[0] // d_model
    point_outputs, _ = shape(f"{decoder}0.point2.6.weight")
    _, region_inputs = shape(f"{decoder}0.point2.0.weight")
    if point_outputs not in (2 * heads, 4 * heads):
        expected = f"with {heads} heads the authors' models have {2 * heads}, or {4 * heads} with SMCA"
        raise ValueError(f"{decoder}0.point2.6.weight has {point_outputs} outputs; {expected}.")
    fields = {field: args[argument] for field, argument in ARGUMENTS.items() if argument in args}
    coco = preset_fields("sam-detr-r50")
    if num_labels == len(coco["id2label"]):
        fields |= {name: coco[name] for name in ("id2label", "label2id")}
    else:
        fields["num_labels"] = num_labels
    blocks = tuple(count(f"backbone.0.body.layer{stage}.") for stage in (1, 2, 3, 4))
    if blocks not in _RESNETS:
        raise ValueError(f"The backbone has {blocks} blocks a stage, known are {_RESNETS}.")
    num_levels = shape("transformer.level_embed")[0] if is_multi_scale else 1
    if num_levels > 4:
        raise ValueError(f"transformer.level_embed has {num_levels} levels; a ResNet has 4 stages.")
    out_indices = list(range(5 - num_levels, 5))
    return SamDetrConfig(
        backbone_config={"model_type": "timm_backbone", "backbone": _RESNETS[blocks], "out_indices": out_indices},
        dilation=bool(dilation),
        num_feature_levels=num_levels,
        input_projection_norm="input_proj.0.1.weight" in state_dict,
        d_model=d_model,
        num_queries=num_queries,
        encoder_layers=count(encoder),
        encoder_attention_heads=args.get("nheads", heads),
        encoder_ffn_dim=shape(f"{encoder}0.linear1.weight")[0],
        decoder_layers=count(decoder),
        decoder_attention_heads=heads,
        decoder_ffn_dim=shape(f"{decoder}0.linear1.weight")[0],
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
    kept = {name: tensor for name, tensor in state_dict.items() if not DROPPED.fullmatch(name)}
    if not_float := [name for name, tensor in kept.items() if not tensor.is_floating_point()]:
        raise ValueError(f"Tensors are not of floating type: {shown(', '.join(not_float))}.")
    converted, origin = {}, {}
    for name, tensor in kept.items():
        names = translate(name)
        # a shape that cannot be cut is refused by the comparison below
        is_cut = len(names) > 1 and tensor.ndim > 0 and len(tensor) % len(names) == 0
        parts = tensor.chunk(len(names)) if is_cut else [tensor] * len(names)
        for our_name, part in zip(names, parts, strict=True):
            converted[our_name] = part.clone()  # parts and shared tensors become independent, as safetensors wants
            origin[our_name] = name

    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in SamDetrForObjectDetection(config).state_dict().items()}
    original = [(ours, theirs) for theirs, ours in RENAMED]
    unknown = [name for name in kept if not translate(name)]
    missing = [name for name in expected if name not in converted]
    problems = {
        "unknown": unknown + [f"{origin[name]} ({name})" for name in converted if name not in expected],
        "missing": [f"{''.join(translate(name, original)) or 'no tensor of the authors'} ({name})" for name in missing],
        "of another shape": [
            f"{origin[name]} ({name}) needs {expected[name]}, has {tuple(tensor.shape)}"
            for name, tensor in converted.items()
            if expected.get(name, tuple(tensor.shape)) != tuple(tensor.shape)
        ],
    }
    listed = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if listed:
        raise ValueError(f"This is not a checkpoint of SAM-DETR that can be converted. Tensors {'; '.join(listed)}.")
    return converted


def translate(name: str, pairs: Sequence[tuple[str, str]] = RENAMED) -> tuple[str, ...]:
    """Our names for an authors' tensor: one, several where it is cut, none where it is unknown.

    >>> translate("transformer.decoder.layers.3.point2.6.bias")
    ('model.decoder.layers.3.aligner.keypoint_head.layers.3.bias',)
    """
    found = []
    for pattern, template in pairs:
        regex = re.escape(pattern).replace(r"\*\*", r"(.+)").replace(r"\*", r"(\w+)")
        if match := re.fullmatch(regex, name):
            found.append(re.sub(r"\*\*?", "{}", template).format(*match.groups()))
    return tuple(found)


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
    epochs = (args or {}).get("epochs") or None
    if epochs is not None and not isinstance(epochs, int):
        raise ValueError(f"The stored argument epochs={shown(epochs, repr)} is no number of epochs.")
    if epochs is None and config.num_feature_levels == 1:
        return 12 if config.input_projection_norm else 50
    return epochs
