"""The numbers of the authors' code, through the converter: they lie beside the repository, in `../shared/parity`.

`python -m pytest tests/model/test_parity.py -s` prints how far each case is off.
`test_parity_fixtures.py` runs everywhere.
"""

import importlib.util
import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.conversion import config_from_checkpoint, convert_state_dict

from ..models import DEVICES
from ..parity import PARITY, check_detections, deviation, original_gradient_norms

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
@pytest.mark.parametrize("device", DEVICES)
def test_the_authors_numbers(name, device):
    case = json.loads((PARITY / f"{name}.json").read_text())
    arrays = np.load(PARITY / f"{name}.npz")
    spec = importlib.util.spec_from_file_location("reference_weights", PARITY / "reference_weights.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    original = {key: torch.as_tensor(rule.reference_tensor(key, shape)) for key, shape in case["state_dict"].items()}

    config = config_from_checkpoint(original, Namespace(dilation="dc5" in name))
    model = SamDetrForObjectDetection(config).eval()
    model.load_state_dict(convert_state_dict(original, config))
    # kernels of a GPU round otherwise, and places of several scales fall on the other side of a pixel now and then
    dtype = torch.float32 if device == "cpu" else torch.float64
    model.to(device, dtype)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case["n_trainable_parameters"]

    pixels, mask, labels = inputs(case)
    outputs = model(pixels.to(device, dtype), mask.to(device), labels=labels)
    outputs.loss.backward()
    off = deviation(
        outputs,
        original_gradient_norms(model, case["state_dict"]),
        {
            "boxes": arrays["layer_boxes"],
            "logits": arrays["layer_logits_every_10th_query"],
            "loss": case["loss"],
            "terms": {key: value for key, value in case["loss_terms_unweighted"].items() if key.startswith("loss_")},
            # box heads are listed under their alias in the decoder
            "gradient_norms": {
                key.replace("transformer.decoder.bbox", "bbox"): n for key, n in case["grad_norms"].items()
            },
        },
        every_query=10,
    )
    print(f"\n{name}: {off}")
    off.check()
    # of the last layer there is every query
    np.testing.assert_allclose(outputs.logits.detach().cpu().numpy(), arrays["pred_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.pred_boxes.detach().cpu().numpy(), arrays["pred_boxes"], atol=1e-4, rtol=0)
    check_detections(
        outputs, case["target_sizes_hw"], arrays["post_scores"], arrays["post_labels"], arrays["post_boxes"]
    )
