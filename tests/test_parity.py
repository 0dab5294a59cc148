"""The numbers of the authors' code, through the converter. They lie beside the repository, in `../shared/parity`."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_samdetr import SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.conversion import config_from_checkpoint, convert_state_dict

PARITY = Path(__file__).parents[2] / "shared" / "parity"
CASES = ("r50_e12.pad", "r50_e12.odd", "r50_smca_e12.pad", "r50_dc5_e12.one", "r50_ms_e12.pad", "r50_ms_smca_e12.odd")

pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(), reason=f"the authors' numbers are missing: no folder {PARITY.name}"
)


def inputs(case: dict) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """Pixels, mask and targets, drawn as the folder's README says."""
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    sizes = case["image_sizes_hw"]
    height, width = (max(size[side] for size in sizes) for side in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.int64)
    for index, (h, w) in enumerate(sizes):
        pixels[index, :, :h, :w] = torch.from_numpy(rng.standard_normal((3, h, w)).astype(np.float32))
        mask[index, :h, :w] = 1
    rng = np.random.Generator(np.random.PCG64(case["seed"] + 1))
    labels = []
    for count in case["objects_per_image"]:
        center, size = rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.05, 0.5, (count, 2))
        classes = torch.from_numpy(rng.integers(1, 91, count))
        labels.append({"class_labels": classes, "boxes": torch.from_numpy(np.hstack([center, size])).float()})
    return pixels, mask, labels


@pytest.mark.parametrize("name", CASES)
def test_the_authors_numbers(name):
    case = json.loads((PARITY / f"{name}.json").read_text())
    expected = np.load(PARITY / f"{name}.npz")
    spec = importlib.util.spec_from_file_location("reference_weights", PARITY / "reference_weights.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    original = {key: torch.as_tensor(rule.reference_tensor(key, shape)) for key, shape in case["state_dict"].items()}

    config = config_from_checkpoint(original, Namespace(dilation="dc5" in name), dilation="dc5" in name)
    model = SamDetrForObjectDetection(config).eval()
    converted = convert_state_dict(original, config)
    model.load_state_dict(converted)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case["n_trainable_parameters"]

    pixels, mask, labels = inputs(case)
    outputs = model(pixels, mask, labels=labels)
    layers = [*outputs.auxiliary_outputs, {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    for index, layer in enumerate(layers):
        boxes, logits = layer["pred_boxes"].detach().numpy(), layer["logits"].detach().numpy()
        np.testing.assert_allclose(boxes, expected["layer_boxes"][index], atol=1e-4, rtol=0)
        some = expected["layer_logits_every_10th_query"][index]
        np.testing.assert_allclose(logits[:, ::10], some, atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.logits.detach().numpy(), expected["pred_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.pred_boxes.detach().numpy(), expected["pred_boxes"], atol=1e-4, rtol=0)

    assert outputs.loss.item() == pytest.approx(case["loss"], rel=1e-4)
    terms = {key: value for key, value in case["loss_terms_unweighted"].items() if key.startswith("loss_")}
    assert set(terms) == set(outputs.loss_dict)
    for key, value in terms.items():
        assert outputs.loss_dict[key].item() == pytest.approx(value, rel=1e-4), key

    outputs.loss.backward()
    compare_gradients(model, config, case)
    compare_detections(outputs, case, expected)


def compare_gradients(model: SamDetrForObjectDetection, config, case: dict):
    """The gradient of each of the authors' tensors: ours are turned into theirs by marking one tensor at a time."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    # box heads are listed under their alias in the decoder
    norms = {key.replace("transformer.decoder.bbox_embed", "bbox_embed"): n for key, n in case["grad_norms"].items()}
    # the converter only moves and splits tensors, so marked tensors show where each one went
    marks = {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(case["state_dict"].items())}
    squares: dict[str, float] = {}
    keys = list(case["state_dict"])
    for name, tensor in convert_state_dict(marks, config).items():
        if name in gradients:
            key = keys[int(tensor.flatten()[0])]
            squares[key] = squares.get(key, 0.0) + gradients[name].double().square().sum().item()
    assert set(squares) == set(norms)
    largest = max(norms.values())
    for key, norm in norms.items():
        if norm > 1e-4 * largest:
            assert squares[key] ** 0.5 == pytest.approx(norm, rel=1e-3), key


def compare_detections(outputs, case: dict, expected):
    """Labels identical where scores do not tie; boxes in pixels."""
    results = SamDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=case["target_sizes_hw"], top_k=100
    )
    for index, result in enumerate(results):
        scores = expected["post_scores"][index]
        np.testing.assert_allclose(result["scores"].detach().numpy(), scores, atol=1e-5, rtol=0)
        gaps = np.abs(np.diff(scores))
        clear = np.concatenate([[True], gaps > 1e-6]) & np.concatenate([gaps > 1e-6, [True]])
        assert (result["labels"].numpy() == expected["post_labels"][index])[clear].all()
        boxes = result["boxes"].detach().numpy()
        np.testing.assert_allclose(boxes[clear], expected["post_boxes"][index][clear], atol=0.05, rtol=0)
