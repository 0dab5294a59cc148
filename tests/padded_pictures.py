"""A batch of pictures of different sizes with their objects, and a small model of any variant for it."""

import torch

from .models import SMALL_BACKBONE, targets, tiny_model

COUNTS = (3, 0, 2)


def small_model(**fields):
    levels = {"out_indices": [2, 3, 4]} if fields.get("num_feature_levels") == 3 else {}
    return tiny_model(**{**fields, "backbone_config": {**SMALL_BACKBONE, **levels}})


def padded_batch():
    torch.manual_seed(2)
    mask = torch.ones(len(COUNTS), 128, 160, dtype=torch.int64)
    mask[0, 96:] = 0
    mask[2, :, 128:] = 0
    pixels = torch.randn(len(COUNTS), 3, 128, 160) * mask[:, None]
    return {"pixel_values": pixels, "pixel_mask": mask, "labels": targets(*COUNTS)}
