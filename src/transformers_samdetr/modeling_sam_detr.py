"""SAM-DETR and SAM-DETR++ as Transformers models: pixels → feature levels → encoder → decoder → heads → loss."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple

from .attention import additive_mask
from .backbone import SamDetrBackbone, download_timm_weights, load_into, read_state_dict
from .configuration_sam_detr import SamDetrConfig
from .decoder import SamDetrDecoder
from .encoder import SamDetrEncoder, split_levels
from .geometry import inverse_sigmoid
from .loss import DenoisingQueries, make_denoising_queries, prepare_targets, sam_detr_loss
from .operations import at_least_float32
from .pretrained_model import SamDetrModelOutput, SamDetrObjectDetectionOutput, SamDetrPreTrainedModel
from .routes import ROUTED

assert ROUTED, "importing `routes` is what makes operations faster than their references"


class SamDetrClassHead(nn.Linear):
    """One sigmoid logit a class, starting at the prior probability that focal loss needs (RetinaNet, section 4.1)."""

    PRIOR = 0.01
    PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)

    def __init__(self, config: SamDetrConfig):
        super().__init__(config.d_model, config.num_labels)

    def initialize(self):
        init.constant_(self.bias, self.PRIOR_LOGIT)


class SamDetrClassHeads(nn.Sequential):
    """One class head for each decoder layer; unlike an `nn.ModuleList`, PEFT's `modules_to_save` can take it whole."""

    def __init__(self, config: SamDetrConfig):
        super().__init__(*(SamDetrClassHead(config) for _ in range(config.decoder_layers)))

    def forward(self, states: Tensor) -> Tensor:
        """The outputs `(B, layers, Q, C)` of all decoder layers to logits `(B, layers, Q, K)`."""
        return torch.stack([head(states[:, layer]) for layer, head in enumerate(self)], dim=1)


class SamDetrAdjustableModel(SamDetrPreTrainedModel):
    """What can be changed of a model, with or without class heads, after it was made."""

    def freeze_backbone(self):
        """Stops training of the feature extractor; the input projections go on."""
        self.base_model.backbone.freeze()

    def unfreeze_backbone(self):
        """Trains the feature extractor again, but for its batch norms and a ResNet's stem and first stage."""
        self.base_model.backbone.unfreeze()

    def load_backbone_weights(self, weights: str | Path | dict[str, Tensor]):
        """Loads weights of the bare backbone, named as timm or the backbone's own library names them.

        Args:
            weights: a state dict, or a file with one (`.pth` or `.safetensors`).

        Raises:
            ValueError: a tensor of the backbone is missing or has another shape; the message lists them.
        """
        weights = weights if isinstance(weights, dict) else read_state_dict(weights)
        load_into(self.base_model.backbone.feature_extractor, weights)

    def resize_num_queries(self, num_queries: int):
        """Keeps the first `num_queries` queries, or adds new ones with random reference boxes.

        Raises:
            ValueError: fewer than one query.
        """
        if num_queries < 1:
            raise ValueError(f"num_queries={num_queries} is not possible: it must be at least 1.")
        model = self.base_model
        old = getattr(model, model.anchor_name)
        new = torch.randn_like(old.data[:1].expand(num_queries, -1))
        new[: len(old)] = old.data[:num_queries]
        setattr(model, model.anchor_name, nn.Parameter(new, requires_grad=old.requires_grad))
        self.config.num_queries = num_queries

    @torch.no_grad()
    def set_reference_boxes(self, boxes: Tensor):
        """Gives every query the box it starts from, as learned elsewhere or as the objects of a set lie (Table 5).

        Args:
            boxes: `(num_queries, 4)`, center x, center y, width, height, normalised.

        Raises:
            ValueError: the boxes do not fit, or the model has none (`query_resampling="none"`).
        """
        own = self.base_model.query_reference_boxes
        if own is None:
            raise ValueError("This model has no reference boxes: query_resampling='none'.")
        if boxes.shape != own.shape or not ((boxes >= 0) & (boxes <= 1)).all():
            raise ValueError(
                f"boxes of the shape {tuple(boxes.shape)} do not fit: give {tuple(own.shape)}, center x, center y, "
                "width, height, within [0, 1]."
            )
        own.copy_(inverse_sigmoid(boxes))


@auto_docstring(custom_intro="SAM-DETR without its class heads: from pixels to refined queries and boxes.")
class SamDetrModel(SamDetrAdjustableModel):
    def __init__(self, config: SamDetrConfig):
        config.validate()  # fields may have been set since it was made
        super().__init__(config)
        self.backbone = SamDetrBackbone(config)
        self.encoder = SamDetrEncoder(config)
        self.decoder = SamDetrDecoder(config)
        self.query_reference_boxes = self.query_positions = self.label_embedding = None
        if config.query_resampling == "none":
            self.query_positions = nn.Parameter(torch.empty(config.num_queries, config.d_model))
        else:
            self.query_reference_boxes = nn.Parameter(torch.empty(config.num_queries, 4))
        if config.num_denoising_groups:
            # one row a class, the last for "no class"; the channel that is left tells noised queries from ordinary ones
            self.label_embedding = nn.Embedding(config.num_labels + 1, config.d_model - 1)
        for parameter in self.frozen_parameters().values():
            parameter.requires_grad_(False)
        self.post_init()
        is_loading = self.device == torch.device("meta")  # a checkpoint follows
        if config.use_pretrained_backbone and not is_loading:
            self.load_backbone_weights(download_timm_weights(config))

    def initialize(self):
        for anchors in (self.query_reference_boxes, self.query_positions):
            if anchors is not None:
                init.normal_(anchors)

    @property
    def frozen_parameter_names(self) -> list[str]:
        """Names of this module's own parameters that are never trained (see `frozen_parameters`)."""
        return ["query_reference_boxes"] if self.config.reference_boxes == "fixed" else []

    @property
    def anchor_name(self) -> str:
        """The parameter with what tells queries apart: their boxes or, without aligner, their positions."""
        return "query_positions" if self.query_reference_boxes is None else "query_reference_boxes"

    def _prepare_queries(
        self, batch_size: int, dtype: torch.dtype, denoising: DenoisingQueries | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content `(B, Q, C)`, anchors (see `SamDetrDecoder`) and self-attention mask; denoising queries first."""
        config = self.config
        anchors = getattr(self, self.anchor_name).expand(batch_size, -1, -1)
        if self.query_reference_boxes is not None:
            anchors = at_least_float32(anchors)
        if self.label_embedding is None:
            return anchors.new_zeros(batch_size, config.num_queries, config.d_model, dtype=dtype), anchors, None
        no_class = self.label_embedding(torch.full((1, 1), config.num_labels, device=anchors.device))
        no_class = no_class.expand(batch_size, config.num_queries, -1)
        queries = nn.functional.pad(no_class, (0, 1))  # indicator 0
        if denoising is None:
            return queries.to(dtype), anchors, None
        noised = nn.functional.pad(self.label_embedding(denoising.labels), (0, 1), value=1.0)
        queries = torch.cat([noised, queries], dim=1).to(dtype)
        anchors = torch.cat([denoising.box_logits.to(anchors.dtype), anchors], dim=1)
        return queries, anchors, additive_mask(denoising.allowed, dtype)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        denoising_queries: DenoisingQueries | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SamDetrModelOutput:
        r"""
        denoising_queries (`DenoisingQueries`, *optional*):
            Noised objects, which [`SamDetrForObjectDetection`] adds in training; their results stand first.
        """
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.int64)
        levels = self.backbone(pixel_values, pixel_mask)
        encoded = self.encoder(torch.cat([level.features for level in levels], dim=1), levels, **kwargs)
        levels = split_levels(encoded.last_hidden_state, levels)
        queries, anchors, mask = self._prepare_queries(
            pixel_values.shape[0], levels[0].features.dtype, denoising_queries
        )
        decoded = self.decoder(queries, anchors, levels, mask, **kwargs)
        recorded = ("hidden_states", "attentions")
        return SamDetrModelOutput(
            **{f"decoder_{name}" if name in recorded else name: value for name, value in decoded.items()},
            **{f"encoder_{name}": value for name, value in encoded.items()},
        )


@auto_docstring(custom_intro="SAM-DETR with its class heads, for object detection.")
class SamDetrForObjectDetection(SamDetrAdjustableModel):
    def __init__(self, config: SamDetrConfig):
        super().__init__(config)
        self.model = SamDetrModel(config)
        self.class_heads = SamDetrClassHeads(config)
        self.post_init()

    @property
    def loss_function(self):
        """[`sam_detr_loss`]; Transformers would pick a softmax loss by this class's name."""
        return sam_detr_loss

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SamDetrObjectDetectionOutput:
        r"""
        labels (`list[dict]`, *optional*):
            For each image `class_labels` `(T,)`, class indices, and `boxes` `(T, 4)`, center x, center y, width,
            height, normalised by the image, as the image processor makes them; T may be 0. A label outside the classes,
            or a box that is not finite or outside [0, 1], raises a `ValueError` that names the image.

        Example:

        ```python
        >>> import torch
        >>> from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection

        >>> model = SamDetrForObjectDetection(SamDetrConfig.from_preset("sam-detr-tiny")).eval()
        >>> with torch.no_grad():
        ...     outputs = model(torch.randn(1, 3, 256, 256))
        >>> list(outputs.pred_boxes.shape)
        [1, 60, 4]

        ```"""
        config, targets, denoising = self.config, None, None
        if labels is not None:
            targets = prepare_targets(labels, len(pixel_values), config.num_labels, pixel_values.device)
            if self.training and config.num_denoising_groups:
                denoising = make_denoising_queries(targets, config)

        outputs = self.model(pixel_values, pixel_mask, denoising_queries=denoising, **kwargs)
        states, boxes = outputs.intermediate_hidden_states, outputs.intermediate_boxes
        logits = self.class_heads(states)

        # the denoising queries stand first; nothing but their own loss sees them
        num_noised = logits.shape[2] - config.num_queries
        noised_logits, logits = logits.split([num_noised, config.num_queries], dim=2)
        noised_boxes, boxes = boxes.split([num_noised, config.num_queries], dim=2)
        loss, loss_dict = None, None
        if targets is not None:
            noised = (None, None) if denoising is None else (noised_logits, noised_boxes)
            loss, loss_dict = self.loss_function(logits, boxes, targets, config, *noised)

        names = SamDetrObjectDetectionOutput.__dataclass_fields__
        shared = {name: value for name, value in outputs.items() if name in names}
        shared["intermediate_boxes"] = boxes if config.auxiliary_loss else None
        for name, axis in (("last_hidden_state", -2), ("reference_boxes", -2), ("salient_points", -3)):
            if name in shared:
                shared[name] = shared[name].narrow(axis, num_noised, config.num_queries)
        return SamDetrObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits[:, -1],
            pred_boxes=boxes[:, -1],
            intermediate_logits=logits if config.auxiliary_loss else None,
            **shared,
        )


__all__ = ["SamDetrForObjectDetection", "SamDetrModel"]
