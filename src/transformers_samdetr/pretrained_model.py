"""The base class of every SAM-DETR model: what Transformers has to know, and how weights start."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import auto_docstring

from .configuration_sam_detr import SamDetrConfig


@auto_docstring
class SamDetrPreTrainedModel(PreTrainedModel):
    config: SamDetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["SamDetrBackbone", "SamDetrEncoderLayer", "SamDetrDecoderLayer"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is normalised by boxes, not by Trainer's count of label tokens
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Loads a saved model; its frozen parameters are those of a new model with the same configuration.

        Transformers makes new parameters when it loads, all of them trainable. Arguments and results are those of
        [`~transformers.PreTrainedModel.from_pretrained`].
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        for parameter in model.frozen_parameters().values():
            parameter.requires_grad_(False)
        return loaded

    @property
    def device(self) -> torch.device:
        """The device of the first parameter; of the CPU for an encoder without layers, which has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter that is floating-point; PyTorch's default for an encoder without layers."""
        kinds = (parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())
        return next(kinds, torch.get_default_dtype())

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the configuration does not train, by name.

        These are the early stages of the backbone (of a ResNet its stem and first stage) and, with
        `reference_boxes="fixed"`, the reference boxes of the queries.
        """
        found = {}
        for prefix, module in self.named_modules():
            for name in getattr(module, "frozen_parameter_names", ()):
                found[f"{prefix}.{name}".lstrip(".")] = module.get_parameter(name)
        return found

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Xavier-uniform weights and zero biases (SPEC: recipe); a module with other needs has `initialize()`.

        Such a module must hold the parameters itself: Transformers passes over a module of custom code that has none
        of its own, and with it over whatever it would do to its children.
        """
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        if hasattr(module, "initialize"):
            module.initialize()
