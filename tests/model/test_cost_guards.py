"""What training, loading and the image processor cost, counted in operations, bytes and calls; never timed."""

import subprocess
import sys

import numpy as np
import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.loss import prepare_targets, sam_detr_loss

from ..models import TINY, Operation, Operations, targets, tiny_model


def loss_operations(layers: int, images: int, objects: int, large: int = 0) -> list[Operation]:
    """Those of the loss and its gradients that write tensors of at least `large` times the logits' elements."""
    labels = targets(*[objects] * images, num_labels=91)
    config = SamDetrConfig(**{**TINY, "num_labels": 91, "num_queries": 60, "decoder_layers": layers})
    logits = torch.randn(images, layers, 60, 91, requires_grad=True)
    boxes = torch.rand(images, layers, 60, 4, requires_grad=True)
    prepared = prepare_targets(labels, images, 91, torch.device("cpu"))
    with Operations() as given:
        loss, _ = sam_detr_loss(logits, boxes, prepared, config)
        loss.backward()
    return [call for call in given.calls if call.has_written(large * logits.numel())]


def test_the_loss_passes_over_all_logits_seventeen_times():
    """Forward and backward. With one-hot targets, and costs for classes that no object has, it was 47 times."""
    calls = loss_operations(layers=3, images=2, objects=4, large=1)
    assert len(calls) <= 17, [call.name for call in calls]


def test_the_loss_takes_as_many_operations_for_one_layer_and_image_as_for_many():
    few, many = loss_operations(1, 1, 2), loss_operations(6, 4, 9)
    assert len(many) == len(few) <= 320, (len(few), len(many))


def test_the_image_processor_allocates_its_result_and_little_more():
    pictures = [np.random.default_rng(0).integers(256, size=(h, 100, 3), dtype=np.uint8) for h in (80, 90, 120)]
    processor = SamDetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 266})
    with Operations() as given:
        batch = processor(pictures, return_tensors="pt")
    result = sum(batch[key].nbytes for key in ("pixel_values", "pixel_mask"))
    resized = batch.pixel_mask.sum().item() * 3  # uint8
    allocated = sum(one.stored * one.dtype.itemsize for one in given.made if one.is_new)
    assert allocated <= 1.25 * (result + resized), (allocated, result, resized)


def test_loading_draws_no_random_weights(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    random = ("normal", "uniform", "rand", "bernoulli")
    with Operations() as built:
        SamDetrForObjectDetection(SamDetrConfig(**TINY))
    assert any(part in name for name in built.names for part in random)  # the test sees it where it is
    with Operations() as loaded:
        SamDetrForObjectDetection.from_pretrained(tmp_path)
    calls = [call for call in loaded.calls if any(part in call.name for part in random)]
    drawn = [call.name for call in calls if call.made[0].device != "meta"]
    assert not drawn, drawn


def test_importing_pulls_in_no_package_that_a_peer_does_without():
    """Data sets, metrics, drawing and training are for those who import them; users of a model wait for none of it."""
    code = (
        "import sys, timm; from transformers import ConditionalDetrForObjectDetection, ConditionalDetrImageProcessor\n"
        "before = set(sys.modules); import transformers_samdetr\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith('transformers.pipelines')}\n"
        "print(*sorted({name.split('.')[0] for name in new}))\n"
        "print(*sorted(name for name in new if name.count('.') > 1 and name.startswith('transformers_samdetr')))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    packages, sub_modules = lines[-2].split(), lines[-1].split()
    assert set(packages) <= {"transformers_samdetr", "safetensors", "huggingface_hub"}, packages
    assert not sub_modules, sub_modules
