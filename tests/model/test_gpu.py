"""What only a GPU can show: `python -m pytest -m accelerator tests`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from PIL import Image
from transformers import pipeline

from benchmarks.measure import interleave_on_gpu
from benchmarks.work import Work
from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.prediction import Detector
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput

from ..models import MULTI_SCALE, NEEDS_GPU, VARIANTS, targets, tiny_model
from ..training_runs import pictures

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
    detector = Detector(tmp_path)
    assert detector.model.device.type == "cuda"


TRAINED = {
    "float32": [],
    "bf16": ["--mixed_precision", "bf16"],
    "fp16": ["--mixed_precision", "fp16"],
    "average of weights": ["--ema_decay", "0.9", "--gradient_checkpointing"],
    "compiled": ["--compile"],
    "workers": ["--workers", "2"],
    "one process of NCCL": [],
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_learns_and_its_model_loads(name, tmp_path):
    """`scripts/train.py` as a user starts it; the loss of noise falls, since its few pictures are learned by heart."""
    train = pictures(12, 0)
    DatasetDict(train=train, validation=train).save_to_disk(tmp_path / "data")
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "1"] if "NCCL" in name else []
    folders = ["--data", tmp_path / "data", "--output_dir", tmp_path / "out"]
    command = [sys.executable, *start, "scripts/train.py", *folders]
    command += "--backbone_weights none --image_size 64 --epochs 6 --batch_size 4 --trackers none".split()
    command += ["--learning_rate", "1e-3", *TRAINED[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and lines[-1]["train_loss"] < lines[0]["train_loss"]
    model = SamDetrForObjectDetection.from_pretrained(tmp_path / "out", device_map="cuda")
    assert next(model.parameters()).is_cuda


def test_works_are_measured_in_turn_and_one_that_fails_says_why():
    works = [Work(name, "loss", batch_size=2, device="cuda") for name in ("sam-detr-r50", "dab-detr-r50")]
    ours, peer = interleave_on_gpu(works, rounds=3)
    assert len(ours.seconds) == 3 and min(ours.seconds) > 0 and ours.error is None
    assert 2**20 < ours.peak_bytes < 2**30
    assert "The loss of dab-detr-r50 is not compared" in peer.error and not peer.seconds
