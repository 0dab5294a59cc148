"""A model's detections on some pictures of a set, on one sheet."""

from collections.abc import Sequence
from pathlib import Path

from ..visualization.contact_sheet import contact_sheet
from .detector import Detector
from .threshold import Threshold, choose_threshold

SHORTEST_SIDE = 448
"""Of a drawn picture, in pixels, if it has to be enlarged for that."""


def draw_samples(
    examples: Sequence[dict],
    detector: Detector,
    output_dir: Path,
    threshold: float | None = None,
    count: int = 8,
) -> Threshold:
    """Writes `000.png`, `001.png`, ... and all of them as `overview.png`.

    Args:
        examples: a set in the schema of `transformers_samdetr.data.schema`; its first pictures are drawn.
        detector: a saved model.
        output_dir: made if need be.
        threshold: as in `predict_files`.
        count: of pictures, as many as there are at most.

    Returns:
        The threshold, and why it was chosen.

    Raises:
        ValueError: there are no pictures, `count` is below 1, or the threshold is not between 0 and 1.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1.")
    chosen = choose_threshold(detector.model.config, threshold)
    output_dir.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(min(count, len(examples))):
        image = examples[index]["image"].convert("RGB")
        (found,) = detector.detect([image], chosen.value)
        pictures.append(detector.draw(image, found, SHORTEST_SIDE))
        pictures[-1].save(output_dir / f"{index:03d}.png")
    contact_sheet(pictures).save(output_dir / "overview.png")
    return chosen
