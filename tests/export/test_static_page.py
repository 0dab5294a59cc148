"""The folder of `--format web`, and how its page prepares pictures; test_page_in_browser.py runs it."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.commands import export
from transformers_samdetr.export import ExportError, export_page, static_page
from transformers_samdetr.prediction.detector import DEFAULT_THRESHOLD, NMS_THRESHOLD

from ..models import tiny_model
from ..processes import free_port
from .test_export import QUICK, decided, needs_onnx

PAGE = Path(static_page.__file__).with_name("web")
NODE = shutil.which("node")
THRESHOLD = 0.3

IN_NODE = """
const fs = require("fs"), folder = process.argv[1];
require("vm").runInThisContext(fs.readFileSync(process.argv[2], "utf8"));
for (const [index, { height, width, settings }] of JSON.parse(fs.readFileSync(folder + "/cases.json")).entries()) {
  const image = { height, width, data: new Uint8ClampedArray(fs.readFileSync(`${folder}/${index}.rgba`)) };
  const input = toInput(image, settings);
  fs.writeFileSync(`${folder}/${index}.pixels`, Buffer.from(input.pixels.buffer));
  fs.writeFileSync(`${folder}/${index}.mask`, Buffer.from(input.mask.buffer));
}
"""


@pytest.mark.skipif(not NODE, reason="needs node")
def test_the_page_prepares_pictures_as_the_image_processor(tmp_path):
    square, edges = {"size": {"height": 96, "width": 96}}, {"size": {"shortest_edge": 80, "longest_edge": 133}}
    variants = (
        square,
        {"size": {"height": 50, "width": 120}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        edges,
        {"size": {"longest_edge": 100}},
        {"size": {"max_height": 60, "max_width": 90}, "pad_size": {"height": 70, "width": 100}},
        {"size": {"shortest_edge": 80}, "do_rescale": False, "do_normalize": False},
        {**square, "do_resize": False, "do_pad": False},
    )
    shapes = ((96, 96), (61, 47), (300, 200), (200, 400), (480, 641), (40, 130), (3, 7), (1, 500))
    generator, cases, expected = np.random.default_rng(0), [], []
    for variant in variants:
        processor = SamDetrImageProcessor(**variant)
        for height, width in shapes:
            rgba = np.full((height, width, 4), 255, dtype=np.uint8)
            rgba[..., :3] = generator.integers(0, 256, (height, width, 3))
            (tmp_path / f"{len(cases)}.rgba").write_bytes(rgba.tobytes())
            settings = json.loads(processor.to_json_string())
            cases.append({"height": height, "width": width, "settings": settings})
            expected.append(processor(Image.fromarray(rgba[..., :3]), return_tensors="pt"))
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    subprocess.run([NODE, "-e", IN_NODE, tmp_path, PAGE / "pixels.js"], check=True)
    for index, batch in enumerate(expected):
        shape = batch["pixel_values"].shape
        pixels = torch.from_numpy(np.fromfile(tmp_path / f"{index}.pixels", np.float32)).view(shape)
        settings = cases[index]["settings"]
        level = settings["rescale_factor"] / min(settings["image_std"]) if settings["do_normalize"] else 1
        off = (pixels - batch["pixel_values"]).abs() / level  # of 255
        # processors without AVX2 round once where these round twice
        most = 0.01 if "AVX" in torch.backends.cpu.get_cpu_capability() else 1.01
        assert off.max() < most, (cases[index], off.max())
        if settings["do_pad"]:
            mask = np.fromfile(tmp_path / f"{index}.mask", np.int64).reshape(shape[-2:])
            assert (mask == batch["pixel_mask"][0].numpy()).all(), cases[index]


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_model(tmp_path / "signs")


def save_model(folder: Path) -> Path:
    """A small random model that is sure of what it sees, with its image processor."""
    model = decided(tiny_model(**QUICK))
    torch.nn.init.constant_(model.class_heads[-1].bias, -1.0)
    model.config.update({"id2label": {0: "stop", 1: "give way", 2: "<b>", 3: "汽车", 4: "end"}})
    model.config.detection_threshold = THRESHOLD
    model.save_pretrained(folder)
    SamDetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(folder)
    return folder


@pytest.fixture
def runtime(tmp_path, monkeypatch) -> Path:
    """A folder with other files of the runtime's names, which are taken for the right ones."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in static_page.RUNTIME_FILES:
        (folder / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        monkeypatch.setitem(static_page.RUNTIME_FILES, name, digest)
    return folder


@needs_onnx
def test_the_folder_has_all_that_the_page_needs(saved, runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["samdetr-export", "--model", "signs", "--output", "page", "--format", "web", "--runtime", "dist"]
    monkeypatch.setattr("sys.argv", command)
    export.main()
    assert "python -m http.server --directory page" in capsys.readouterr().out
    page = tmp_path / "page"
    own = {"index.html", "page.js", "pixels.js", "model.onnx", "model.onnx.json"}
    assert {path.name for path in page.iterdir()} == own | set(static_page.RUNTIME_FILES)
    about = json.loads((page / "model.onnx.json").read_text(encoding="utf-8"))
    assert about["id2label"]["3"] == "汽车" and about["detection_threshold"] == THRESHOLD and about["top_k"] == 100
    assert about["image_processor"]["size"] == {"shortest_edge": 96, "longest_edge": 160}
    html = (page / "index.html").read_text(encoding="utf-8")
    assert "<h1>signs</h1>" in html and "{{" not in html and "//" not in html.split("</style>")[1]

    with pytest.raises(SystemExit):
        export.main()
    assert "model.onnx exists: choose another output, or overwrite it" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*command, "--data", "digits"])
    with pytest.raises(SystemExit):
        export.main()
    assert "--data and --benchmark need --format onnx" in capsys.readouterr().err


def test_no_other_runtime_is_taken(saved, runtime, tmp_path, monkeypatch):
    (runtime / "ort.wasm.min.js").write_text("changed")
    with pytest.raises(ExportError, match="ort.wasm.min.js must be that of onnxruntime-web@.*: its SHA-256 is another"):
        export_page(saved, tmp_path / "page", runtime)
    with pytest.raises(ExportError, match=r"nowhere/ort.wasm.min.js cannot be read .*: give the folder dist of npm's"):
        export_page(saved, tmp_path / "page", tmp_path / "nowhere")
    monkeypatch.setattr(static_page, "RUNTIME_ADDRESS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ExportError, match="cannot be read .*refused"):
        export_page(saved, tmp_path / "page")
    SamDetrImageProcessor(resample=3).save_pretrained(saved)
    with pytest.raises(ExportError, match="resample=3 of the image processor must be 2, bilinear"):
        export_page(saved, tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


def test_the_page_decides_as_samdetr_predict():
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    assert f"DEFAULT_THRESHOLD = {DEFAULT_THRESHOLD};" in script and f"DUPLICATE_IOU = {NMS_THRESHOLD};" in script
