"""The model of a run: its architecture, the weights it shares with the runs beside it, and its image processor."""

from dataclasses import replace

import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import set_seed

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.data.load import DetectionData
from transformers_samdetr.training import Recipe, load_model_and_processor
from transformers_samdetr.training.start import boxes_of_objects, find_backbone_weights

from .definitions import REFERENCE
from .peers import PeerConfig, PeerForObjectDetection
from .runs import Ledger, Run


@torch.no_grad()
def share_initial_weights(model: nn.Module, reference: nn.Module) -> list[str]:
    """Copies each tensor of the reference to the model's tensor of the same name and shape.

    Args:
        model: of the variant; changed in place.
        reference: of the same setting and seed, freshly made.

    Returns:
        Names of the copied tensors.
    """
    given, shared = reference.state_dict(), []
    for name, tensor in model.state_dict().items():
        if name in given and given[name].shape == tensor.shape:
            tensor.copy_(given[name])
            shared.append(name)
    return shared


PAPER_SIDE, ANCHOR_SIDE = 800, 256
"""Shortest sides in pixels: of the paper's pictures, and of those that a peer's anchors are given for."""


def build_model(run: Run, data: DetectionData, ledger: Ledger) -> tuple[nn.Module, BaseImageProcessor]:
    """The initial model of a run, and its processor.

    Args:
        run: defines the model except its classes.
        data: for the classes, and for initial boxes from the training set.
        ledger: for reference boxes that are taken from another run.

    Raises:
        ValueError: the run whose reference boxes are taken is not finished.
    """
    source = None if run.needs is None else ledger.read(run.needs)
    if run.needs is not None and source is None:
        raise ValueError(f"{run.name} takes its reference boxes from {run.needs.name}, which is not in the ledger.")
    recipe, peer = run.recipe(), run.parts[1].peer
    # random boxes first: shared weights are copied before the boxes are placed
    drawn = replace(recipe, initial_boxes="model")
    model, processor = load_model_and_processor(drawn, data.names, data.category_ids)
    if peer is not None:
        model = make_peer(peer, model.config, recipe)
    elif run.variant != REFERENCE:
        reference = Run(run.setting, REFERENCE, run.learning_rate, run.seed).recipe()
        share_initial_weights(model, load_model_and_processor(reference, data.names)[0])
    if source is not None:
        model.set_reference_boxes(torch.tensor(source["reference_boxes"]))
    start_from_objects(model, recipe, data)
    return model, processor


def start_from_objects(model: nn.Module, recipe: Recipe, data: DetectionData) -> None:
    """Sets the reference boxes of a model or peer from the training set if the recipe asks for it."""
    if recipe.initial_boxes == "training_set" and data.train is not None:
        model.set_reference_boxes(boxes_of_objects(data.train, model.config.num_queries, recipe.seed))


def make_peer(peer: str, ours: SamDetrConfig, recipe: Recipe) -> PeerForObjectDetection:
    """Another library's detector with the backbone, sizes and classes of one of ours, from the recipe's seed."""
    set_seed(recipe.seed)
    config = PeerConfig.beside(ours, peer)
    config.category_ids = ours.category_ids
    config.anchor_scale = (recipe.image_size or PAPER_SIDE) / ANCHOR_SIDE
    model = PeerForObjectDetection(config)
    if recipe.backbone_weights is not None:
        model.load_backbone_weights(find_backbone_weights(recipe.backbone_weights))
    return model


def reference_boxes(model: nn.Module) -> list[list[float]]:
    """Center x, center y, width and height of each query's box, normalised, to six decimals."""
    boxes = model.model.query_reference_boxes.detach().sigmoid().double()
    return [[round(number, 6) for number in box] for box in boxes.tolist()]
