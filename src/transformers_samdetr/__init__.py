"""SAM-DETR and SAM-DETR++ for Hugging Face Transformers."""

import sys
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING

__version__ = "0.1.0"


def _starts_command() -> bool:
    """Whether a console command runs, which parses its arguments before it imports PyTorch and Transformers."""
    module = any(word.startswith(f"{__name__}.commands.") for word in sys.orig_argv[1:4])  # python -u -m MODULE
    return module or PurePath(sys.argv[0] if sys.argv else "").name.startswith("samdetr-")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.auto_classes"), name)


if TYPE_CHECKING or not _starts_command():
    from .auto_classes import (
        SamDetrConfig,
        SamDetrForObjectDetection,
        SamDetrImageProcessor,
        SamDetrImageProcessorPil,
        SamDetrModel,
        SamDetrModelOutput,
        SamDetrObjectDetectionOutput,
        SamDetrObjectDetectionPipeline,
        SamDetrPreTrainedModel,
        SemanticsAligner,
        reference_operations,
    )

__all__ = [
    "SamDetrConfig",
    "SamDetrForObjectDetection",
    "SamDetrImageProcessor",
    "SamDetrImageProcessorPil",
    "SamDetrModel",
    "SamDetrModelOutput",
    "SamDetrObjectDetectionOutput",
    "SamDetrObjectDetectionPipeline",
    "SamDetrPreTrainedModel",
    "SemanticsAligner",
    "reference_operations",
]
