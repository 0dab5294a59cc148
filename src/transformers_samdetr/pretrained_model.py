"""The base class of every SAM-DETR model, how weights start, and what models return."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, auto_docstring

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
        """As [`~transformers.PreTrainedModel.from_pretrained`], which makes new parameters, all of them trainable;
        here those are frozen again that a new model with the same configuration does not train."""
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
        """The parameters that the configuration does not train, by name: early stages of the backbone (of a ResNet its
        stem and first stage) and, with `reference_boxes="fixed"`, the reference boxes of the queries."""
        found = {}
        for prefix, module in self.named_modules():
            for name in getattr(module, "frozen_parameter_names", ()):
                found[f"{prefix}.{name}".lstrip(".")] = module.get_parameter(name)
        return found

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Xavier-uniform weights and zero biases; a module with other needs has `initialize()`.

        It must hold the parameters itself: Transformers passes over a module of custom code that has none of its own.
        """
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        if hasattr(module, "initialize"):
            module.initialize()


@dataclass
class SamDetrModelOutput(ModelOutput):
    """Output of [`SamDetrModel`]. Boxes are center x, center y, width, height, normalised by the valid image.

    Args:
        last_hidden_state (`torch.Tensor`, *optional*): `(B, Q, C)`, the last decoder layer's output.
        intermediate_hidden_states (`torch.Tensor`, *optional*): `(B, layers, Q, C)`, every decoder layer's output.
        intermediate_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)` float32, the boxes each layer predicts.
        reference_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)`, which each layer starts from, with aligner.
        salient_points (`torch.Tensor`, *optional*): `(B, layers, Q, P, 2)`, (x, y) normalised likewise, with keypoints.
        encoder_last_hidden_state (`torch.Tensor`, *optional*): `(B, S, C)`, the encoded feature levels, finest first.
        decoder_hidden_states (`tuple[torch.Tensor]`, *optional*): `(B, Q, C)` a layer, when asked for, as all below.
        decoder_attentions (`tuple[torch.Tensor]`, *optional*): weights among the queries, `(B, M, Q, Q)` a layer.
        cross_attentions (`tuple[torch.Tensor]`, *optional*): weights over the features, `(B, M, Q, S)` a layer.
        encoder_hidden_states (`tuple[torch.Tensor]`, *optional*): `(B, S, C)` a layer.
        encoder_attentions (`tuple[torch.Tensor]`, *optional*): `(B, M, S, S)` a layer, or `(B, S, M, levels, points)`
            of the deformable encoder.
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_boxes: Tensor | None = None
    reference_boxes: Tensor | None = None
    salient_points: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
class SamDetrObjectDetectionOutput(ModelOutput):
    """Output of [`SamDetrForObjectDetection`]. Boxes as in [`SamDetrModelOutput`], whose fields it continues with.

    Args:
        loss (`torch.Tensor`, *optional*): scalar, the weighted sum of all terms, when `labels` are given.
        loss_dict (`dict[str, torch.Tensor]`, *optional*): the unweighted terms: `loss_ce`, `loss_bbox`, `loss_giou` of
            the last layer, `..._0`, `..._1` and so on of those before it, `dn_...` of the denoising queries.
        logits (`torch.Tensor`, *optional*): `(B, Q, K)`, one sigmoid logit a class.
        pred_boxes (`torch.Tensor`, *optional*): `(B, Q, 4)` float32.
        intermediate_logits (`torch.Tensor`, *optional*): `(B, layers, Q, K)`, with `config.auxiliary_loss`.
        intermediate_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)` float32, likewise.
        last_hidden_state (`torch.Tensor`, *optional*): this one and all that follow are those of the base model.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    intermediate_logits: Tensor | None = None
    intermediate_boxes: Tensor | None = None
    last_hidden_state: Tensor | None = None
    reference_boxes: Tensor | None = None
    salient_points: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None

    @property
    def auxiliary_outputs(self) -> list[dict[str, Tensor]] | None:
        """`logits` and `pred_boxes` of each layer before the last, as Transformers' DETRs name them; no field, for
        pipelines and trainers index every field by image."""
        if self.intermediate_logits is None:
            return None
        layers = zip(self.intermediate_logits.unbind(1)[:-1], self.intermediate_boxes.unbind(1)[:-1], strict=True)
        return [{"logits": logits, "pred_boxes": boxes} for logits, boxes in layers]
