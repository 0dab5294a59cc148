"""One of the authors' `.pth` files to a folder that Transformers loads: read safely, converted, written, checked."""

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
from .conversion import config_from_checkpoint, convert_state_dict, training_epochs, variant_name
from .hub import save_for_hub
from .image_processing_sam_detr import SamDetrImageProcessor
from .model_card import ModelCard
from .modeling_sam_detr import SamDetrForObjectDetection

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
    """Says what the checkpoint is; of its accuracy, only what was published, and that it was not measured again."""
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
