"""One picture through a model, with all that figures of what it looked at are drawn from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou
from transformers.image_processing_utils import BaseImageProcessor

from ...box_ops import center_to_corners
from ...configuration_sam_detr import SamDetrConfig
from ...modeling_sam_detr import SamDetrForObjectDetection
from ...outputs import SamDetrObjectDetectionOutput
from ...pictures import picture_to_array


@dataclass
class Inside:
    """What a forward pass leaves behind beside its outputs, of a batch of one.

    Attributes:
        sizes: height and width of each feature level, finest first.
        valid_ratio: `(L, 2)`, the valid share of each level's width and height.
        attentions: of each decoder layer `(M, Q, S)`, the cross-attention's weights.
        queries: of each layer `(Q, C)`, the queries before they are aligned; empty without aligner, as is the next.
        aligned: of each layer `(Q, M, C)`, the content of the queries after it.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    valid_ratio: Tensor | None = None
    attentions: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    aligned: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Observation:
    """A picture, what a model makes of it, and what it looked at.

    Layers are decoder layers, counted from 0; -1 is the last.

    Attributes:
        image: upright RGB.
        config: of the model.
        outputs: of the model, on the CPU's side of a batch of one.
        inside: what the outputs do not hold.
    """

    image: Image.Image
    config: SamDetrConfig
    outputs: SamDetrObjectDetectionOutput
    inside: Inside

    @property
    def has_points(self) -> bool:
        return self.outputs.salient_points is not None

    @property
    def has_reference(self) -> bool:
        return self.outputs.reference_boxes is not None

    def find_query(self, label: int | None, box: Sequence[float]) -> int:
        """The query that a detection came from, or of a detection of another model the one that is most like it.

        Args:
            label: of the detection; None where this model does not know its class.
            box: x1, y1, x2, y2 in pixels of the picture.

        Returns:
            The query with the box that overlaps most; of equal ones that with the highest score.
        """
        boxes = torch.from_numpy(self.boxes()[-1])
        overlaps = box_iou(boxes, torch.tensor([box], dtype=boxes.dtype))[:, 0].nan_to_num()
        logits = self.outputs.logits[0].float()
        scores = (logits.amax(-1) if label is None else logits[:, label]).sigmoid()
        return int((overlaps + 1e-4 * scores).argmax())

    def boxes(self) -> np.ndarray:
        """`(layers + 1, Q, 4)`, x1 y1 x2 y2 in pixels of the picture: what the queries start from, then each layer's.

        Without reference boxes, or without the auxiliary outputs, as many of the last as the model returns.
        """
        outputs = self.outputs
        if outputs.reference_boxes is not None:
            steps = [*outputs.reference_boxes[0].unbind(0), outputs.pred_boxes[0]]
        else:
            steps = [*(layer["pred_boxes"][0] for layer in outputs.auxiliary_outputs or []), outputs.pred_boxes[0]]
        scale = torch.tensor([*self.image.size] * 2)
        return (center_to_corners(torch.stack([step.float() for step in steps])) * scale).numpy()

    def scores(self, label: int) -> np.ndarray:
        """`(layers, Q)`, the score of a class after each layer, or after the last alone."""
        layers = [layer["logits"][0] for layer in self.outputs.auxiliary_outputs or []]
        return torch.stack([*layers, self.outputs.logits[0]])[..., label].float().sigmoid().numpy()

    def points(self, query: int, layer: int = -1) -> np.ndarray:
        """`(P, 2)`, the salient points (x, y) of a query in pixels of the picture.

        Raises:
            ValueError: the model has none.
        """
        if self.outputs.salient_points is None:
            raise ValueError(f"A model with query_resampling={self.config.query_resampling!r} has no salient points.")
        points = self.outputs.salient_points[0, layer, query].float()
        return (points * torch.tensor(self.image.size)).numpy()

    def point_of_head(self, head: int) -> int:
        """Which salient point a head of the cross-attention uses."""
        return head * self.config.num_keypoints // self.config.decoder_attention_heads

    def attention(self, query: int, layer: int = -1) -> np.ndarray:
        """`(M, H, W)`, a query's attention to the valid part of the level that the layer reads; each head sums to 1."""
        return self._on_map(self.inside.attentions[layer][:, query], layer).float().numpy()

    def similarity(self, query: int, layer: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Cosine of a query with the features of each place, before and after it is aligned: `(H, W)` and `(M, H, W)`.

        Raises:
            ValueError: the model has no aligner.
        """
        if not self.inside.aligned:
            raise ValueError("A model with query_resampling='none' has no aligner: there is no before and after.")
        features = nn.functional.normalize(self._features(layer), dim=-1)  # (S, C)
        before = nn.functional.normalize(self.inside.queries[layer][query].float(), dim=-1)
        after = nn.functional.normalize(self.inside.aligned[layer][query].float(), dim=-1)  # (M, C)
        maps = self._on_map(torch.cat([before[None], after]) @ features.T, layer).numpy()
        return maps[0], maps[1:]

    def _level(self, layer: int) -> int:
        return self.config.decoder_feature_levels[layer]

    def _features(self, layer: int) -> Tensor:
        """`(S, C)`, the encoded features that a layer reads."""
        lengths = [height * width for height, width in self.inside.sizes]
        return self.outputs.encoder_last_hidden_state[0].float().split(lengths)[self._level(layer)]

    def _on_map(self, values: Tensor, layer: int) -> Tensor:
        """`(…, S)` to `(…, H, W)`, without padding."""
        level = self._level(layer)
        height, width = self.inside.sizes[level]
        ratio_x, ratio_y = self.inside.valid_ratio[level].tolist()
        return values.unflatten(-1, (height, width))[..., : round(height * ratio_y), : round(width * ratio_x)]


@torch.inference_mode()
def observe(model: SamDetrForObjectDetection, processor: BaseImageProcessor, image: Image.Image) -> Observation:
    """Runs a model on a picture and keeps what it looked at.

    Cross-attention is computed in plain PyTorch, which keeps its weights; the outputs differ from those of the other
    ways by rounding alone. Memory beside the model's own: the weights of all decoder layers, which are 340 MB for a
    SAM-DETR++-R50 at 800 x 1066, and 1.5 MB for a `sam-detr-tiny` at 256 x 256.

    Args:
        model: in evaluation mode.
        processor: its image processor.
        image: of any mode; its EXIF orientation is applied.

    Raises:
        ValueError: the model is in training mode, where denoising and dropout blur what is seen.
    """
    if model.training:
        raise ValueError("The model is in training mode: call model.eval() first.")
    image = Image.fromarray(picture_to_array(image))
    inputs = processor(image, return_tensors="pt").to(model.device)
    with _plain_attention(model), _watched(model) as inside:
        outputs = model(**inputs)
    return Observation(image, model.config, _to_cpu(outputs), inside)


@contextmanager
def _plain_attention(model: SamDetrForObjectDetection) -> Iterator[None]:
    """Attention that keeps its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _watched(model: SamDetrForObjectDetection) -> Iterator[Inside]:
    """Fills an `Inside` while the model runs."""
    inside = Inside()

    def see_levels(module: nn.Module, arguments: tuple, levels: list) -> None:
        inside.sizes = [level.size for level in levels]
        inside.valid_ratio = torch.stack([level.valid_ratio[0] for level in levels]).cpu()

    def see_alignment(module: nn.Module, arguments: tuple, aligned) -> None:
        inside.queries.append(arguments[0][0].cpu())
        inside.aligned.append(aligned.content[0].cpu())

    def see_attention(module: nn.Module, arguments: tuple, attended: tuple) -> None:
        inside.attentions.append(attended[1][0].cpu())

    handles = [model.model.backbone.register_forward_hook(see_levels)]
    for layer in model.model.decoder.layers:
        handles.append(layer.cross_attn.register_forward_hook(see_attention))
        if layer.has_aligner:
            handles.append(layer.aligner.register_forward_hook(see_alignment))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def _to_cpu(value):
    """The same outputs on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(one) for one in value)
    moved = {name: _to_cpu(one) for name, one in value.items()}
    return type(value)(**moved)
