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


class ZeroLinear(nn.Linear):
    """A linear layer that starts at 0, whatever comes in."""

    def initialize(self):
        init.zeros_(self.weight)
        init.zeros_(self.bias)
