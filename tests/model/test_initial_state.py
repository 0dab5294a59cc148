"""What a fresh model computes before its first step, derived by hand: it depends on no trained number.

The classification loss. With the weights of a class head at 0, all its logits are its bias, log(p / (1 - p)) with the
prior p = 0.01, so that every class of every query has the probability p. The focal loss, alpha = 0.25 and gamma = 2,
is then one of two numbers:

    for a class that is there         there  = -alpha (1 - p)^gamma log(p)      = 1.1284
    for one that is not               absent = -(1 - alpha) p^gamma log(1 - p)  = 7.5e-7

The matching gives every one of N objects one query, and that query one class that is there; the other B·Q·K - N logits
of B images, Q queries and K classes have one that is not. Which query it is makes no difference. The sum is divided by
the number of objects, at least 1:

    loss_ce = (N · there + (B·Q·K - N) · absent) / max(N, 1), the same at every layer.

Each of P groups of denoising queries has one query an object, supervised by it, and divides by P·N. Slots that pad an
image with fewer objects count as nothing:

    dn_loss_ce = there + (K - 1) · absent.

The weights. They are Xavier-uniform, within ±√(6 / (inputs + outputs)). The authors' query, key and value of the
encoder, and of the decoder without aligner, are one matrix of C inputs and 3·C outputs, so ours have to stay within
±√(6 / 4C) though each has C outputs.

The boxes. The last layer of each box head is 0, so no layer changes its boxes: all of them are σ(u) with u, the learned
reference boxes, or the noised boxes of denoising queries. Without aligner there are no reference boxes, and σ(0) = ½.
"""

import functools
import math

import pytest
import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection
from transformers_samdetr.loss import make_denoising_queries, prepare_targets

from ..models import TINY, VARIANTS, targets

ALPHA, GAMMA, PRIOR = 0.25, 2, 0.01
THERE = -ALPHA * (1 - PRIOR) ** GAMMA * math.log(PRIOR)
ABSENT = -(1 - ALPHA) * PRIOR**GAMMA * math.log(1 - PRIOR)
COUNTS = (3, 0, 5)
"""Objects of each image of the batch."""


@functools.cache
def fresh_model(variant: str) -> SamDetrForObjectDetection:
    """As it is made, with a small backbone, in training mode."""
    fields = {**TINY, **VARIANTS[variant]}
    fields["backbone_config"] = {**fields["backbone_config"], "backbone": "test_resnet"}
    torch.manual_seed(0)
    return SamDetrForObjectDetection(SamDetrConfig(**fields)).train()


def padded_batch() -> dict[str, torch.Tensor]:
    """Pictures of three sizes, padded at the right and at the bottom."""
    mask = torch.zeros(len(COUNTS), 64, 96, dtype=torch.int64)
    for row, (height, width) in zip(mask, ((64, 96), (64, 60), (40, 96)), strict=True):
        row[:height, :width] = 1
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(len(COUNTS), 3, 64, 96) * mask[:, None], "pixel_mask": mask}


def first_loss(variant: str, *counts: int) -> tuple[SamDetrConfig, torch.Tensor, dict[str, torch.Tensor]]:
    """Configuration, loss and its terms of a batch with so many objects an image, class weights being 0."""
    model = fresh_model(variant)
    with torch.no_grad():
        for head in model.class_heads:
            head.weight.zero_()
        outputs = model(**padded_batch(), labels=targets(*counts))
    return model.config, outputs.loss, outputs.loss_dict


def layer_names(config: SamDetrConfig, name: str) -> list[str]:
    """What the loss calls this term of each layer that counts, the last one first."""
    earlier = range(config.decoder_layers - 1) if config.auxiliary_loss else ()
    return [name, *(f"{name}_{layer}" for layer in earlier)]


def test_the_two_numbers():
    assert pytest.approx(1.12838, abs=1e-5) == THERE
    assert pytest.approx(7.5377e-7, rel=1e-4) == ABSENT


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_classification_loss_is_what_the_formula_gives(variant):
    config, loss, terms = first_loss(variant, *COUNTS)
    objects, logits = sum(COUNTS), len(COUNTS) * TINY["num_queries"] * TINY["num_labels"]
    expected = (objects * THERE + (logits - objects) * ABSENT) / objects
    for name in layer_names(config, "loss_ce"):
        assert terms[name].item() == pytest.approx(expected, rel=1e-5), name
    denoised = THERE + (TINY["num_labels"] - 1) * ABSENT
    names = layer_names(config, "dn_loss_ce") if config.num_denoising_groups else []
    assert sorted(names) == sorted(name for name in terms if name.startswith("dn_loss_ce"))
    for name in names:
        assert terms[name].item() == pytest.approx(denoised, rel=1e-5), name

    # in the whole loss: 2 for each layer and for each layer's denoising, beside 5 for L1 and 2 for GIoU
    weight = {"ce": 0, "bbox": 5, "giou": 2}
    boxes = sum(weight[name.split("loss_")[1].split("_")[0]] * term.item() for name, term in terms.items())
    layers = len(layer_names(config, "loss_ce"))
    assert loss.item() - boxes == pytest.approx(2 * (layers * expected + len(names) * denoised), rel=1e-4)


@pytest.mark.parametrize("variant", ["single", "multi-scale smca dn"])
def test_the_first_classification_loss_without_objects(variant):
    config, loss, terms = first_loss(variant, 0, 0, 0)
    expected = len(COUNTS) * TINY["num_queries"] * TINY["num_labels"] * ABSENT  # divided by 1
    assert [terms[name].item() for name in layer_names(config, "loss_ce")] == [pytest.approx(expected, rel=1e-5)] * 3
    assert loss.item() == pytest.approx(2 * 3 * expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_boxes_are_the_reference_boxes(variant):
    model = fresh_model(variant)
    config, batch = model.config, padded_batch()
    assert all(head.layers[-1].weight.eq(0).all() for head in model.model.decoder.box_heads)
    outputs = model.model(**batch)
    found = outputs.intermediate_boxes  # (B, layers, Q, 4)
    if config.query_resampling == "none":
        assert outputs.reference_boxes is None and (found == 0.5).all()
        return
    expected = model.model.query_reference_boxes.sigmoid().expand_as(found)
    assert expected.std() > 0.1, "boxes that are all alike would hide an exchange of queries"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.reference_boxes, expected, atol=1e-6, rtol=0)

    if config.num_denoising_groups:
        objects = prepare_targets(targets(*COUNTS), len(COUNTS), config.num_labels, torch.device("cpu"))
        noised = make_denoising_queries(objects, config)
        both = torch.cat([noised.box_logits.sigmoid()[:, None].expand(-1, config.decoder_layers, -1, -1), expected], 2)
        found = model.model(**batch, denoising_queries=noised).intermediate_boxes
        torch.testing.assert_close(found, both, atol=1e-5, rtol=0)  # slots of padding are points: logits end at 1e-5


@pytest.mark.parametrize("attention", ["model.encoder.layers.0.self_attn", "model.decoder.layers.0.cross_attn"])
def test_packed_projections_start_as_one_matrix(attention):
    projections = fresh_model("none").get_submodule(attention)
    width = projections.o_proj.in_features
    for name, outputs in {"q_proj": 3, "k_proj": 3, "v_proj": 3, "o_proj": 1}.items():
        weight = projections.get_submodule(name).weight
        bound = math.sqrt(6 / (width + outputs * width))
        assert 0.9 * bound < weight.abs().max() <= bound, name
