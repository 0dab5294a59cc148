"""Prediction: whatever lies in a folder is drawn or named as unreadable; nothing outside of the output is written."""

import functools
import json
import os
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.prediction import Detector, predict_files
from transformers_samdetr.prediction.sources import Source, find_sources, read_pictures
from transformers_samdetr.prediction.writers import OutputFolder

from ..fuzzing import BOMBS, PICTURES, STRIPS, ends_well, fuzz, run_cases, tree, whole_pictures
from ..models import SMALL_BACKBONE, tiny_model

NAMES = [
    "a.jpg",
    "b.PNG",
    "deep/c.jpeg",
    "…/ü ñ.webp",
    "new\nline.png",
    "x" * 200 + ".jpg",
    "x" * 251 + ".jpg",
    "d.gif",
]
NAMES += ["predictions.json.png", "e.mp4", "-f.jpg", "%s.png", "\udcff.jpg"]


def clip(frames: int) -> bytes:
    av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(changed) - 1))
        changed[place : place + 2] = draw(st.binary(min_size=2, max_size=2))
    return bytes(changed)


@fuzz(many=200)
def test_reading(tmp_path, examples):
    video = clip(3)

    def check(case):
        name, content = case
        file = tmp_path / ("clip.mp4" if name == "clip" else "picture.jpg")
        file.write_bytes(content)
        try:
            pictures = list(read_pictures(Source(file, file.name), 2))
        except Exception as error:  # as `predict_files` takes them: decoders of videos raise all kinds
            assert name == "clip" or str(file) in str(error)
            return
        assert all(one.image.mode == "RGB" and one.image.width for one in pictures)

    cases = st.tuples(st.just("picture"), PICTURES) | st.tuples(st.just("clip"), damaged(video))
    run_cases("prediction, reading", cases, check, examples)


@fuzz(few=10, many=300)
def test_names_of_outputs(tmp_path, examples):
    """Whatever a picture is called, it is written below the output folder or refused."""
    image = Image.new("RGB", (2, 2))
    (tmp_path / "elsewhere").mkdir()

    def check(names):
        output = OutputFolder(tmp_path / "out")
        for name in names:
            write = functools.partial(output.write_picture, image, name)
            written = ends_well(write, "output_dir", str(tmp_path / "out"), expected=(ValueError, OSError))
            if written is not None:
                assert (tmp_path / "out" / written).resolve().is_relative_to((tmp_path / "out").resolve())
        assert set(os.listdir(tmp_path)) <= {"out", "elsewhere"} and not os.listdir(tmp_path / "elsewhere")

    # as `find_sources` makes them: relative, of names that a file can have, some of them no UTF-8
    part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
    part = part | st.sampled_from(["\udcff", "a\udc80.jpg"])
    part = part.filter(lambda text: text not in (".", "..")) | st.sampled_from(["…", "a b", "x" * 240])
    names = st.lists(part, min_size=1, max_size=3).map("/".join) | st.sampled_from(
        ["../x.jpg", "../../elsewhere/x.png"]
    )
    names = names | names.map(lambda name: name + ".jpg")
    run_cases("prediction, names", st.lists(names, max_size=4), check, examples)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model(backbone_config=SMALL_BACKBONE).save_pretrained(folder)
    SamDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


@fuzz(few=2, many=120)
def test_folders(model_dir, tmp_path, examples):
    picture = whole_pictures()[0]

    def check(files):
        folder, output = tmp_path / "in", tmp_path / "out"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / "whole.jpg").parent.mkdir(exist_ok=True)
        (folder / "whole.jpg").write_bytes(picture)
        if not (folder / "pipe.jpg").exists():
            os.mkfifo(folder / "pipe.jpg")
            (folder / "zero.jpg").symlink_to("/dev/zero")
            (folder / "round").symlink_to(folder)
        before = {name: state for name, state in tree(tmp_path).items() if not name.startswith("out")}
        result = predict_files([folder], model_dir, output, threshold=0.0, top_k=2, batch_size=2, device="cpu")
        sources = len(find_sources([folder]))
        assert {name: state for name, state in tree(tmp_path).items() if not name.startswith("out")} == before
        assert {str(folder / "pipe.jpg"), str(folder / "zero.jpg")} <= result.unreadable.keys()
        assert len(result.pictures) + len(result.unreadable) >= sources and all(map(os.path.isfile, result.pictures))
        assert json.loads((output / "predictions.json").read_bytes()) == result.detections
        for name in files:
            os.unlink(folder / name)

    contents = PICTURES | st.sampled_from(whole_pictures())
    files = st.dictionaries(st.sampled_from(NAMES), contents, max_size=4)
    run_cases("prediction, folders", files, check, examples)


# what was found, one by one


@pytest.fixture
def results(model_dir, tmp_path):
    def predict(**files):
        for name, content in files.items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(content)
        return predict_files([tmp_path / "in"], model_dir, tmp_path / "out", threshold=0.0, top_k=2, device="cpu")

    return predict


def test_names_that_are_no_utf8_and_names_as_long_as_they_can_be(results, tmp_path):
    names = ["\udcff.jpg", "x" * 251 + ".jpg"]
    result = results(**dict.fromkeys(names, whole_pictures()[0]))
    assert not result.unreadable and sorted(path.name for path in result.pictures) == sorted(names)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert {row["file_name"] for row in rows} == set(names)


def test_pictures_of_any_shape_and_bombs(results):
    result = results(**{f"{index}.png": content for index, content in enumerate([*STRIPS, *BOMBS])})
    assert sorted(Path(path).name for path in result.unreadable) == ["3.png", "4.png", "5.png", "6.png", "7.png"]
    assert all("cannot be read" not in reason for reason in result.unreadable.values())  # said once, not twice
    assert [Image.open(path).size for path in result.pictures] == [(1, 1), (20000, 1), (1, 20000)]
    assert all(torch.tensor(row["bbox"]).isfinite().all() for row in result.detections)


def test_a_strip_is_not_enlarged_beyond_bounds(model_dir):
    detector = Detector(model_dir, device="cpu")
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    assert detector.draw(Image.new("RGB", (20000, 1)), nothing, shortest_side=400).size == (20000, 1)
    assert detector.draw(Image.new("RGB", (100, 50)), nothing, shortest_side=400).size == (800, 400)
