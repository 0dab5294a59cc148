"""What training makes of some pictures of a set: matches of queries and objects, and denoising queries."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..data.dataset import DetectionCollator, DetectionDataset
from ..modeling_sam_detr import SamDetrForObjectDetection
from .detector import Detector

MATCHES_FILE, DENOISING_FILE = "matches.png", "denoising.png"
MOST_DENOISED = 4
"""Pictures in the figure of the denoising queries, a row each."""


@torch.inference_mode()
def draw_training(examples: Sequence[dict], detector: Detector, output_dir: Path, count: int = 8) -> list[Path]:
    """Writes `matches.png` and, of a model with denoising queries, `denoising.png`.

    See `draw_matches` and `denoising_figure`.

    Args:
        examples: a set in the schema of `transformers_samdetr.data.schema`, with labels as the model's; its first
            pictures make the batch.
        detector: of a SAM-DETR.
        output_dir: an existing folder.
        count: of pictures, as many as there are at most.

    Returns:
        Paths of what was written.

    Raises:
        ValueError: the model is no SAM-DETR, or has other classes than the set; the message names the picture.
        ImportError: matplotlib is not installed.
    """
    from ..visualization import explain  # here, for it needs matplotlib, which others can do without

    model = detector.model
    if not isinstance(model, SamDetrForObjectDetection):
        raise ValueError(f"Only what a SAM-DETR learns can be drawn, not a {type(model).__name__}.")
    dataset = DetectionDataset(examples)
    batch = DetectionCollator(detector.processor)([dataset[index] for index in range(min(count, len(dataset)))])
    images = explain.batch_pictures(batch, detector.processor)
    inputs = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
    written = [output_dir / MATCHES_FILE]
    explain.draw_matches(images, model(**inputs), batch["labels"], model.config).save(written[0])
    if model.config.num_denoising_groups:
        few = {name: values[:MOST_DENOISED] for name, values in (inputs | {"labels": batch["labels"]}).items()}
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same noise each time
            figure = explain.denoising_figure(images[:MOST_DENOISED], explain.denoise(model, few))
        written.append(output_dir / DENOISING_FILE)
        explain.figure_to_picture(figure).save(written[1])
    return written
