"""Figures of why a model finds what it finds, for the best detections of each picture."""

from collections.abc import Iterator, Sequence

from PIL import Image
from torch import Tensor

from ..modeling_sam_detr import SamDetrForObjectDetection
from .detector import Detector

KINDS = ("overview", "heads", "boxes", "alignment")
"""All on one page; the paper's Fig. 5; boxes layer by layer; similarity before and after the aligner."""


class Explainer:
    """Draws figures of a detector's detections.

    Args:
        detector: of a SAM-DETR.
        kinds: some of `KINDS`.
        count: detections of a picture that are explained, the best ones.
        other: a second SAM-DETR, whose attention to the same object stands below in `heads`, such as one without the
            aligner.

    Raises:
        ValueError: a kind is unknown or not possible with this model, `count` is below 1, or `other` is given without
            `heads`.
        ImportError: matplotlib is not installed.
    """

    def __init__(self, detector: Detector, kinds: Sequence[str], count: int = 3, other: Detector | None = None):
        from ..visualization import explain  # here, for it needs matplotlib, which others can do without

        self.draw, self.detector, self.kinds, self.count, self.other = explain, detector, kinds, count, other
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"explain={unknown[0]!r} is not possible: choose from {', '.join(KINDS)}.")
        if count < 1:
            raise ValueError(f"explain_top={count} must be at least 1.")
        if other is not None and "heads" not in kinds:
            raise ValueError("compare_with shows in the figure of the heads: explain them too (--explain heads).")
        for model in (one.model for one in (detector, other) if one is not None):
            if not isinstance(model, SamDetrForObjectDetection):
                raise ValueError(f"Only SAM-DETRs can be explained, not a {type(model).__name__}.")
        if "alignment" in kinds and detector.model.config.query_resampling == "none":
            raise ValueError("explain='alignment' is not possible: this model has no aligner.")

    def figures(self, image: Image.Image, detections: dict[str, Tensor]) -> Iterator[tuple[str, Image.Image]]:
        """Names, such as `overview` or `heads-2`, and pictures of the figures; none where nothing is detected.

        Args:
            image: upright RGB.
            detections: of it, as `Detector.detect` returns them.
        """
        if not len(detections["scores"]):
            return
        draw = self.draw
        observation = draw.observe(self.detector.model, self.detector.processor, image)
        found = draw.find_best(observation, detections, self.count)
        if "overview" in self.kinds:
            yield "overview", draw.figure_to_picture(draw.explanation_figure(observation, found))
        if "heads" in self.kinds:
            yield from self._heads(observation, found)
        if "boxes" in self.kinds:
            yield "boxes", draw.figure_to_picture(draw.box_path_figure(observation, found))
        if "alignment" in self.kinds:
            yield "alignment", draw.figure_to_picture(draw.alignment_figure(observation, found))

    def _heads(self, observation, found) -> Iterator[tuple[str, Image.Image]]:
        """The paper's Fig. 5, one for each detection."""
        draw, observations, names = self.draw, [observation], [self.detector.short_name]
        if self.other is not None:
            observations.append(draw.observe(self.other.model, self.other.processor, observation.image))
            names.append(self.other.short_name)
        for number, one in enumerate(found, start=1):
            queries, titles = draw.same_object(observations, names, one)
            yield f"heads-{number}", draw.figure_to_picture(draw.attention_figure(observations, queries, titles))
