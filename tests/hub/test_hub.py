"""Saved folders: the same outputs bit by bit, with the package and, in a clean process, without it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from transformers_samdetr import (
    SamDetrConfig,
    SamDetrForObjectDetection,
    SamDetrImageProcessor,
    SamDetrImageProcessorPil,
)
from transformers_samdetr.commands.messages import named
from transformers_samdetr.configuration_sam_detr import code_files
from transformers_samdetr.hub import UPLOADED, ModelCard, check_saved, push_to_hub, save_for_hub
from transformers_samdetr.presets import PRESETS
from transformers_samdetr.training.log import logged_metrics

ROOT = Path(__file__).parents[2]
CARD = ModelCard(
    name="Test model",
    training_data="two scenes",
    dataset_id="someone/scenes",
    metrics={"COCO AP": 12.5, "COCO AP50": 30},
    evaluation_data="one scene",
    licence="apache-2.0",
    repo_id="someone/model",
)


def make_model(name: str = "sam-detr-tiny", **overrides) -> SamDetrForObjectDetection:
    torch.manual_seed(0)
    return SamDetrForObjectDetection(SamDetrConfig.from_preset(name, **overrides)).eval()


def detect(model, pixels: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        outputs = model(pixels)
    return [outputs.logits, outputs.pred_boxes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[SamDetrForObjectDetection, Path]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = make_model()
    save_for_hub(model, SamDetrImageProcessor(size={"height": 96, "width": 128}), folder, CARD)
    return model, folder


@pytest.mark.parametrize(
    "preset", [name if name == "sam-detr-tiny" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
)
def test_every_preset_loads_bit_equal(preset, tmp_path):
    model = make_model(preset)
    save_for_hub(model, SamDetrImageProcessor(), tmp_path / "model")
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path / "model").eval()
    pixels = torch.randn(1, 3, 64, 96)
    for expected, found in zip(detect(model, pixels), detect(loaded, pixels), strict=True):
        assert torch.equal(expected, found)


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = make_model().train()
    processor = SamDetrImageProcessorPil(image_mean=(0.5, 0.5, 0.5), id2label={0: "cat"})
    save_for_hub(model, processor, tmp_path)
    assert model.training
    assert getattr(model.config, "auto_map", None) is None and getattr(processor, "auto_map", None) is None


def test_a_folder_that_differs_is_noticed(saved, tmp_path):
    model, folder = saved
    shutil.copytree(folder, tmp_path / "copy")
    other = make_model()
    with torch.no_grad():
        other.class_heads[0].bias[3] += 1e-6
    with pytest.raises(RuntimeError, match=r"1 differ: class_heads.0.bias"):
        check_saved(other, SamDetrImageProcessor(size={"height": 96, "width": 128}), tmp_path / "copy")
    with pytest.raises(RuntimeError, match="image processor"):
        check_saved(model, SamDetrImageProcessor(), tmp_path / "copy")


def test_code_beside_the_weights(saved):
    _, folder = saved
    for file in code_files():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    for reference in config["auto_map"].values():
        module, name = reference.split(".")
        assert f"class {name}(" in (folder / f"{module}.py").read_text()
    names = {file.name for file in code_files()}
    assert "conversion.py" not in names and "hub.py" not in names and "__init__.py" not in names


def test_model_card(saved):
    model, folder = saved
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0" and front["datasets"] == ["someone/scenes"]
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "object-detection"
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == CARD.metrics
    assert "two scenes" in body and "| COCO AP | 12.5 |" in body and 'model="someone/model"' in body
    bare = ModelCard().render(model)
    assert bare.count("not stated") == 4  # origin, training data, metrics, licence
    assert yaml.safe_load(bare.split("---\n")[1]).get("license") is None


def test_the_card_states_the_threshold_and_the_log(saved, tmp_path):
    model, _ = saved
    lines = [{"epoch": 1, "AP": 20.0, "AP50": 40.0}, {"epoch": 2, "AP": 30.5, "AP50": 50.0}, {"epoch": 3, "AP": 25.0}]
    log, weights = tmp_path / "log.jsonl", tmp_path / "model.safetensors"
    assert logged_metrics(tmp_path) == ({}, None)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    weights.touch()
    os.utime(log, (100, 100))
    os.utime(weights, (90, 90))  # keep="best": the log went on
    assert logged_metrics(tmp_path) == ({"COCO AP": 30.5, "COCO AP50": 50.0}, 2)
    os.utime(weights, (110, 110))
    assert logged_metrics(tmp_path) == ({"COCO AP": 25.0}, 3)

    card = ModelCard(metrics={"COCO AP": 25.0}, evaluation_data="my photographs")
    assert "threshold=0.5)" in card.render(model) and "highest F1" not in card.render(model)
    model.config.detection_threshold = 0.36
    text = card.render(model)
    model.config.detection_threshold = None
    assert "threshold=0.36)" in text and "above 0.36 had the highest F1" in text
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"] == {"name": "my photographs", "type": "custom"}
    assert result["metrics"] == [{"type": "COCO AP", "value": 25.0}]


def test_metrics_on_the_command_line():
    assert named(float)("COCO AP = 1") == ("COCO AP", 1.0)
    for wrong in ("AP", "=3", "AP=high"):
        with pytest.raises(ValueError):
            named(float)(wrong)


def test_upload_takes_the_model_and_nothing_else(saved, monkeypatch, tmp_path):
    calls = {}

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            calls["repo"] = (repo_id, private)
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, **options):
            calls["upload"] = options
            return type("Commit", (), {"commit_url": "address", "oid": "0" * 40})

        def hf_hub_download(self, repo_id, name, revision):
            return saved[1] / name

    monkeypatch.setattr("transformers_samdetr.hub.HfApi", Api)
    assert push_to_hub(saved[1], "someone/model", private=True) == "address"
    assert calls["repo"] == ("someone/model", True)

    from huggingface_hub.utils import filter_repo_objects

    there = [
        "config.json",
        "model.safetensors",
        "geometry.py",
        "README.md",
        "model.onnx",
        "log.jsonl",
        "x.jpg",
        "checkpoint/a.json",
    ]
    options = {name: calls["upload"][name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(there, **options)) == there[:5]
    assert calls["upload"]["allow_patterns"] == list(UPLOADED)
    with pytest.raises(FileNotFoundError, match="config.json"):
        push_to_hub(tmp_path, "someone/model")


IN_A_CLEAN_PROCESS = """
import importlib.util, json, os, sys
import numpy as np, torch
from PIL import Image

where, kwargs, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
if kwargs:
    assert importlib.util.find_spec("transformers_samdetr") is None, "the package must not be importable here"
else:
    import transformers_samdetr
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection, pipeline

config = AutoConfig.from_pretrained(where, **kwargs)
assert config.model_type == "sam_detr" and config.id2label[1] == "person"
assert type(AutoModel.from_pretrained(where, **kwargs)).__name__ == "SamDetrModel"
for backend, name in (("torchvision", "SamDetrImageProcessor"), ("pil", "SamDetrImageProcessorPil")):
    processor = AutoImageProcessor.from_pretrained(where, backend=backend, **kwargs)
    assert type(processor).__name__ == name and dict(processor.size) == {"height": 96, "width": 128}, processor
assert type(AutoImageProcessor.from_pretrained(where, **kwargs)).__name__ == "SamDetrImageProcessor"

model = AutoModelForObjectDetection.from_pretrained(where, **kwargs).eval()
package = "transformers_modules" if kwargs else "transformers_samdetr"
assert type(model).__module__.split(".")[0] == package, type(model)
with torch.no_grad():
    outputs = model(torch.from_numpy(np.load("pixels.npy")))
np.savez("outputs.npz", logits=outputs.logits.numpy(), boxes=outputs.pred_boxes.numpy())

detector = pipeline("object-detection", model=where, **kwargs)
found = detector(Image.open("picture.png"), threshold=0.0)
assert len(found) == 100 and set(found[0]) == {"score", "label", "box"}, found[:1]
assert detector("picture.png", threshold=0.0) == found
smaller = Image.open("picture.png").resize((50, 70))
assert len(detector([smaller, "picture.png"], threshold=0.0, batch_size=2)) == 2  # Transformers' own takes one size
assert type(detector).__name__ == "SamDetrObjectDetectionPipeline"
for again in (model, processor, detector.model, detector.image_processor):  # whatever is saved from it loads likewise
    again.save_pretrained("again")
if kwargs:
    assert "transformers_samdetr" not in sys.modules
    for name in os.listdir(where) if os.path.isdir(where) else ():
        if name.endswith((".py", ".json")):
            old, new = (open(os.path.join(folder, name)).read() for folder in (where, "again"))
            if name.endswith(".json"):
                names = ("auto_map", "custom_pipelines", "id2label")
                old, new = ([json.loads(text).get(key) for key in names] for text in (old, new))
            assert old == new, name
    assert pipeline("object-detection", model="again", **kwargs)("picture.png", threshold=0.0) == found
print("all well")
"""


def installed_packages_but_ours(folder: Path) -> list[str]:
    """Search paths with everything that is installed here except this package, in whatever way it was installed."""
    paths = []
    for index, site in enumerate(Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))):
        mirror = folder / f"site{index}"
        mirror.mkdir()
        for entry in site.iterdir():
            if "transformers_samdetr" not in entry.name and entry.suffix != ".pth":
                (mirror / entry.name).symlink_to(entry)
        paths.append(str(mirror))
    return paths


@pytest.mark.parametrize("source", ["folder", "repository"])
@pytest.mark.parametrize("with_package", [True, False], ids=["with package", "without package"])
def test_auto_classes_and_pipeline_in_a_clean_process(saved, tmp_path, with_package, source):
    model, where = saved
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    if source == "repository":
        # what a download leaves in the cache, which is all that can be seen of the Hub without a network
        cached = tmp_path / "hf" / "hub" / "models--someone--model"
        shutil.copytree(where, cached / "snapshots" / ("0" * 40))
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
        where = "someone/model"
    paths = [str(ROOT / "src"), *sys.path] if with_package else installed_packages_but_ours(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((1, 3, 96, 128)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    kwargs = json.dumps({} if with_package else {"trust_remote_code": True})
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(IN_A_CLEAN_PROCESS))
    # -S: no site, so that no .pth file of an editable installation is read
    command = [sys.executable, "-S", str(script), str(where), kwargs, str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "all well" in done.stdout, done.stderr[-3000:]

    found = np.load(tmp_path / "outputs.npz")
    logits, boxes = detect(model, torch.from_numpy(pixels))
    assert np.array_equal(found["logits"], logits.numpy()) and np.array_equal(found["boxes"], boxes.numpy())


def test_the_clean_process_fails_where_the_package_is_importable(tmp_path):
    """So that the test above cannot pass by accident."""
    (tmp_path / "script.py").write_text(textwrap.dedent(IN_A_CLEAN_PROCESS))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)])}
    command = [sys.executable, "-S", "script.py", "nowhere", '{"trust_remote_code": true}', "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "must not be importable" in done.stderr
