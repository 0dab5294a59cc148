"""Pictures of a training batch as they were before the image processor: tensors back to pixels."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor


def batch_pictures(batch: Mapping[str, Tensor], processor: BaseImageProcessor) -> list[Image.Image]:
    """The pictures of a batch, resized and augmented as the model sees them, without padding.

    Args:
        batch: `pixel_values` `(B, 3, H, W)` and, where there is padding, `pixel_mask` `(B, H, W)`.
        processor: that made it, for its mean and standard deviation.
    """
    pixels = batch["pixel_values"].detach().float().cpu()
    if processor.do_normalize:
        mean, deviation = (
            torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
        )
        pixels = pixels * deviation + mean
    scale = 255 if processor.do_rescale else 1
    pixels = (pixels * scale).round().clamp(0, 255).byte()
    masks = batch.get("pixel_mask")
    pictures = []
    for index, picture in enumerate(pixels):
        if masks is not None:
            height, width = int(masks[index, :, 0].sum()), int(masks[index, 0].sum())
            picture = picture[:, :height, :width]
        pictures.append(Image.fromarray(picture.permute(1, 2, 0).numpy()))
    return pictures
