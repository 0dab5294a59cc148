"""The demo: what it does with uploads, without a browser; in a real one in test_demo_in_browser.py."""

import sys
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor

from ..models import SMALL_BACKBONE, TINY

gr = pytest.importorskip("gradio", reason="Gradio, of the extra `demo`, is not installed")

from transformers_samdetr.commands import demo as demo_command  # noqa: E402
from transformers_samdetr.demo import HEADERS, Demo, select, serve  # noqa: E402
from transformers_samdetr.pictures import UnreadablePictureError  # noqa: E402
from transformers_samdetr.prediction import NMS_THRESHOLD  # noqa: E402

ALL = (0.0, 100, False)
"""Threshold, max detections, merge duplicates."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    SamDetrForObjectDetection(SamDetrConfig(**TINY | {"backbone_config": SMALL_BACKBONE})).save_pretrained(folder)
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def demo(folder):
    return Demo(folder, "cpu")


def save_picture(path, size=(60, 40), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_sliders_choose_what_the_model_would_find(demo, tmp_path):
    (image, candidates), *_ = demo.detect(save_picture(tmp_path / "a.png"), *ALL)
    assert len(candidates["scores"]) == 12 * 5
    for threshold in (0.0, 0.3, 1.0):
        for top_k in (7, 100):
            for merge in (False, True):
                (expected,) = demo.detector.detect([image], threshold, top_k, NMS_THRESHOLD if merge else None)
                chosen = select(candidates, threshold, top_k, merge)
                for name, values in expected.items():
                    assert torch.equal(values, chosen[name]), (threshold, top_k, merge, name)


def test_sliders_do_not_run_the_model(demo, tmp_path, monkeypatch):
    picture, *first = demo.detect(save_picture(tmp_path / "a.png"), *ALL)
    monkeypatch.setattr(SamDetrForObjectDetection, "forward", None)
    again, few = demo.show(picture, *ALL), demo.show(picture, 1.0, 100, True)
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], few[0])
    assert first[0].size == (12 * 60, 12 * 40)  # a small picture is enlarged
    assert len(first[1]) == 60 and len(first[1][0]) == len(HEADERS) and few[1] == []
    assert demo.detect(None, *ALL) == [None, None, [], None]  # the upload is taken away


def test_explanation(demo, tmp_path):
    picture, *_ = demo.detect(save_picture(tmp_path / "a.png"), *ALL)
    figure = demo.explain(picture, *ALL)
    assert figure.width > 800 and np.asarray(figure).std() > 20
    for nothing in ((picture, 1.0, 100, True), (None, *ALL)):
        with pytest.raises(gr.Error, match="no detection to explain"):
            demo.explain(*nothing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.png cannot be read: it is empty"),
        (b"not a picture", "bad.png cannot be read: it is none of JPEG"),
        # Pillow would give it to another program
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "bad.png cannot be read: it is none of JPEG",
        ),
        (b"\x89PNG\r\n\x1a\n damaged", "bad.png cannot be read"),
    ],
)
def test_bad_uploads_are_refused_in_one_line(demo, tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UnreadablePictureError, match=message) as refused:
        demo.read(path)
    assert str(tmp_path) not in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(gr.Error, match="bad.png cannot be read"):
        demo.detect(str(path), *ALL)


def test_a_truncated_picture_is_refused_in_one_line(demo, tmp_path):
    save_picture(tmp_path / "<b>torn.jpg", (300, 300))
    content = (tmp_path / "<b>torn.jpg").read_bytes()
    (tmp_path / "<b>torn.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(gr.Error, match="&lt;b&gt;torn.jpg cannot be read: ") as refused:  # Gradio shows HTML
        demo.detect(str(tmp_path / "<b>torn.jpg"), *ALL)
    assert "\n" not in str(refused.value)


def test_limits(folder, tmp_path):
    small = Demo(folder, "cpu", max_megabytes=0.1, max_megapixels=0.05)
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    with pytest.raises(UnreadablePictureError, match="large.png cannot be read: it has 300 x 200 pixels.* most 0.05"):
        small.read(tmp_path / "large.png")
    with pytest.raises(UnreadablePictureError, match="noise.png cannot be read: it has 0.2 MB, at most 0.1"):
        small.read(save_picture(tmp_path / "noise.png", (300, 200)))
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")  # 50 kB of file
    with pytest.raises(UnreadablePictureError, match="bomb.png cannot be read: .*400000000 pixels"):
        small.read(tmp_path / "bomb.png")
    for wrong in ({"max_megabytes": 0}, {"max_megapixels": float("nan")}, {"max_megapixels": float("inf")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* must be a finite number above 0"):
            Demo(folder, "cpu", **wrong)


def test_the_page_is_served(demo, tmp_path):
    address, page = serve(demo, [save_picture(tmp_path / "example.png")], wait=False)
    try:
        text = urllib.request.urlopen(address, timeout=30).read().decode()
        for words in ("Score threshold", "Max detections", "Merge duplicates (NMS)", "at most 25 MB and 50 megapixels"):
            assert words in text
        assert "example.png" in text
    finally:
        page.close()


def test_selection_of_nothing():
    empty = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    assert len(select(empty, 0.5, 10, True)["scores"]) == 0


def test_a_missing_package_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("transformers_samdetr.demo", "gradio"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("sys.argv", ["samdetr-demo", "--model", "user/nothing"])
    with pytest.raises(SystemExit, match="2"):
        demo_command.main()
    assert "pip install 'transformers-samdetr[demo]'" in capsys.readouterr().err


def test_bad_arguments_end_in_words(monkeypatch, capsys, tmp_path):
    for arguments, words in (
        (["--model", str(tmp_path / "nothing")], "nothing"),
        (["--model", "user/x", "--examples", str(tmp_path / "none.jpg")], "there is no file"),
        (["--model", "user/x", "--max_megapixels", "0"], "max_megapixels=0.0 must be a finite number above 0"),
    ):
        monkeypatch.setattr("sys.argv", ["samdetr-demo", *arguments])
        with pytest.raises(SystemExit, match="2"):
            demo_command.main()
        assert words in capsys.readouterr().err
