"""Several processes compute what one does: gradients, weights, order, evaluation; a lost one stops the others."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from transformers_samdetr import denoising

from .models import SMALL_BACKBONE, targets, tiny_model
from .processes import run

VARIANTS = {
    "single scale": {"num_denoising_groups": 2},
    "last layer loss": {"num_denoising_groups": 2, "auxiliary_loss": False},
    "multi-scale": {
        "num_denoising_groups": 2,
        "smca": True,
        "num_feature_levels": 3,
        "backbone_config": {**SMALL_BACKBONE, "out_indices": [2, 3, 4]},
    },
}
OBJECTS = {"different numbers": ((4, 1), (2, 0)), "none on one": ((3, 2), (0, 0))}
"""Objects in each picture of each of two processes."""


def noise_by_content(labels, boxes, config):
    """In place of random noise, which a batch of another shape would draw differently: a function of each object."""
    share = (boxes.sum(-1, keepdim=True) * 1000).frac()
    return (labels + 1) % config.num_labels, (boxes * (0.8 + 0.4 * share)).clamp(0, 1)


def train(variants, dtype, steps):
    """For each variant and number of objects: gradients of the first step, weights after the last."""
    denoising.add_noise = noise_by_content
    accelerator = Accelerator(cpu=True)
    results = {}
    for variant in variants:
        for name, objects in OBJECTS.items():
            model = tiny_model(**{"backbone_config": SMALL_BACKBONE, **VARIANTS[variant]}).train().to(dtype)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
            results[variant, name] = train_one(accelerator, model, optimizer, objects, dtype, steps)
    return results


def train_one(accelerator, model, optimizer, objects, dtype, steps):
    # DistributedDataParallel raises in the second step if a parameter was not used in the first
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    counts = [count for pictures in zip(*objects, strict=True) for count in pictures]
    pictures = torch.randn(len(counts), 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = targets(*counts)
    for step in range(steps):
        accelerator.backward(wrapped(pixel_values=pictures[mine], labels=labels[mine]).loss)
        if step == 0:
            gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        optimizer.zero_grad()
    return gradients, {name: value.numpy() for name, value in model.state_dict().items()}


def relative_difference(ours, theirs):
    """Norm of the difference of all tensors, over the norm of `theirs`."""
    assert ours.keys() == theirs.keys()
    difference = sum(np.square(ours[name] - value, dtype=np.float64).sum() for name, value in theirs.items())
    return float(np.sqrt(difference / sum(np.square(value, dtype=np.float64).sum() for value in theirs.values())))


def compare_two_processes_with_one(variants, dtype, steps):
    (alone,) = run(train, variants, dtype, steps)
    for together in run(train, variants, dtype, steps, count=2, seconds=120):
        for case, (gradients, weights) in alone.items():
            others, other_weights = together[case]
            gap = relative_difference(others, gradients)
            moved = max(np.abs(other_weights[name] - value).max() for name, value in weights.items())
            print(f"{case}, {dtype}: gradients {gap:.1e} relative, weights {moved:.1e} after {steps} steps")
            yield gap, moved


def test_two_processes_and_one_in_double_precision():
    for gap, moved in compare_two_processes_with_one(["multi-scale"], torch.float64, 20):
        assert gap <= 1e-12 and moved <= 1e-8


def test_two_processes_and_one_in_single_precision():
    for gap, _ in compare_two_processes_with_one(["single scale"], torch.float32, 2):
        assert gap <= 1e-5


@pytest.mark.slow
def test_every_variant_on_two_processes_and_one():
    for gap, moved in compare_two_processes_with_one(list(VARIANTS), torch.float64, 20):
        assert gap <= 1e-12 and moved <= 1e-8
    for gap, _ in compare_two_processes_with_one(list(VARIANTS), torch.float32, 2):
        assert gap <= 1e-5
