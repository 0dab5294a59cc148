"""Every script of examples/ runs, small, and does what it says; each is a page on public names alone."""

import ast
import io
import json
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.digit_scenes import DIGIT_NAMES
from transformers_samdetr.export import export_detector

from ..detection_folders import CATEGORIES, write_coco
from ..models import SMALL_BACKBONE, TINY

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SMALL = ("--scenes", "8", "--image_size", "96", "--epochs", "1")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in an empty folder and returns what it has printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.syspath_prepend((EXAMPLES / name).parent)  # as Python does
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def picture_of(color: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def saved_model(folder: Path, names: list[str]) -> Path:
    """A random model that is sure of what it sees."""
    torch.manual_seed(0)
    id2label = dict(enumerate(names))
    fields = {**TINY, "backbone_config": SMALL_BACKBONE, "id2label": id2label}
    fields["label2id"] = {name: label for label, name in id2label.items()}
    del fields["num_labels"]
    model = SamDetrForObjectDetection(SamDetrConfig(**fields))
    torch.nn.init.constant_(model.class_heads[-1].bias, 2.0)
    model.save_pretrained(folder)
    SamDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_all_are_tested():
    tested = Path(__file__).read_text(encoding="utf-8")
    assert SCRIPTS and [path.name for path in SCRIPTS if f'run("{path.name}"' not in tested] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_page_on_public_names(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (200 if path.stem == "sliced_detection" else 70)  # that one is to be copied whole
    assert f"python examples/{path.name} " in ast.get_docstring(ast.parse(text))
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    private = [alias.name for node in imported for alias in node.names if alias.name.startswith("_")]
    assert private == [] and not [node for node in ast.walk(ast.parse(text)) if _is_private_attribute(node)]


def _is_private_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr != "__init__"


def test_aligner_in_dab_detr(run):
    loss, gradient = run("aligner_in_dab_detr.py").removeprefix("loss ").split(", gradient of the first aligner ")
    assert float(loss) > 0 and float(gradient) > 0


def test_detect(run, tmp_path):
    Image.new("RGB", (80, 60), (90, 120, 30)).save(tmp_path / "picture.jpg")
    saved_model(tmp_path / "model", ["cat", "dog"])
    printed = run("detect.py", "picture.jpg", "--model", "model", "--threshold", "0.5", "--output", "drawn.png")
    assert any(line.startswith(("cat  0.", "dog  0.")) for line in printed.splitlines())
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (80, 60) and len(set(drawn.get_flattened_data())) > 1


def test_serve(run, tmp_path, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient", reason="FastAPI, of the extra `serve`, is not installed")
    content, answers = picture_of("red", (80, 60)), []

    def serve(app, **options):
        with testclient.TestClient(app) as client:
            answers.append(client.post("/detect?threshold=0.1&top_k=3", content=content))
            answers.append(client.post("/detect", content=b"no picture"))

    monkeypatch.setattr("uvicorn.run", serve)
    saved_model(tmp_path / "model", ["cat", "dog"])
    run("serve/serve.py", "--model", "model", "--device", "cpu")
    found, refused = answers
    assert found.status_code == 200 and (found.json()["width"], found.json()["height"]) == (80, 60)
    assert 1 <= len(found.json()["detections"]) <= 3
    assert {row["label"] for row in found.json()["detections"]} <= {"cat", "dog"}
    assert refused.status_code == 400 and "cannot be read as a picture" in refused.json()["detail"]


@pytest.mark.slow
def test_onnx_detect(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX files need the export extra")
    Image.new("RGB", (80, 60), (90, 120, 30)).save(tmp_path / "picture.jpg")
    export_detector(saved_model(tmp_path / "model", ["cat", "dog"]), tmp_path / "model.onnx", postprocess=True)
    printed = run("onnx_detect.py", "picture.jpg", "--model", "model.onnx", "--threshold", "0.5").splitlines()
    detected = run("detect.py", "picture.jpg", "--model", "model", "--threshold", "0.5", "--output", "drawn.png")
    assert printed[0].startswith(("cat  0.", "dog  0."))
    assert [line.split()[:2] for line in printed[:-1]] == [line.split()[:2] for line in detected.splitlines()[:-1]]


def test_sliced_detection(run, tmp_path):
    saved_model(tmp_path / "model", ["cat", "dog"])
    Image.new("RGB", (200, 150), (90, 120, 30)).save(tmp_path / "large.jpg")
    printed = run("sliced_detection.py", "large.jpg", "--model", "model", "--side", "64", "--output", "sliced.png")
    *rows, last = printed.splitlines()
    assert rows and all(row.startswith(("cat  0.", "dog  0.")) for row in rows) and f"{len(rows)} in tiles" in last
    with Image.open(tmp_path / "sliced.png") as drawn:
        assert drawn.size == (200, 150)


def test_video_detection(run, tmp_path):
    av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")
    saved_model(tmp_path / "model", ["cat", "dog"])
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 66, 48, "yuv420p"
        for _ in range(7):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (66, 48), (90, 120, 30)))))
        container.mux(stream.encode())
    printed = run("video_detection.py", "clip.mp4", "--model", "model", "--frame_step", "3", "--output", "out.mp4")
    assert "7 frames, one of 3 looked at: out.mp4" in printed
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == [0, 3, 6] and all(row["objects"] for row in rows)
    with av.open(str(tmp_path / "out.mp4")) as written:
        frames = [frame.to_ndarray(format="rgb24") for frame in written.decode(video=0)]
    assert [frame.shape for frame in frames] == [(48, 66, 3)] * 7 and frames[1].std() > 5  # boxes are drawn


def test_count_crossings(run, tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="PyAV, of the extra `track`, is not installed")
    pytest.importorskip("trackers", reason="trackers, of the extra `track`, is not installed")
    saved_model(tmp_path / "model", ["cat", "dog"])
    moving = iter(range(0, 60, 4))

    def detect(self, images, threshold, **options):
        x = next(moving)
        box = torch.tensor([[x, 10.0, x + 20, 30.0]])
        return [{"scores": torch.tensor([0.9]), "labels": torch.tensor([1]), "boxes": box}]

    monkeypatch.setattr("transformers_samdetr.prediction.Detector.detect", detect)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 66, 48, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (66, 48), (90, 120, 30)))))
        container.mux(stream.encode())
    printed = run("count_crossings.py", "clip.mp4", "--model", "model", "--output", "counted.mp4")
    assert sorted(printed.split(":")[0].split(", ")) == ["0 in", "1 out"] or "1 in, 0 out" in printed
    with av.open(str(tmp_path / "counted.mp4")) as written:
        assert sum(1 for _ in written.decode(video=0)) == 12


def test_own_training_loop(run, tmp_path):
    printed = run("own_training_loop.py", "--output_dir", "out", *SMALL)
    assert "epoch 1/1  loss " in printed and "nan" not in printed
    assert SamDetrForObjectDetection.from_pretrained(tmp_path / "out").config.id2label == dict(enumerate(DIGIT_NAMES))


def test_transformers_trainer(run, tmp_path):
    printed = run("transformers_trainer.py", "--output_dir", "out", *SMALL)
    assert "'eval_loss'" in printed and printed.splitlines()[-1].startswith("AP ")
    assert SamDetrForObjectDetection.from_pretrained(tmp_path / "out").config.num_labels == 10
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_paper_ablations(run):
    _, *rows = run("paper_ablations.py", "--steps", "1", "--image_size", "64").splitlines()
    losses = [float(row.split()[-2]) for row in rows]
    assert [row.split()[-1] for row in rows] == ["22.3", "25.2", "27.0", "28.6", "30.3", "33.1", "30.0", "34.2"]
    assert all(0 < loss < 1000 for loss in losses)
    # where the salient points are searched changes no parameter, but what is seen
    assert rows[5].split()[-3] == rows[6].split()[-3] and len(set(losses)) == len(losses)


def test_coco_ap_metric(run, tmp_path, capsys):
    names = [category["name"] for category in sorted(CATEGORIES, key=lambda category: category["id"])]
    write_coco(tmp_path / "photos" / "labels.json", tmp_path / "photos", count=10)
    saved_model(tmp_path / "model", names)
    printed = run("coco_ap_metric.py", "--model", "model", "--data", "photos")
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert 0 <= float(lines["AP50"]) <= 1 and "AP/cat" in lines and lines["APl"] == "nothing to find"
    saved_model(tmp_path / "other", ["bird"])
    with pytest.raises(SystemExit):
        run("coco_ap_metric.py", "--model", "other", "--data", "photos")
    assert "has the classes ['bird'], photos has ['cat', 'dog']" in capsys.readouterr().err
