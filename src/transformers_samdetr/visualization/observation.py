"""One picture through a model, with all that figures of what it looked at are drawn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.ops import box_iou
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_sam_detr import SamDetrConfig
from ..geometry import center_to_corners
from ..modeling_sam_detr import SamDetrForObjectDetection
from ..pictures import picture_to_array
from ..pretrained_model import SamDetrObjectDetectionOutput
from .fonts import font_path, shorten

LONGEST_TITLE = 24
"""Characters of a name in a title."""


@dataclass(frozen=True)
class Observation:
    """A picture, what a model detects on it, and what it looked at. Decoder layers count from 0; -1 is the last.

    Attributes:
        image: upright RGB.
        config: of the model.
        outputs: of the model, on the CPU, for a batch of one.
        sizes: height and width of each feature level, finest first.
        valid_ratio: `(L, 2)`, the valid share of each level's width and height.
        attentions: `(M, Q, S)` for each decoder layer, the cross-attention's weights.
        alignments: for each layer the queries before the aligner, `(Q, C)`, and their content after it, `(Q, M, C)`;
            empty without aligner.
    """

    image: Image.Image
    config: SamDetrConfig
    outputs: SamDetrObjectDetectionOutput
    sizes: list[tuple[int, int]]
    valid_ratio: Tensor
    attentions: list[Tensor]
    alignments: list[tuple[Tensor, Tensor]]

    @property
    def has_points(self) -> bool:
        return self.outputs.salient_points is not None

    @property
    def has_reference(self) -> bool:
        return self.outputs.reference_boxes is not None

    def find_query(self, label: int | None, box: Sequence[float]) -> int:
        """The query with the box that overlaps most with a detection's, the higher score where several are equal.

        `label` is None where this model does not have its class; `box` is x1, y1, x2, y2 in pixels of the picture.
        """
        boxes = torch.from_numpy(self.boxes()[-1])
        overlaps = box_iou(boxes, torch.tensor([box], dtype=boxes.dtype))[:, 0].nan_to_num()
        logits = self.outputs.logits[0].float()
        scores = (logits.amax(-1) if label is None else logits[:, label]).sigmoid()
        return int((overlaps + 1e-4 * scores).argmax())

    def boxes(self) -> np.ndarray:
        """`(layers + 1, Q, 4)`, x1 y1 x2 y2 in pixels of the picture: the initial boxes, then each layer's.

        Without reference boxes there are no initial boxes, and without auxiliary outputs only those of the last layer.
        """
        outputs, boxes = self.outputs, self.outputs.pred_boxes
        if self.has_reference:
            boxes = torch.cat([outputs.reference_boxes[0].float(), boxes])
        elif outputs.intermediate_boxes is not None:
            boxes = outputs.intermediate_boxes[0]
        return (center_to_corners(boxes.float()) * torch.tensor([*self.image.size] * 2)).numpy()

    def scores(self, label: int) -> np.ndarray:
        """`(layers, Q)`, the score of a class after each layer, or `(1, Q)` without auxiliary outputs."""
        every = self.outputs.intermediate_logits
        return (self.outputs.logits if every is None else every[0])[..., label].float().sigmoid().numpy()

    def points(self, query: int, layer: int = -1) -> np.ndarray:
        """`(P, 2)`, the salient points (x, y) of a query in pixels; a ValueError where the model has none."""
        if not self.has_points:
            raise ValueError(f"A model with query_resampling={self.config.query_resampling!r} has no salient points.")
        return (self.outputs.salient_points[0, layer, query].float() * torch.tensor(self.image.size)).numpy()

    def point_of_head(self, head: int) -> int:
        """Which salient point a head of the cross-attention uses."""
        return head * self.config.num_keypoints // self.config.decoder_attention_heads

    def attention(self, query: int, layer: int = -1) -> np.ndarray:
        """`(M, H, W)`, a query's attention to the valid part of the level that the layer reads; each head sums to 1."""
        return self._to_map(self.attentions[layer][:, query], layer)

    def similarity(self, query: int, layer: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Cosine of a query with the features of each place, before and after it is aligned: `(H, W)` and `(M, H, W)`.

        A model without aligner is a ValueError.
        """
        if not self.alignments:
            raise ValueError("A model with query_resampling='none' has no aligner: there is no before and after.")
        lengths = [height * width for height, width in self.sizes]
        level = self.config.decoder_feature_levels[layer]
        features = self.outputs.encoder_last_hidden_state[0].float().split(lengths)[level]  # (S, C)
        before, after = self.alignments[layer]
        queries = torch.cat([before[query][None], after[query]]).float()  # (1 + M, C)
        maps = self._to_map(normalize(queries, dim=-1) @ normalize(features, dim=-1).T, layer)
        return maps[0], maps[1:]

    def _to_map(self, values: Tensor, layer: int) -> np.ndarray:
        """`(…, S)` to `(…, H, W)`, without padding."""
        level = self.config.decoder_feature_levels[layer]
        (height, width), (ratio_x, ratio_y) = self.sizes[level], self.valid_ratio[level].tolist()
        maps = values.float().unflatten(-1, (height, width))
        return maps[..., : round(height * ratio_y), : round(width * ratio_x)].numpy()


@torch.inference_mode()
def observe(model: SamDetrForObjectDetection, processor: BaseImageProcessor, image: Image.Image) -> Observation:
    """Runs a model in evaluation mode on a picture of any mode, upright by its EXIF, and keeps what it looked at.

    Attention is eager, which returns its weights; outputs differ from those of the other implementations by rounding
    only. The weights of all decoder layers take 340 MB for a SAM-DETR++-R50 at 800 x 1066, and 1.5 MB for a
    `sam-detr-tiny` at 256 x 256. A ValueError says that the model is in training mode, where dropout and denoising
    queries change what is seen.
    """
    if model.training:
        raise ValueError("The model is in training mode: call model.eval() first.")
    image = Image.fromarray(picture_to_array(image))
    levels, attentions, alignments, hooks = [], [], [], []

    def watch(module: nn.Module, record: Callable[[tuple, Any], None]) -> None:
        hooks.append(module.register_forward_hook(lambda _, arguments, found: record(arguments, found)))

    watch(model.model.backbone, lambda _, found: levels.extend((one.size, one.valid_ratio[0].cpu()) for one in found))
    for layer in model.model.decoder.layers:
        watch(layer.cross_attn, lambda _, found: attentions.append(found[1][0].cpu()))
        if layer.has_aligner:
            watch(layer.aligner, lambda given, found: alignments.append((given[0][0].cpu(), found.content[0].cpu())))
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        outputs = model(**processor(image, return_tensors="pt").to(model.device))
    finally:
        model.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()
    tensors = {name: value.cpu() for name, value in outputs.items() if isinstance(value, Tensor)}
    sizes, ratios = zip(*levels, strict=True)
    outputs = SamDetrObjectDetectionOutput(**tensors)
    return Observation(image, model.config, outputs, list(sizes), torch.stack(ratios), attentions, alignments)


@dataclass(frozen=True)
class ExplainedDetection:
    """A detection of one picture, with its box, x1, y1, x2, y2 in pixels, and the index of the query it came from."""

    query: int
    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def title(self) -> str:
        """Such as `cat: 0.83`; `#3: 0.83` where no font on this system can draw the name."""
        return f"{title_of(self.name, f'#{self.label}')}: {self.score:.2f}"


def find_best(observation: Observation, detections: dict[str, Tensor], count: int) -> list[ExplainedDetection]:
    """The first `count` detections with their queries; a query that is detected as two classes is there once.

    `detections` of the model that was observed are `scores`, `labels` and `boxes`, x1 y1 x2 y2 in pixels, by
    descending score. A `count` below 1 is a ValueError.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1.")
    found: dict[int, ExplainedDetection] = {}
    columns = (detections[name].tolist() for name in ("scores", "labels", "boxes"))
    for score, label, box in zip(*columns, strict=True):
        query, name = observation.find_query(label, box), observation.config.id2label[label]
        found.setdefault(query, ExplainedDetection(query, label, name, score, tuple(box)))
        if len(found) == count:
            break
    return list(found.values())


def same_object(
    observations: Sequence[Observation], model_names: Sequence[str], detection: ExplainedDetection
) -> tuple[list[int], list[str]]:
    """For each model the query whose box fits a detection of the first model best, and a title with its score.

    The observations are of one picture. Returns `queries` and `titles` for `attention_figure`.
    """
    queries, titles = [detection.query], [f"{title_of(model_names[0])} – {detection.title}"]
    for one, model_name in zip(observations[1:], model_names[1:], strict=True):
        label = one.config.label2id.get(detection.name)
        queries.append(one.find_query(label, detection.box))
        score = "not one of its classes" if label is None else f"{one.scores(label)[-1, queries[-1]]:.2f}"
        titles.append(f"{title_of(model_name)} – {title_of(detection.name, f'#{detection.label}')}: {score}")
    return queries, titles


def title_of(name: str, otherwise: str = "?") -> str:
    """A name for a title: short, on one line, without formulas in dollar signs; `otherwise` where no font draws it.

    >>> title_of("tie\\n$5")
    'tie \\\\$5'
    """
    name = shorten(name, LONGEST_TITLE)
    return name.replace("$", r"\$") if font_path(name) is not None else otherwise
