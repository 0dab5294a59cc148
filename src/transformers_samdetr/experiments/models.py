"""The model of a run: its architecture, the weights it shares with the runs beside it, and its image processor."""

import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from ..data.detection_data import DetectionData
from ..training import load_model_and_processor
from .initial_weights import share_initial_weights
from .ledger import Ledger
from .runs import Run
from .variants import REFERENCE


def build_model(run: Run, data: DetectionData, ledger: Ledger) -> tuple[nn.Module, BaseImageProcessor]:
    """The model that the run starts from, and its processor.

    Args:
        run: says all of the model but its classes.
        data: gives the classes.
        ledger: has the reference boxes, where the run takes them from another one.

    Raises:
        ValueError: the run that the boxes are taken from is not finished.
    """
    source = None if run.needs is None else ledger.read(run.needs)
    if run.needs is not None and source is None:
        raise ValueError(f"{run.name} takes its reference boxes from {run.needs.name}, which is not in the ledger.")
    model, processor = load_model_and_processor(run.recipe(), data.names, data.category_ids)
    if run.variant != REFERENCE:
        reference = Run(run.setting, REFERENCE, run.learning_rate, run.seed).recipe()
        share_initial_weights(model, load_model_and_processor(reference, data.names)[0])
    if source is not None:
        model.set_reference_boxes(torch.tensor(source["reference_boxes"]))
    return model, processor


def reference_boxes(model: nn.Module) -> list[list[float]]:
    """Center x, center y, width and height of each query's box, normalised, to six decimals."""
    boxes = model.model.query_reference_boxes.detach().sigmoid().double()
    return [[round(number, 6) for number in box] for box in boxes.tolist()]
