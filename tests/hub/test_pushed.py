"""What is pushed loads anywhere: the real client against a Hub on loopback, with the package and without it."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.presets import PRESETS

from .server import running_hub
from .test_hub import ROOT, detect, installed_packages_but_ours, make_model

PUSH = """
from transformers import AutoImageProcessor, AutoModelForObjectDetection
import transformers_samdetr

model = AutoModelForObjectDetection.from_pretrained("plain")
print(model.push_to_hub("someone/pushed"))
AutoImageProcessor.from_pretrained("plain").push_to_hub("someone/pushed")
# what was loaded from a repository is pushed on
loaded = AutoModelForObjectDetection.from_pretrained("someone/pushed")
loaded.push_to_hub("someone/again")
loaded.config.push_to_hub("someone/again")
AutoImageProcessor.from_pretrained("someone/pushed").push_to_hub("someone/again")
"""
LOAD = """
import importlib.util, sys
assert importlib.util.find_spec("transformers_samdetr") is None, "the package must not be importable here"
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

pixels = torch.from_numpy(np.load("pixels.npy"))
outputs = []
for where in sys.argv[2:]:
    model = AutoModelForObjectDetection.from_pretrained(where, trust_remote_code=True).eval()
    with torch.no_grad():
        found = model(pixels)
    outputs += [found.logits.numpy(), found.pred_boxes.numpy()]
    for backend in ("torchvision", "pil"):
        processor = AutoImageProcessor.from_pretrained(where, backend=backend, trust_remote_code=True)
        assert processor.backend == backend, processor
    detector = pipeline("object-detection", model=where, trust_remote_code=True)
    assert len(detector("picture.png", threshold=0.0)) > 0
np.savez("outputs.npz", *outputs)
"""


def run(script: str, folder: Path, environment: dict[str, str], *arguments: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))
    } | environment
    command = [sys.executable, "-S", "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def with_package() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "scripts"), *filter(None, sys.path)])}


@pytest.fixture
def hub(tmp_path):
    with running_hub() as hub:
        yield hub


def prepare(folder: Path, preset: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A folder `plain` as save_pretrained writes it, a picture and pixels."""
    model = make_model(preset)
    model.save_pretrained(folder / "plain")
    SamDetrImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder / "plain")
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((1, 3, 64, 96)).astype(np.float32)
    np.save(folder / "pixels.npy", pixels)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / "picture.png")
    return model, torch.from_numpy(pixels)


def check_without_package(folder: Path, environment: dict[str, str], model, pixels, *places: str) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(installed_packages_but_ours(folder))}
    run(LOAD, folder, environment | paths, str(torch.get_num_threads()), *places)
    expected = [values.numpy() for values in detect(model, pixels)] * len(places)
    with np.load(folder / "outputs.npz") as found:
        assert all(np.array_equal(found[name], values) for name, values in zip(found.files, expected, strict=True))


def test_what_is_pushed_loads_bit_equal_without_the_package(hub, tmp_path):
    model, pixels = prepare(tmp_path, "sam-detr-tiny")
    environment = hub.environment(tmp_path / "hf")
    assert "/someone/pushed/commit/" in run(PUSH, tmp_path, environment | with_package())
    for name in ("someone/pushed", "someone/again"):
        files = hub.files(name)
        for file in ("config.json", "preprocessor_config.json"):
            for references in json.loads(files[file])["auto_map"].values():
                for reference in [references] if isinstance(references, str) else references:
                    assert f"{reference.split('.')[0]}.py" in files, f"{name}: {reference} is not there"
    check_without_package(tmp_path, environment, model, pixels, "someone/pushed", "someone/again")


def test_the_command_pushes_card_metrics_and_onnx_file(hub, tmp_path):
    prepare(tmp_path, "sam-detr-tiny")
    (tmp_path / "exported.onnx").write_bytes(b"not a real one")
    lines = ['{"epoch": 7, "AP": 12.5, "AP50": 30.0, "AP75": 9.0}', '{"epoch": 8, "AP": 11.0}']
    (tmp_path / "plain" / "log.jsonl").write_text("\n".join(lines) + "\n")
    os.utime(tmp_path / "plain" / "model.safetensors", (100, 100))  # before the log: those of the best epoch
    arguments = ["--model", "plain", "--repo_id", "someone/detector", "--onnx", "exported.onnx", "--licence", "mit"]
    script = "from transformers_samdetr.commands.push import main; main()"
    environment = hub.environment(tmp_path / "hf") | with_package()
    assert "the AP of epoch 7" in run(script, tmp_path, environment, *arguments, "--dry_run")
    assert "someone/detector" not in hub.repositories
    said = run(script, tmp_path, environment, *arguments)
    assert "Uploaded: " in said and "the AP of epoch 7" in said
    files = hub.files("someone/detector")
    assert files["exported.onnx"] == b"not a real one" and "log.jsonl" not in files
    assert "GET /someone/detector/resolve/" in " ".join(hub.requests)
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and "| COCO AP | 12.5 |" in card.text
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "COCO AP": 12.5,
        "COCO AP50": 30.0,
        "COCO AP75": 9.0,
    }


PUSH_SET = """
from datasets import DatasetDict
from tests.training_runs import pictures

sets = DatasetDict(train=pictures(7, 0), validation=pictures(3, 1))
sets.push_to_hub("someone/set", num_shards={"train": 2, "validation": 1})
"""


def test_training_reads_a_pushed_set_while_it_is_used(hub, tmp_path):
    environment = hub.environment(tmp_path / "hf") | with_package()
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
    run(PUSH_SET, tmp_path, environment)
    files = hub.files("datasets/someone/set")
    assert sum(file.endswith(".parquet") for file in files) == 3
    hub.requests.clear()
    arguments = ["--data", "someone/set", "--streaming", "--output_dir", "out", "--image_size", "64", "--epochs", "1"]
    arguments += ["--batch_size", "2", "--backbone_weights", "none", "--trackers", "none", "--shuffle_buffer", "4"]
    said = run("from transformers_samdetr.commands.train import main; main()", tmp_path, environment, *arguments)
    assert "a stream of 7 training and a stream of 3 evaluation images" in said
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert any("/resolve/" in request and ".parquet" in request for request in hub.requests)
    assert not list((tmp_path / "hf").rglob("*.parquet")) and not list((tmp_path / "hf").rglob("*.arrow"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_saved_loads_bit_equal_without_the_package(preset, tmp_path):
    model, pixels = prepare(tmp_path, preset)
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    check_without_package(tmp_path, environment, model, pixels, str(tmp_path / "plain"))
