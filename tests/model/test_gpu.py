"""What only a GPU can show: `python -m pytest -m accelerator tests`.

`tests/accelerator_order.py` says which tests come first; `tests/test_accelerator_rehearsal.py` runs all without a GPU.
What training and prediction need is imported by their own tests, for it may be missing where a GPU is.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import pipeline

from benchmarks.gpu_worker import Prepared, captured
from benchmarks.work import Work
from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput

from ..accelerator_order import LIMIT
from ..models import MULTI_SCALE, NEEDS_GPU, VARIANTS, targets, tiny_model

pytestmark = list(NEEDS_GPU)

REPOSITORY = Path(__file__).parents[2]
SMCA_DN = {**MULTI_SCALE, "smca": True, "num_denoising_groups": 2}


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Convolutions in TF32, PyTorch's default, round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batch(height: int = 96, width: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, height, width, dtype=torch.int64)
    mask[1, :, -width // 4 :] = 0
    return torch.randn(2, 3, height, width, generator=generator).cuda(), mask.cuda()


def check_same(found: SamDetrObjectDetectionOutput, expected: SamDetrObjectDetectionOutput):
    torch.testing.assert_close(found.pred_boxes.cpu(), expected.pred_boxes.cpu(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.logits.cpu(), expected.logits.cpu(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_nothing_in_the_forward_waits_for_the_device(fields):
    model, (pixels, mask) = tiny_model(**fields).cuda(), batch()
    with torch.no_grad():
        model(pixels, mask)  # libraries load their kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(pixels, mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_every_implementation_of_attention_computes_the_same(fields, implementation):
    model, (pixels, mask) = tiny_model(**fields), batch()
    with torch.no_grad():
        expected = model(pixels.cpu(), mask.cpu())
        model.set_attn_implementation(implementation)
        found = model.cuda()(pixels, mask)
    check_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", [{}, {"smca": True}, SMCA_DN], ids=["single", "smca", "multi-scale smca dn"])
def test_half_precision_has_nearly_the_same_loss(fields, dtype):
    """Within 2 %, and every gradient is finite."""
    model, (pixels, mask) = tiny_model(**fields).cuda().train(), batch()
    torch.manual_seed(1)
    whole = model(pixels, mask, labels=targets(3, 2)).loss
    torch.manual_seed(1)
    with torch.autocast("cuda", dtype=dtype):
        half = model(pixels, mask, labels=targets(3, 2)).loss
    assert half.dtype == torch.float32 and abs(half - whole) <= 0.02 * whole
    half.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("fields", [{"smca": True}, SMCA_DN], ids=["single smca", "multi-scale smca dn"])
def test_a_step_is_the_same_each_time_where_determinism_is_asked_for(fields, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    pixels, mask = batch()
    steps = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model = tiny_model(**fields).cuda().train()
            model(pixels, mask, labels=targets(3, 2)).loss.backward()
            steps.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(*steps, strict=True))


@pytest.mark.parametrize("fields", [{"smca": True}, SMCA_DN], ids=["single smca", "multi-scale smca dn"])
def test_compiled_code_computes_the_same(fields):
    torch._dynamo.reset()
    model, (pixels, mask) = tiny_model(**fields).cuda(), batch()
    with torch.no_grad():
        expected, found = model(pixels, mask), torch.compile(model, fullgraph=True)(pixels, mask)
    check_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("fields", [{"smca": True}, SMCA_DN], ids=["single smca", "multi-scale smca dn"])
def test_a_captured_graph_computes_the_same(fields, dtype):
    """Of another picture than the one that it was captured with."""
    model, (pixels, mask) = tiny_model(**fields).cuda(), batch()
    found = []

    @torch.no_grad()
    def call():
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            found[:] = [model(pixels, mask)]

    replay = captured(call)
    captured_outputs = found[0]
    pixels.copy_(pixels.flip(-1) + 0.5)
    replay()
    call()
    assert found[0] is not captured_outputs
    check_same(captured_outputs, found[0])


def test_a_model_of_ordinary_size_detects_the_same_as_on_the_cpu():
    torch.manual_seed(0)
    model = SamDetrForObjectDetection(SamDetrConfig.from_preset("sam-detr-pp-r50-smca")).eval()
    pixels = torch.randn(1, 3, 320, 416)
    with torch.no_grad():
        expected, found = model(pixels), model.cuda()(pixels.cuda())
    check_same(found, expected)


def test_pipeline_and_detector_take_the_gpu(tmp_path):
    model, processor = tiny_model(), SamDetrImageProcessor(size={"height": 96, "width": 128})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    picture = Image.effect_noise((128, 96), 80).convert("RGB")
    on = {name: pipeline("object-detection", str(tmp_path), device=name) for name in ("cpu", "cuda")}
    expected, found = (on[name](picture, threshold=0.0) for name in ("cpu", "cuda"))
    assert on["cuda"].model.device.type == "cuda" and len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours["score"] - theirs["score"]) < 1e-3 and ours["label"] == theirs["label"]
    prediction = pytest.importorskip("transformers_samdetr.prediction")
    assert prediction.Detector(tmp_path).model.device.type == "cuda"


def test_the_image_processor_works_on_the_gpu():
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((128, 96), (60, 90))]
    host = SamDetrImageProcessor()(images, return_tensors="pt")
    device = SamDetrImageProcessor()(images, return_tensors="pt", device="cuda")
    assert device.pixel_values.is_cuda and device.pixel_mask.is_cuda
    torch.testing.assert_close(device.pixel_values.cpu(), host.pixel_values, rtol=0, atol=0.05)
    logits = torch.tensor([[[2.0, -3.0, 1.0], [-4.0, -2.0, -5.0]]])
    outputs = SimpleNamespace(logits=logits.cuda(), pred_boxes=torch.full((1, 2, 4), 0.5).cuda())
    (found,) = SamDetrImageProcessor().post_process_object_detection(outputs, 0.5, torch.tensor([[100, 200]]))
    assert found["boxes"].is_cuda and found["labels"].tolist() == [0, 2]


TRAINED = {
    "float32": [],
    "bf16": ["--mixed_precision", "bf16"],
    "fp16": ["--mixed_precision", "fp16"],
    "average of weights": ["--ema_decay", "0.9", "--gradient_checkpointing"],
    "workers": ["--workers", "2"],
    "one process of NCCL": [],
    "compiled": ["--compile"],
}


NEEDED = ("datasets", "evaluate", "hotcoco")
"""By training."""


def start_training(name: str, folder: Path) -> subprocess.Popen:
    """`scripts/train.py` as a user starts it."""
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "1"] if "NCCL" in name else []
    command = [sys.executable, *start, "scripts/train.py", "--data", folder / "data", "--output_dir", folder / name]
    command += "--backbone_weights none --image_size 64 --epochs 6 --batch_size 4 --trackers none".split()
    command += ["--learning_rate", "1e-3", *TRAINED[name]]
    with open(folder / f"{name}.txt", "w") as output:
        return subprocess.Popen(
            command,
            **{"stdout": output, "stderr": subprocess.STDOUT, "cwd": REPOSITORY},
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"},
        )


@pytest.fixture(scope="module", autouse=True)
def runs(request, tmp_path_factory) -> Iterator[tuple[Path, dict[str, subprocess.Popen]]]:
    """Each run whose test was chosen, all at once, while the tests before theirs go on."""
    items = [item for item in request.session.items if item.name.startswith("test_training_learns")]
    folder, started = tmp_path_factory.mktemp("training"), {}
    if items and all(importlib.util.find_spec(name) for name in NEEDED):
        from datasets import DatasetDict

        from ..training_runs import pictures

        train = pictures(12, 0)
        DatasetDict(train=train, validation=train).save_to_disk(folder / "data")
        started = {name: start_training(name, folder) for item in items for name in [item.callspec.params["name"]]}
    yield folder, started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", TRAINED)
def test_training_learns_and_its_model_loads(name, runs):
    """The loss of noise falls, since its few pictures are learned by heart."""
    for module in NEEDED:
        pytest.importorskip(module)
    folder, started = runs
    assert started[name].wait(timeout=LIMIT - 5) == 0, (folder / f"{name}.txt").read_text()[-3000:]
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and lines[-1]["train_loss"] < lines[0]["train_loss"]
    model = SamDetrForObjectDetection.from_pretrained(folder / name, device_map="cuda")
    assert next(model.parameters()).is_cuda


def test_works_are_measured_and_one_that_fails_says_why():
    prepared = Prepared()
    ours, peer = (Work(name, "loss", batch_size=2, device="cuda") for name in ("sam-detr-r50", "dab-detr-r50"))
    first, second = prepared.answer({"prepare": [ours.to_dict(), peer.to_dict()]})["each"]
    assert 2**20 < first["peak_bytes"] < 2**30 and "The loss of dab-detr-r50 is not compared" in second["error"]
    assert prepared.answer({"repeat": ours.to_dict()})["seconds"] > 0
    counts = prepared.answer({"count": ours.to_dict()})
    assert counts["kernels"] > 10 and counts["entries"] > 10 and counts["busy_seconds"] > 0
