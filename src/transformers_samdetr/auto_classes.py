"""The public classes, registered with Transformers' Auto classes and `pipeline`."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_sam_detr import SamDetrConfig
from .image_processing_sam_detr import SamDetrImageProcessor, SamDetrImageProcessorPil, SamDetrObjectDetectionPipeline
from .modeling_sam_detr import SamDetrForObjectDetection, SamDetrModel
from .operations import reference_operations  # noqa: F401
from .pretrained_model import SamDetrModelOutput, SamDetrObjectDetectionOutput, SamDetrPreTrainedModel  # noqa: F401
from .semantics_aligner import SemanticsAligner  # noqa: F401

# pipeline() looks the class up by name, and warns of an unsupported model where it is not listed
MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES.setdefault("sam_detr", "SamDetrForObjectDetection")
PIPELINE_REGISTRY.supported_tasks["object-detection"]["impl"] = SamDetrObjectDetectionPipeline

AutoConfig.register("sam_detr", SamDetrConfig, exist_ok=True)
AutoModel.register(SamDetrConfig, SamDetrModel, exist_ok=True)
AutoModelForObjectDetection.register(SamDetrConfig, SamDetrForObjectDetection, exist_ok=True)
AutoImageProcessor.register(
    SamDetrConfig,
    image_processor_classes={"torchvision": SamDetrImageProcessor, "pil": SamDetrImageProcessorPil},
    exist_ok=True,
)
