"""What the models return. B images, Q queries, C channels, K classes, M heads, P salient points, S map positions."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class SamDetrModelOutput(ModelOutput):
    """Output of [`SamDetrModel`]. Boxes are center x, center y, width, height, normalised by the valid image.

    Args:
        last_hidden_state (`torch.Tensor`, *optional*): `(B, Q, C)`, the last decoder layer's output.
        intermediate_hidden_states (`torch.Tensor`, *optional*): `(B, layers, Q, C)`, every decoder layer's output.
        intermediate_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)` float32, the boxes each layer predicts.
        reference_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)`, the boxes each layer starts from; None
            without aligner.
        salient_points (`torch.Tensor`, *optional*): `(B, layers, Q, P, 2)`, (x, y) normalised by the valid image; None
            without keypoints.
        encoder_last_hidden_state (`torch.Tensor`, *optional*): `(B, S, C)`, the encoded feature levels, finest first,
            one after another.
        decoder_hidden_states (`tuple[torch.Tensor]`, *optional*): `(B, Q, C)` a layer, when asked for, as all below.
        decoder_attentions (`tuple[torch.Tensor]`, *optional*): weights among the queries, `(B, M, Q, Q)` a layer.
        cross_attentions (`tuple[torch.Tensor]`, *optional*): weights of the aligned queries over the features,
            `(B, M, Q, S)` a layer.
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
        intermediate_logits (`torch.Tensor`, *optional*): `(B, layers, Q, K)`, the logits of every decoder layer, with
            `config.auxiliary_loss`.
        intermediate_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)` float32, likewise.
        last_hidden_state (`torch.Tensor`, *optional*): `(B, Q, C)`, the last decoder layer's output.
        reference_boxes (`torch.Tensor`, *optional*): `(B, layers, Q, 4)`, the boxes each layer starts from.
        salient_points (`torch.Tensor`, *optional*): `(B, layers, Q, P, 2)`, (x, y) normalised by the valid image.
        encoder_last_hidden_state (`torch.Tensor`, *optional*): `(B, S, C)`, the encoded feature levels.
        decoder_hidden_states (`tuple[torch.Tensor]`, *optional*): `(B, Q, C)` a layer, when asked for, as all below.
        decoder_attentions (`tuple[torch.Tensor]`, *optional*): weights among the queries, `(B, M, Q, Q)` a layer.
        cross_attentions (`tuple[torch.Tensor]`, *optional*): weights over the features, `(B, M, Q, S)` a layer.
        encoder_hidden_states (`tuple[torch.Tensor]`, *optional*): `(B, S, C)` a layer.
        encoder_attentions (`tuple[torch.Tensor]`, *optional*): as in [`SamDetrModelOutput`].
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
        """`logits` and `pred_boxes` of each layer before the last, as Transformers' DETRs name them.

        No field: pipelines and trainers index every field by image, not by layer.
        """
        if self.intermediate_logits is None:
            return None
        layers = zip(self.intermediate_logits.unbind(1)[:-1], self.intermediate_boxes.unbind(1)[:-1], strict=True)
        return [{"logits": logits, "pred_boxes": boxes} for logits, boxes in layers]
