"""What training, loading and the image processor cost, counted in operations, bytes and calls; never timed."""

import subprocess
import sys

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.loss import prepare_targets, sam_detr_loss

from ..models import TINY, targets, tiny_model


class Count(TorchDispatchMode):
    """Operations that run inside, those whose output has at least `large` elements, and the bytes they allocate."""

    def __init__(self, large: int = 0):
        super().__init__()
        self.large, self.names, self.large_names, self.allocated = large, [], [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        name = str(function)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        made = [x for x in made if x.untyped_storage()._cdata not in known]
        in_place = name.split(".")[1].endswith("_")
        if made or in_place:  # a view is no work
            self.names.append(name)
            if any(x.numel() >= self.large for x in made or tree_leaves(result)):
                self.large_names.append(name)
        self.allocated += sum(x.untyped_storage().nbytes() for x in made)
        return result


def loss_operations(layers: int, images: int, objects: int) -> Count:
    labels = targets(*[objects] * images, num_labels=91)
    config = SamDetrConfig(**{**TINY, "num_labels": 91, "num_queries": 60, "decoder_layers": layers})
    logits = torch.randn(images, layers, 60, 91, requires_grad=True)
    boxes = torch.rand(images, layers, 60, 4, requires_grad=True)
    prepared = prepare_targets(labels, images, 91, torch.device("cpu"))
    with Count(large=logits.numel()) as count:
        loss, _ = sam_detr_loss(logits, boxes, prepared, config)
        loss.backward()
    return count


def test_the_loss_passes_over_all_logits_seventeen_times():
    """Forward and backward. With one-hot targets, and costs for classes that no object has, it was 47 times."""
    count = loss_operations(layers=3, images=2, objects=4)
    assert len(count.large_names) <= 17, count.large_names


def test_the_loss_takes_as_many_operations_for_one_layer_and_image_as_for_many():
    few, many = loss_operations(1, 1, 2), loss_operations(6, 4, 9)
    assert len(many.names) == len(few.names) <= 320, (len(few.names), len(many.names))


def test_the_image_processor_allocates_its_result_and_little_more():
    pictures = [np.random.default_rng(0).integers(256, size=(h, 100, 3), dtype=np.uint8) for h in (80, 90, 120)]
    processor = SamDetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 266})
    with Count() as count:
        batch = processor(pictures, return_tensors="pt")
    result = sum(batch[key].nbytes for key in ("pixel_values", "pixel_mask"))
    resized = batch.pixel_mask.sum().item() * 3  # uint8
    assert count.allocated <= 1.25 * (result + resized), (count.allocated, result, resized)


def test_loading_draws_no_random_weights(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    random = ("normal", "uniform", "rand", "bernoulli")
    with Count() as built:
        SamDetrForObjectDetection(SamDetrConfig(**TINY))
    assert any(part in name for name in built.names for part in random)  # the test sees it where it is
    drawn = []

    class Drawn(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if any(part in str(function) for part in random) and tree_leaves(result)[0].device.type != "meta":
                drawn.append(str(function))
            return result

    with Drawn():
        SamDetrForObjectDetection.from_pretrained(tmp_path)
    assert not drawn, drawn


def test_importing_pulls_in_no_package_that_a_peer_does_without():
    """Data sets, metrics, drawing and training are for those who import them; users of a model wait for none of it."""
    code = (
        "import sys, timm; from transformers import ConditionalDetrForObjectDetection, ConditionalDetrImageProcessor\n"
        "before = set(sys.modules); import transformers_samdetr\n"
        "new = set(sys.modules) - before\n"
        "print(*sorted({name.split('.')[0] for name in new}))\n"
        "print(*sorted(name for name in new if name.count('.') > 1 and name.startswith('transformers_samdetr')))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    packages, sub_modules = lines[-2].split(), lines[-1].split()
    assert set(packages) <= {"transformers_samdetr", "safetensors", "huggingface_hub"}, packages
    assert not sub_modules, sub_modules
