"""Figures of training: which query is matched with which object, and what denoising queries make of noise."""

import numpy as np
import pytest
import torch

from experiments.training_figures import (
    batch_pictures,
    denoise,
    denoising_figure,
    draw_matches,
)

from ..models import targets
from ..prediction.test_explain import PROCESSOR, assert_texts_apart, picture, small_model


def batch_of(*sizes):
    images = [picture(*size, seed=index) for index, size in enumerate(sizes)]
    batch = dict(PROCESSOR(images, return_tensors="pt"))
    batch["labels"] = targets(*range(len(sizes)))  # none in the first
    return images, batch


def test_pictures_of_a_batch():
    images = [picture(96, 64), picture(96, 64, seed=1)]
    pictures = batch_pictures(dict(PROCESSOR(images, return_tensors="pt")), PROCESSOR)
    for image, back in zip(images, pictures, strict=True):
        assert back.size == (96, 64)
        assert np.abs(np.asarray(back).astype(int) - np.asarray(image)).max() <= 1


@pytest.mark.parametrize("fields", [{}, {"query_resampling": "none"}, {"auxiliary_loss": False}])
def test_matches_of_a_batch(fields):
    model = small_model(**fields)
    _, batch = batch_of((96, 64), (64, 96), (90, 60))
    with torch.no_grad():
        outputs = model(**batch)
    drawn = draw_matches(batch_pictures(batch, PROCESSOR), outputs, batch["labels"], model.config, columns=3)
    assert drawn.mode == "RGB" and drawn.width > 3 * 400
    pixels = np.asarray(drawn)
    assert (pixels == (0, 114, 178)).all(-1).sum() > 500 and (pixels == (230, 159, 0)).all(-1).sum() > 500
    with pytest.raises(ValueError, match="3 labels for 2 images|2 images"):
        draw_matches(batch_pictures(batch, PROCESSOR)[:2], outputs, batch["labels"], model.config)


def test_denoising_queries_of_a_batch():
    model = small_model(num_denoising_groups=3)
    _, batch = batch_of((96, 64), (64, 96), (90, 60))
    denoised = denoise(model, batch)
    assert denoised.boxes.shape == (3, 6, 4) and denoised.labels.shape == (3, 6)
    figure = denoising_figure(batch_pictures(batch, PROCESSOR), denoised)
    assert len(figure.axes) == 4 and "IoU" in figure.axes[0].get_title(loc="left")
    assert_texts_apart(figure)
    batch["labels"] = targets(0, 0, 0)
    with pytest.raises(ValueError, match="No picture of the batch has an object"):
        denoising_figure(batch_pictures(batch, PROCESSOR), denoise(model, batch))
    with pytest.raises(ValueError, match="num_denoising_groups=0"):
        denoise(small_model(), batch)
