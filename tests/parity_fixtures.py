"""Small cases of every variant, and their numbers as our model computed them when it agreed with the authors' code.

    python -m tests.parity_fixtures

makes the files of `tests/fixtures/parity` anew, and does so only where the authors' numbers are at hand and are met
(`model/test_parity.py`). `model/test_parity_fixtures.py` compares, on any machine.

Weights follow from a tensor's name and shape alone, images and objects from a seed; so a file holds results only.
"""

import re
import sys
import zlib
from argparse import Namespace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.conversion import config_from_checkpoint, convert_state_dict

from .original_shapes import VARIANTS, variant_args, variant_shapes
from .parity import PARITY, gradient_norms, layers_of, original_gradient_norms

FOLDER = Path(__file__).parent / "fixtures" / "parity"
TARGET_SIZES = [[480, 640], [333, 500]]
NUM_DETECTIONS = 20
SMALL = {"d": 64, "queries": 12, "classes": 7, "layers": 3, "decoder_ffn": 64}
"""Of the authors' models all that can be small; their backbone is a ResNet-50."""

TINY = {
    "backbone_config": {"model_type": "timm_backbone", "backbone": "test_resnet.r160_in1k", "out_indices": [4]},
    "d_model": 64,
    "num_queries": 12,
    "num_labels": 7,
    "encoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 3,
    "decoder_ffn_dim": 64,
}
MULTI_SCALE = {
    "num_feature_levels": 3,
    "backbone_config": {**TINY["backbone_config"], "out_indices": [2, 3, 4]},
}
CONFIGURED: dict[str, dict] = {
    "average": {"query_resampling": "average"},
    "max": {"query_resampling": "max"},
    "none": {"query_resampling": "none"},
    "average_ms": {**MULTI_SCALE, "query_resampling": "average"},
    "none_ms": {**MULTI_SCALE, "query_resampling": "none"},
    "keypoints_4": {"num_keypoints": 4},
    "keypoints_2_smca": {"num_keypoints": 2, "smca": True},
    "keypoints_1_smca_ms": {**MULTI_SCALE, "num_keypoints": 1, "smca": True},
    "image_range": {"keypoint_search_range": "image"},
    "image_range_smca_ms": {**MULTI_SCALE, "keypoint_search_range": "image", "smca": True, "num_keypoints": 4},
    "no_reweighting": {"feature_reweighting": False},
    "fixed_references": {"reference_boxes": "fixed"},
    "last_layer_loss": {"auxiliary_loss": False},
    "roi_5": {"roi_size": 5},
    "dn": {"num_denoising_groups": 3},
    "dn_smca_ms": {**MULTI_SCALE, "smca": True, "num_denoising_groups": 2},
    "dn_last_layer_loss": {"auxiliary_loss": False, "num_denoising_groups": 2},
}
"""What the authors never released: fields beside `TINY`."""

CASES = {
    # an odd size each, the second one padded; with objects in one image, in both, and in none
    **{f"{variant}.some": (3, 0) for variant in VARIANTS},
    "r50_e50.both": (2, 4),
    "r50_ms_smca_e12.none": (0, 0),
    **{f"{name}.both": (3, 2) for name in CONFIGURED},
    "none.none": (0, 0),
    "dn_smca_ms.some": (0, 3),
    "dn.none": (0, 0),
}
"""Objects of each image by the name of the case."""


def rule_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor that is a function of its name and shape: normal numbers that keep activations of order 1."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    normal = rng.standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_var"):
        numbers = np.exp(normal / 10)
    elif re.search(r"query_(embed|reference_boxes|positions)|level_embed", name):
        numbers = normal
    elif len(shape) > 1:
        # keypoints and attention that tell places apart, so that a mistake in either shows
        gain = 4 if re.search(r"point2\.6|keypoint_head.*3", name) else 1
        gain = 3 if re.search(r"\.ca_[qk]|cross_attn\.[qk]_", name) else gain
        numbers = gain * normal / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    elif name.endswith("weight"):  # of norms; the last one of a residual block stays small
        numbers = (1 + normal / 10) * (0.2 if "bn3" in name else 1)
    elif "class_" in name:
        numbers = normal - 2
    else:
        numbers = normal * (2 if "sampling_offsets" in name else 0.1)
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32))


def case_inputs(name: str) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """Pixels, mask and labels of a case, from its name."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    sizes = ((70, 96), (95, 63))
    pixels, mask = torch.zeros(2, 3, 95, 96), torch.zeros(2, 95, 96, dtype=torch.int64)
    labels = []
    for index, ((height, width), count) in enumerate(zip(sizes, CASES[name], strict=True)):
        pixels[index, :, :height, :width] = torch.from_numpy(rng.standard_normal((3, height, width)).astype(np.float32))
        mask[index, :height, :width] = 1
        boxes = np.hstack([rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.1, 0.5, (count, 2))])
        labels.append(
            {
                "class_labels": torch.from_numpy(rng.integers(0, SMALL["classes"], count)),
                "boxes": torch.from_numpy(boxes).float(),
            }
        )
    return pixels, mask, labels


def build(name: str) -> tuple[SamDetrForObjectDetection, dict | None]:
    """The model of a case; of the authors' models through the converter, with the shapes of their state dict."""
    variant = name.split(".")[0]
    if variant in CONFIGURED:
        torch.manual_seed(0)
        model = SamDetrForObjectDetection(SamDetrConfig(**{**TINY, **CONFIGURED[variant]}))
        model.load_state_dict({key: rule_tensor(key, t.shape) for key, t in model.state_dict().items()})
        return model, None
    shapes = variant_shapes(variant, **SMALL, encoder_ffn=64)
    original = {key: rule_tensor(key, shape) for key, shape in shapes.items()}
    # whatever the checkpoint was trained with, no dropout here
    args = Namespace(**{**vars(variant_args(variant)), "dropout": 0.0})
    config = config_from_checkpoint(original, args)
    model = SamDetrForObjectDetection(config)
    model.load_state_dict(convert_state_dict(original, config))
    return model, shapes


def fixed_noise(labels: torch.Tensor, boxes: torch.Tensor, config: SamDetrConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of `denoising.add_noise`: noise of its amounts that does not depend on PyTorch's generator."""
    rng = np.random.Generator(np.random.PCG64(boxes.numel()))
    flipped = torch.from_numpy(rng.random(labels.shape) < config.denoising_label_noise)
    others = torch.from_numpy(rng.integers(0, config.num_labels, labels.shape))
    noise = torch.from_numpy(rng.uniform(-1, 1, boxes.shape).astype(np.float32)) * config.denoising_box_noise
    size = boxes[..., 2:].repeat(*[1] * (boxes.ndim - 1), 2)
    flipped, others, noise = (tensor.to(boxes.device) for tensor in (flipped, others, noise))
    shares = torch.tensor([0.5, 0.5, 1, 1], device=boxes.device)
    return torch.where(flipped, others, labels), (boxes + noise * size * shares).clamp(0, 1)


def run(name: str, device: str = "cpu"):
    """The model after its backward pass, its outputs, and its gradients' norms by name.

    In double precision: rounded otherwise, as on another processor, a ReLU may fall on the other side of 0, which moves
    single gradients by one percent.
    """
    model, shapes = build(name)
    model.double().to(device)
    model.train(bool(model.config.num_denoising_groups))  # nothing else depends on the mode
    pixels, mask, labels = case_inputs(name)
    with mock.patch("transformers_samdetr.loss.add_noise", fixed_noise):
        outputs = model(pixels.double().to(device), mask.to(device), labels=labels)
    outputs.loss.backward()
    return model, outputs, gradient_norms(model) if shapes is None else original_gradient_norms(model, shapes)


def numbers_of(name: str) -> dict[str, np.ndarray]:
    """What a file holds."""
    model, outputs, norms = run(name)
    boxes, logits = layers_of(outputs)
    results = SamDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=TARGET_SIZES, top_k=NUM_DETECTIONS
    )
    detections = {key: torch.stack([result[key].detach() for result in results]) for key in results[0]}
    terms = {key: value.item() for key, value in outputs.loss_dict.items()}
    return {
        "boxes": boxes.astype(np.float32),
        "logits": logits.astype(np.float32),
        "loss": np.float64(outputs.loss.item()),
        "term_names": np.array(list(terms)),
        "terms": np.array(list(terms.values())),
        "gradient_names": np.array(list(norms)),
        "gradient_norms": np.array(list(norms.values()), dtype=np.float32),
        "num_trainable": np.int64(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        **{f"detected_{key}": x.numpy() if key == "labels" else x.float().numpy() for key, x in detections.items()},
    }


def read(name: str) -> dict:
    """A file's numbers as `parity.deviation` takes them, and the rest."""
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    for key, names in (("terms", "term_names"), ("gradient_norms", "gradient_names")):
        arrays[key] = dict(zip(arrays[names].tolist(), arrays[key].tolist(), strict=True))
    return arrays | {"loss": arrays["loss"].item()}


def main() -> int:
    if not PARITY.is_dir() or pytest.main(["-q", str(Path(__file__).parent / "model" / "test_parity.py")]) != 0:
        print(f"The authors' numbers, {PARITY}, are not at hand or not met: nothing was written.", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.npz"):
        old.unlink()
    for name in CASES:
        np.savez_compressed(FOLDER / f"{name}.npz", **numbers_of(name))
    size = sum(file.stat().st_size for file in FOLDER.glob("*.npz"))
    print(f"{len(CASES)} cases, {size / 1000:.0f} kB: {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
