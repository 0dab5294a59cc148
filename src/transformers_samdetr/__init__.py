"""SAM-DETR and SAM-DETR++ for Hugging Face Transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForObjectDetection

from .configuration_sam_detr import SamDetrConfig
from .modeling_sam_detr import (
    SamDetrForObjectDetection,
    SamDetrModel,
    SamDetrModelOutput,
    SamDetrObjectDetectionOutput,
    SamDetrPreTrainedModel,
)

__version__ = "0.1.0"

AutoConfig.register("sam_detr", SamDetrConfig, exist_ok=True)
AutoModel.register(SamDetrConfig, SamDetrModel, exist_ok=True)
AutoModelForObjectDetection.register(SamDetrConfig, SamDetrForObjectDetection, exist_ok=True)

__all__ = [
    "SamDetrConfig",
    "SamDetrForObjectDetection",
    "SamDetrModel",
    "SamDetrModelOutput",
    "SamDetrObjectDetectionOutput",
    "SamDetrPreTrainedModel",
]
