"""The demo: what it does with uploads, without a browser; and in a real one, in the slow tests."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor

from ..models import SMALL_BACKBONE, TINY

pytest.importorskip("gradio", reason="Gradio, of the extra `demo`, is not installed")

from transformers_samdetr.commands import demo as demo_command  # noqa: E402
from transformers_samdetr.demo import UploadLimits, session  # noqa: E402
from transformers_samdetr.demo.page import build_page, serve  # noqa: E402
from transformers_samdetr.demo.session import (  # noqa: E402
    KEPT_SECONDS,
    Choice,
    Downloads,
    ServedModel,
    UploadError,
    read_upload,
)
from transformers_samdetr.prediction import NMS_THRESHOLD  # noqa: E402

ALL = Choice(threshold=0.0, top_k=100, merge_duplicates=False)


def save_model(folder, seed=0, **fields):
    torch.manual_seed(seed)
    SamDetrForObjectDetection(SamDetrConfig(**{**TINY, "backbone_config": SMALL_BACKBONE, **fields})).save_pretrained(
        folder
    )
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    plain = {"query_resampling": "none"}
    return [
        ServedModel(save_model(folder / "with"), "cpu"),
        ServedModel(save_model(folder / "without", seed=1, **plain), "cpu"),
    ]


def save_picture(path, size=(60, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_sliders_choose_what_the_model_would_find(models, tmp_path):
    image = Image.open(save_picture(tmp_path / "a.png"))
    candidates, _ = models[0].candidates(image)
    assert len(candidates["scores"]) == 12 * 5
    for threshold in (0.0, 0.3, 1.0):
        for top_k in (7, 100):
            for merge in (False, True):
                nms = NMS_THRESHOLD if merge else None
                (expected,) = models[0].detector.detect([image], threshold, top_k, nms)
                chosen = Choice(threshold, top_k, merge).select(candidates)
                for name, values in expected.items():
                    assert torch.equal(values, chosen[name]), (threshold, top_k, merge, name)


def test_sliders_do_not_run_the_model(models, tmp_path, monkeypatch):
    pictures, notes = session.read_pictures([save_picture(tmp_path / "a.png")], models, UploadLimits())
    assert notes == [] and len(pictures) == 1
    monkeypatch.setattr(SamDetrForObjectDetection, "forward", None)
    few, many = (session.draw(pictures[0], models, Choice(threshold, 100, True)) for threshold in (1.0, 0.0))
    assert [np.array_equal(*map(np.asarray, pair)) for pair in zip(few, many, strict=True)] == [False, False]
    assert session.describe(pictures[0], models, Choice(1.0, 100, True))[0].startswith("with: 0 detections, ")


def test_download_has_the_rows_of_predict(models, tmp_path):
    paths = [save_picture(tmp_path / f"{name}.png", seed=index) for index, name in enumerate("ab")]
    pictures, _ = session.read_pictures(paths, models[:1], UploadLimits())
    rows = session.rows(pictures, models[:1], Choice(0.0, 3, False))
    assert [(row["image_id"], row["file_name"]) for row in rows] == [(1, "a.png")] * 3 + [(2, "b.png")] * 3
    assert set(rows[0]) == {"image_id", "file_name", "category_id", "category_name", "bbox", "score"}
    both, _ = session.read_pictures(paths[:1], models, UploadLimits())
    assert {row["model"] for row in session.rows(both, models, ALL)} == {"with", "without"}
    downloads = Downloads()
    path = Path(downloads.write(rows))
    assert json.loads(path.read_text()) == rows and path.name == "predictions.json"
    assert downloads.write(rows) == str(path) != downloads.write(rows[:1])
    old = time.time() - KEPT_SECONDS - 1
    os.utime(path.parent, (old, old))
    downloads.write([])
    assert not path.exists()


def test_a_click_explains_the_box_below_it(models, tmp_path):
    pictures, _ = session.read_pictures([save_picture(tmp_path / "a.png")], models, UploadLimits())
    boxes = ALL.select(pictures[0].candidates[1])["boxes"]
    times = session.draw(pictures[0], models, ALL)[1].width / pictures[0].image.width
    assert times == 12  # a small picture is enlarged, and the click is on that
    x, y = (times * (boxes[0, :2] + boxes[0, 2:]) / 2).tolist()
    figure = session.explain(pictures[0], models, ALL, 1, x, y)
    assert figure.width > 800 and np.asarray(figure).std() > 20
    assert session.explain(pictures[0], models, Choice(1.0, 100, True), 0, x, y) is None  # nothing is drawn there


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.png is empty"),
        (b"not a picture", "bad.png cannot be read: it is none of JPEG"),
        # Pillow would give it to another program
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "bad.png cannot be read: it is none of JPEG",
        ),
        (b"\x89PNG\r\n\x1a\n damaged", "bad.png cannot be read"),
    ],
)
def test_bad_uploads_are_refused_in_words(tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UploadError, match=message) as refused:
        read_upload(path, UploadLimits())
    assert str(tmp_path) not in str(refused.value)


def test_limits(models, tmp_path):
    large = save_picture(tmp_path / "large.png", (300, 200))
    with pytest.raises(UploadError, match="large.png has 300 x 200 pixels.* at most 0.05"):
        read_upload(large, UploadLimits(megapixels=0.05))
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(bomb)  # 50 kB of file
    with pytest.raises(UploadError, match="bomb.png cannot be read: .*400000000 pixels"):
        read_upload(bomb, UploadLimits())
    paths = [save_picture(tmp_path / f"{index}.png") for index in range(4)]
    pictures, notes = session.read_pictures([*paths, str(tmp_path / "notes.txt")], models[:1], UploadLimits(pictures=2))
    assert [one.name for one in pictures] == ["0.png", "1.png"]
    assert notes == ["1 file is no picture.", "Only the first 2 of 4 pictures are shown."]
    pictures, notes = session.read_pictures(paths, models[:1], UploadLimits(seconds=1e-9))
    assert pictures == [] and notes == ["Stopped after 1e-09 s, before 0.png."]
    pictures, notes = session.read_pictures([large, paths[0]], models[:1], UploadLimits(megapixels=0.05))
    assert len(pictures) == 1 and "large.png" in notes[0]
    for wrong in ({"pictures": 0}, {"seconds": float("nan")}, {"megapixels": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            UploadLimits(**wrong)


def test_only_what_can_be_shown_is_served(tmp_path):
    with pytest.raises(ValueError, match="at least one model"):
        build_page([], UploadLimits())
    with pytest.raises((OSError, ValueError)):
        ServedModel(tmp_path / "nothing")


def test_the_page_is_served(models):
    address, page = serve(models[:1], UploadLimits(pictures=3), wait=False)
    try:
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        for words in ("Score threshold", "Max detections", "Merge duplicates (NMS)", "At most 3 pictures of 25 MB"):
            assert words in text
    finally:
        page.close()


def test_selection_of_nothing():
    empty = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    assert len(Choice(0.5, 10, True).select(empty)["scores"]) == 0


def test_a_missing_package_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("transformers_samdetr.demo.p", "gradio"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("sys.argv", ["samdetr-demo", "--model", "user/nothing"])
    with pytest.raises(SystemExit, match="2"):
        demo_command.main()
    assert "pip install 'transformers-samdetr[demo]'" in capsys.readouterr().err


def test_bad_arguments_end_in_words(monkeypatch, capsys, tmp_path):
    for arguments, words in (
        (["--model", str(tmp_path / "nothing")], "nothing"),
        (["--model", "user/x", "--max_pictures", "0"], "pictures=0 must be a finite number above 0"),
    ):
        monkeypatch.setattr("sys.argv", ["samdetr-demo", *arguments])
        with pytest.raises(SystemExit, match="2"):
            demo_command.main()
        assert words in capsys.readouterr().err
