"""Prediction on files, folders and videos: what is written, where, and what happens to damaged inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.prediction import predict_files
from transformers_samdetr.prediction.sources import Source, find_sources, read_pictures

from .models import TINY

ROOT = Path(__file__).parents[1]
PREDICTIONS = "predictions.json"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    SamDetrForObjectDetection(SamDetrConfig(**TINY)).save_pretrained(folder)
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


def picture(path: Path, size=(60, 40), seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def predict(inputs, model_dir, output_dir, **options):
    options = {"threshold": 0.0, "top_k": 3, "device": "cpu"} | options
    result = predict_files(inputs, model_dir, output_dir, **options)
    return result, json.loads((output_dir / PREDICTIONS).read_text())


def test_pictures_and_json(model_dir, tmp_path):
    first, second = picture(tmp_path / "one.png"), picture(tmp_path / "two.jpg", (30, 50), 1)
    result, rows = predict([first, second], model_dir, tmp_path / "out", batch_size=2)
    assert result.pictures == [tmp_path / "out" / "one.png", tmp_path / "out" / "two.jpg"]
    assert [Image.open(path).size for path in result.pictures] == [(60, 40), (30, 50)]
    assert result.unreadable == {} and rows == result.detections and len(rows) == 6
    assert [(row["image_id"], row["file_name"]) for row in rows] == [(1, "one.png")] * 3 + [(2, "two.jpg")] * 3
    names = SamDetrConfig.from_pretrained(model_dir).id2label
    for row in rows:
        assert 0 <= row["score"] <= 1 and row["category_name"] == names[row["category_id"]]
        assert len(row["bbox"]) == 4 and min(row["bbox"][2:]) >= 0


def test_boxes_are_those_of_the_pipeline(model_dir, tmp_path):
    from transformers import pipeline

    source = picture(tmp_path / "one.png")
    _, rows = predict([source], model_dir, tmp_path / "out", top_k=100)
    found = pipeline("object-detection", model=str(model_dir))(str(source), threshold=0.0)
    assert [row["category_name"] for row in rows] == [detection["label"] for detection in found]
    for row, detection in zip(rows, found, strict=True):
        x, y, width, height = row["bbox"]
        corners = [detection["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")]
        assert np.allclose([x, y, x + width, y + height], corners, atol=1)  # the pipeline cuts to whole pixels


def test_pycocotools_reads_it(model_dir, tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools, of the extra `train`, is not installed")
    predict([picture(tmp_path / "one.jpg")], model_dir, tmp_path / "out")
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 1}], "categories": [{"id": index} for index in range(5)], "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "out" / PREDICTIONS)).getAnnIds()) == 3


def test_options(model_dir, tmp_path):
    source = picture(tmp_path / "one.png")
    result, rows = predict([source], model_dir, tmp_path / "out", threshold=1.0)
    assert rows == [] and result.pictures == [tmp_path / "out" / "one.png"]
    for wrong in ({"threshold": 1.5}, {"threshold": float("nan")}, {"top_k": 0}, {"batch_size": 0}, {"frame_step": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            predict([source], model_dir, tmp_path / "out", **wrong)


def test_boxes_belong_to_the_upright_picture(model_dir, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed turned by a quarter
    predict([picture(tmp_path / "turned.jpg", (60, 40), exif=exif)], model_dir, tmp_path / "out")
    assert Image.open(tmp_path / "out" / "turned.jpg").size == (40, 60)


def test_namesakes_do_not_overwrite_each_other(model_dir, tmp_path):
    places = ("a/x.jpg", "b/x.jpg", "b/X.jpg", "b/x-2.jpg", f"c/{PREDICTIONS}.png")
    inputs = [picture(tmp_path / place, seed=index) for index, place in enumerate(places)]
    result, rows = predict(inputs, model_dir, tmp_path / "out")
    drawn = [path.name for path in result.pictures]
    assert len({name.casefold() for name in drawn}) == len(places)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*drawn, PREDICTIONS])
    assert list(dict.fromkeys(row["file_name"] for row in rows)) == drawn


def test_nothing_outside_the_output_folder_changes(model_dir, tmp_path):
    outside = picture(tmp_path / "outside.jpg")
    source = picture(tmp_path / "in" / "x.jpg", seed=1)
    output = tmp_path / "out"
    output.mkdir()
    (output / "x.jpg").symlink_to(outside)
    (output / PREDICTIONS).symlink_to(tmp_path / "outside.json")
    before = outside.read_bytes(), source.read_bytes()
    predict([source], model_dir, output)
    assert (outside.read_bytes(), source.read_bytes()) == before and not (tmp_path / "outside.json").exists()
    assert not (output / "x.jpg").is_symlink()


def test_a_linked_folder_is_not_followed_out(model_dir, tmp_path):
    picture(tmp_path / "in" / "deep" / "x.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ValueError, match="outside of output_dir"):
        predict([tmp_path / "in"], model_dir, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_inputs_in_the_output_folder_survive(model_dir, tmp_path):
    source = picture(tmp_path / "x.jpg")
    before = source.read_bytes()
    with pytest.raises(ValueError, match="choose another output_dir"):
        predict([tmp_path], model_dir, tmp_path)
    assert source.read_bytes() == before


def test_folders_are_searched_and_results_left_out(model_dir, tmp_path):
    picture(tmp_path / "in" / "b.png")
    picture(tmp_path / "in" / "deep" / "a.JPG")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    for _ in range(2):  # the second time, results of the first lie there
        result, _ = predict([tmp_path / "in", tmp_path / "in" / "b.png"], model_dir, tmp_path / "in" / "out")
        assert [path.name for path in result.pictures] == ["b.png", "a.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No pictures or videos in .*empty"):
        predict([tmp_path / "empty"], model_dir, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n damaged", b"\xff\xd8\xff\xe0 cut"])
def test_unreadable_pictures_are_named_and_skipped(model_dir, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    result, rows = predict([tmp_path / "bad.png", picture(tmp_path / "good.png")], model_dir, tmp_path / "out")
    assert list(result.unreadable) == [str(tmp_path / "bad.png")] and result.unreadable[str(tmp_path / "bad.png")]
    assert {row["file_name"] for row in rows} == {"good.png"} and len(result.pictures) == 1


def test_a_cut_picture_is_unreadable(model_dir, tmp_path):
    whole = picture(tmp_path / "x.jpg", (300, 300)).read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    result, rows = predict([tmp_path / "x.jpg"], model_dir, tmp_path / "out")
    assert list(result.unreadable) == [str(tmp_path / "x.jpg")] and rows == []


def test_video_without_a_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install av"):
        list(read_pictures(Source(tmp_path / "clip.mp4", "clip.mp4")))


def test_video_frames(model_dir, tmp_path):
    av = pytest.importorskip("av", reason="PyAV, one of the two video decoders, is not installed")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(7):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (source,) = find_sources([tmp_path / "clip.mp4"])
    frames = dict(read_pictures(source, 3))
    assert list(frames) == [f"clip.mp4/frame_00000{number}.jpg" for number in (0, 3, 6)]
    assert abs(np.asarray(frames["clip.mp4/frame_000003.jpg"]).mean() - 90) < 6
    result, _ = predict([tmp_path / "clip.mp4"], model_dir, tmp_path / "out", frame_step=3, batch_size=2)
    assert [path.name for path in result.pictures] == ["frame_000000.jpg", "frame_000003.jpg", "frame_000006.jpg"]
    assert all(path.is_file() for path in result.pictures)


def test_script_and_its_exit_codes(model_dir, tmp_path):
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        script = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--model", str(model_dir)]
        command = [*script, "--output_dir", str(tmp_path / "out"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    skipped = run("--threshold", "0", good, bad)
    assert skipped.returncode == 1 and "bad.png" in skipped.stderr and "in 1 pictures" in skipped.stdout
    assert "Detecting" in skipped.stderr  # the progress bar
    wrong = run("--threshold", "2", good)
    assert wrong.returncode == 2 and "threshold=2.0" in wrong.stderr and "Traceback" not in wrong.stderr
