"""What a worker repeats: each function prepares a `Work` once and returns the call to be timed."""

import copy
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.loss import prepare_targets, sam_detr_loss

from .work import PEERS, Work

NUM_LABELS = 91


def model_class(work: Work) -> type[nn.Module]:
    if work.is_ours:
        return SamDetrForObjectDetection
    return getattr(transformers, f"{PEERS[work.model]}ForObjectDetection")


def model_config(work: Work) -> transformers.PreTrainedConfig:
    """Without pretrained weights. All but the number of classes and the layers' losses is the class's default."""
    overrides = dict(work.overrides)
    if work.is_ours:
        return SamDetrConfig.from_preset(work.model, **overrides)
    config_class = getattr(transformers, f"{PEERS[work.model]}Config")
    return config_class(num_labels=NUM_LABELS, auxiliary_loss=True, **overrides)


def build_model(work: Work) -> nn.Module:
    """The model with the same random weights each time."""
    # what a GPU's process measures one after the other is built once, and copied: what a model keeps is its own
    model = _random_model(work) if work.device == "cpu" else copy.deepcopy(_kept_model(work.model, work.overrides))
    return model.to(work.device).train(work.task in ("training", "step"))


def _random_model(work: Work) -> nn.Module:
    torch.manual_seed(0)
    return model_class(work)(model_config(work))


@functools.cache
def _kept_model(model: str, overrides: tuple) -> nn.Module:
    return _random_model(Work(model, overrides=overrides))


JPEG_SIZES = ((480, 640), (427, 640), (500, 375), (640, 480))
"""The most frequent heights and widths of COCO's images."""
QUERIES, LAYERS = 300, 6

Call = Callable[[], Any]


def prepare(work: Work) -> Call:
    """Returns the function that does the work once."""
    torch.set_num_threads(work.threads)
    tasks = {
        "inference": inference,
        "training": training,
        "step": step,
        "pictures": pictures,
        "loss": loss,
        "processor": processor,
        "load": load,
    }
    return tasks[work.task](work)


def make_pixels(work: Work) -> Tensor:
    """`(B, 3, H, W)` random pixels, the same for every model."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(work.batch_size, 3, *work.pixel_size, generator=generator).to(work.device)


def make_labels(work: Work) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "class_labels": torch.randint(NUM_LABELS, (work.objects,), generator=generator).to(work.device),
            "boxes": (torch.rand(work.objects, 4, generator=generator) * 0.4 + 0.2).to(work.device),
        }
        for _ in range(work.batch_size)
    ]


def _autocast(work: Work) -> torch.autocast:
    return torch.autocast(work.device, dtype=torch.bfloat16, enabled=work.dtype == "bfloat16")


def _compiled(model: nn.Module, work: Work) -> Callable:
    # of one size: the second size would be compiled for all sizes otherwise, which is slower code
    return torch.compile(model, dynamic=False) if work.compiled else model


def inference(work: Work) -> Call:
    model, pixels = build_model(work), make_pixels(work)
    run = _compiled(model, work)

    @torch.no_grad()
    def call() -> None:
        with _autocast(work):
            run(pixel_values=pixels)

    return call


def training(work: Work) -> Call:
    """Forward, loss and backward, without the optimizer step, which is the same for all."""
    model, pixels, labels = build_model(work), make_pixels(work), make_labels(work)
    run = _compiled(model, work)

    def call() -> None:
        with _autocast(work):
            value = run(pixel_values=pixels, labels=labels).loss
        value.backward()
        model.zero_grad(set_to_none=True)

    return call


def step(work: Work) -> Call:
    """Labels from the host, forward, loss, backward and AdamW, whose rate of 0 leaves the work the same."""
    model, pixels = build_model(work), make_pixels(work)
    labels = make_labels(replace(work, device="cpu"))
    run = _compiled(model, work)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)

    def call() -> None:
        # ours checks them on the host
        moved = labels if work.is_ours else [{name: x.to(work.device) for name, x in row.items()} for row in labels]
        with _autocast(work):
            value = run(pixel_values=pixels, labels=moved).loss
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def pictures(work: Work) -> Call:
    """JPEG files to boxes on the host; resized and normalised where the model runs."""
    model, folder = build_model(work), tempfile.TemporaryDirectory()
    run = _compiled(model, work)
    paths, process = make_jpegs(Path(folder.name), work.batch_size), _processor(work)
    sizes = [JPEG_SIZES[index % len(JPEG_SIZES)] for index in range(work.batch_size)]

    @torch.no_grad()
    def call(folder=folder) -> None:  # the folder lives as long as the call
        inputs = process(images=paths, return_tensors="pt", device=work.device).to(work.device)
        with _autocast(work):
            outputs = run(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
        found = process.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        [values.cpu() for result in found for values in result.values()]

    return call


def loss(work: Work) -> Call:
    """Our loss, or Transformers' for Deformable DETR, each in the memory layout of its model's predictions."""
    if not work.is_ours and work.model != "deformable-detr-r50":
        raise ValueError(f"The loss of {work.model} is not compared; deformable-detr-r50 is.")
    config, labels, generator = model_config(work), make_labels(work), torch.Generator().manual_seed(3)
    logits = torch.randn(LAYERS, work.batch_size, QUERIES, NUM_LABELS, generator=generator).to(work.device) - 4
    boxes = torch.rand(LAYERS, work.batch_size, QUERIES, 4, generator=generator).to(work.device) * 0.5 + 0.2
    if work.is_ours:  # images first
        logits, boxes = logits.transpose(0, 1).contiguous(), boxes.transpose(0, 1).contiguous()
    logits.requires_grad_()
    boxes.requires_grad_()

    def ours() -> Tensor:
        targets = prepare_targets(labels, work.batch_size, NUM_LABELS, logits.device)
        return sam_detr_loss(logits, boxes, targets, config)[0]

    def theirs() -> Tensor:
        return DeformableDetrForObjectDetectionLoss(
            logits[-1], labels, logits.device, boxes[-1], config, outputs_class=logits, outputs_coord=boxes
        )[0]

    compute = ours if work.is_ours else theirs
    return lambda: torch.autograd.grad(compute(), [logits, boxes])


def make_jpegs(folder: Path, count: int) -> list[str]:
    """JPEG files of smooth noise, with sizes and bytes like those of photographs."""
    random, paths = np.random.default_rng(0), []
    for index in range(count):
        height, width = JPEG_SIZES[index % len(JPEG_SIZES)]
        coarse = Image.fromarray(random.integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8))
        paths.append(str(folder / f"{index}.jpg"))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _processor(work: Work) -> Any:
    return (SamDetrImageProcessor if work.is_ours else getattr(transformers, f"{PEERS[work.model]}ImageProcessor"))()


def processor(work: Work) -> Call:
    folder = tempfile.TemporaryDirectory()
    paths, process = make_jpegs(Path(folder.name), work.batch_size), _processor(work)

    def call(folder=folder) -> None:  # the folder lives as long as the call
        process(images=paths, return_tensors="pt")

    return call


def load(work: Work) -> Call:
    """Import and `from_pretrained` in a new process, which returns its own seconds without the interpreter's start."""
    folder = tempfile.TemporaryDirectory()
    build_model(work).save_pretrained(folder.name)
    cls = model_class(work)
    package = "transformers_samdetr" if work.is_ours else "transformers"
    code = (
        "import time; start = time.perf_counter()\n"
        f"from {package} import {cls.__name__}\n"
        f"{cls.__name__}.from_pretrained({folder.name!r})\n"
        "print(time.perf_counter() - start)\n"
    )

    def call(folder=folder) -> float:
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        return float(output.split()[-1])

    return call
