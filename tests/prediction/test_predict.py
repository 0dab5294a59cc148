"""Prediction on files, folders and videos: what is written, where, and what happens to damaged inputs."""

import html
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.commands import predict as predict_command
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.prediction import (
    FORMATS,
    KINDS,
    NMS_THRESHOLD,
    Detector,
    about_duplicates,
    choose_threshold,
    predict_files,
)
from transformers_samdetr.prediction.prediction_page import PredictionPage
from transformers_samdetr.prediction.sources import Source, find_sources, read_pictures

from ..models import SMALL_BACKBONE, TINY, tiny_model

ROOT = Path(__file__).parents[2]
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
    options = {"threshold": 0.0, "top_k": 3, "device": "cpu", "nms_threshold": None} | options
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


def test_the_threshold_is_chosen_and_explained(model_dir, tmp_path):
    source = picture(tmp_path / "one.png")
    result, rows = predict([source], model_dir, tmp_path / "out", threshold=None)
    assert result.threshold.value == 0.3 and "default" in str(result.threshold)
    assert all(row["score"] > 0.3 for row in rows)

    config = SamDetrConfig.from_pretrained(model_dir)
    for saved, used in ((0.004, 0.004), (None, 0.3), (1.0, 0.3), ("high", 0.3), (float("nan"), 0.3)):
        config.detection_threshold = saved
        assert choose_threshold(config).value == used
    config.detection_threshold = 0.42
    assert "best F1" in str(choose_threshold(config)) and str(choose_threshold(config, 0.1)) == (
        "Scores above 0.1: as asked for."
    )
    assert type(config).from_dict(config.to_dict()).detection_threshold == 0.42


def test_duplicates_are_shown_once_and_it_is_said(model_dir, tmp_path):
    source = picture(tmp_path / "one.png")
    _, all_of_them = predict([source], model_dir, tmp_path / "out", top_k=100)
    _, once = predict([source], model_dir, tmp_path / "out", top_k=100, nms_threshold=0.01)
    assert len(once) < len(all_of_them)
    assert [row for row in all_of_them if row in once] == once  # nothing but left out
    default = inspect.signature(predict_files).parameters["nms_threshold"].default
    assert default == NMS_THRESHOLD == 0.7 and "0.7" in about_duplicates(default)
    assert "all boxes" in about_duplicates(None)


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
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install av"):
        list(read_pictures(Source(tmp_path / "clip.mp4", "clip.mp4")))


def test_video_frames(model_dir, tmp_path):
    av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(7):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (source,) = find_sources([tmp_path / "clip.mp4"])
    frames = list(read_pictures(source, 3))
    assert [one.name for one in frames] == [f"clip.mp4/frame_00000{number}.jpg" for number in (0, 3, 6)]
    assert [(one.frame, one.seconds) for one in frames] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert abs(np.asarray(frames[1].image).mean() - 90) < 6
    result, _ = predict([tmp_path / "clip.mp4"], model_dir, tmp_path / "out", frame_step=3, batch_size=2)
    assert [path.name for path in result.pictures] == ["frame_000000.jpg", "frame_000003.jpg", "frame_000006.jpg"]
    assert all(path.is_file() for path in result.pictures)


def test_explanations(model_dir, tmp_path):
    sources = [picture(tmp_path / "in" / "explained" / "one.png"), picture(tmp_path / "in" / "two.jpg", seed=1)]
    options = {"explain": ["heads", "boxes"], "explain_top": 2, "compare_with": model_dir}
    result, _ = predict([tmp_path / "in"], model_dir, tmp_path / "out", **options)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in result.explanations]
    kinds = ("heads-1", "heads-2", "boxes")
    files = [f"explained/{name}-{kind}.png" for name in ("two", "explained/one") for kind in kinds]
    assert sorted(names) == sorted(files) and len(sources) == len(result.pictures) == 2
    assert all(np.asarray(Image.open(path)).std() > 20 for path in result.explanations)
    nothing, _ = predict([tmp_path / "in"], model_dir, tmp_path / "out", threshold=1.0, explain=["overview"])
    assert nothing.explanations == []
    for wrong, message in (
        ({"explain": ["heat"]}, "explain='heat' must be one of overview, heads"),
        ({"explain": ["heads"], "explain_top": 0}, "explain_top=0"),
        ({"compare_with": model_dir}, "--explain heads"),
    ):
        with pytest.raises(ValueError, match=message):
            predict([tmp_path / "in"], model_dir, tmp_path / "out", **wrong)


def test_explaining_a_model_without_aligner(model_dir, tmp_path):
    torch.manual_seed(0)
    SamDetrForObjectDetection(SamDetrConfig(**TINY, query_resampling="none")).save_pretrained(tmp_path / "plain")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path / "plain")
    source = picture(tmp_path / "one.png")
    options = {"explain": ["overview"], "explain_top": 1}
    result, _ = predict([source], tmp_path / "plain", tmp_path / "out", **options)
    assert len(result.explanations) == 1
    with pytest.raises(ValueError, match="no aligner"):
        predict([source], tmp_path / "plain", tmp_path / "out", explain=["alignment"])


def test_report(model_dir, tmp_path):
    picture(tmp_path / "in" / "one <b>.png")
    picture(tmp_path / "in" / "two.jpg", (50, 90), 1)
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    page = tmp_path / "new" / "page.html"
    predict([tmp_path / "in"], model_dir, tmp_path / "out", report=page, explain=["alignment"])
    text = page.read_text(encoding="utf-8")
    assert "one &lt;b&gt;.png" in text and "one <b>.png" not in text and "bad.png" in text
    assert "Scores above 0" in text and "all boxes are shown" in text
    assert text.count("data:image/jpeg;base64,") == 4  # two pictures, and why
    outside = re.findall(r"""(?:src|href)=["'](?!data:)[^"']*|url\([^)]*\)|https?://[^"'\s<]*""", text)
    assert outside == [], "the page must need no other file"
    classes = [json.loads(html.unescape(found)) for found in re.findall(r'data-classes="([^"]*)"', text)]
    assert len(classes) == 2 and all(
        set(found) <= set("LABEL_0 LABEL_1 LABEL_2 LABEL_3 LABEL_4".split()) for found in classes
    )


def test_a_report_of_many_pictures_names_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers_samdetr.prediction.prediction_page.MAX_PICTURES", 2)
    report = PredictionPage(tmp_path / "page.html", "model")
    for index in range(4):
        report.add(f"{index}.png", Image.new("RGB", (9, 9)), ["cat"] * index)
    report.write([], {"bad.png": "it is cut"}, {3: "سيارة"})
    text = " ".join((tmp_path / "page.html").read_text(encoding="utf-8").split())
    assert text.count("<figure") == 2 and "2 more pictures are not shown" in text and "2.png (2), 3.png (3)" in text
    assert "#3 <bdi>سيارة</bdi>." in text and "bad.png cannot be read: it is cut." in text
    assert ">4</b><span>pictures<" in text and ">1</b><span>class found<" in text


def test_samples_of_a_set_and_what_training_makes_of_them(tmp_path):
    scenes = build_digit_scenes(num_train=1, num_eval=3, size=96, seed=3)["validation"]
    model = tiny_model(num_labels=10, num_denoising_groups=2, backbone_config=SMALL_BACKBONE)
    model.save_pretrained(tmp_path / "model")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path / "model")
    detector = Detector(tmp_path / "model", "cpu")
    script = runpy.run_path(str(ROOT / "scripts" / "show_predictions.py"))
    (tmp_path / "out").mkdir()
    script["draw_samples"](scenes, detector, 0.0, 2, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000.png", "001.png", "overview.png"]
    assert Image.open(tmp_path / "out" / "000.png").size == (480, 480)  # enlarged
    state = torch.get_rng_state()
    written = script["draw_training"](scenes, detector, 2, tmp_path / "out")
    assert [path.name for path in written] == ["matches.png", "denoising.png"]
    assert all(np.asarray(Image.open(path)).std() > 20 for path in written) and torch.equal(
        state, torch.get_rng_state()
    )


def test_the_command_knows_what_the_package_can_do(model_dir):
    assert (predict_command.FIGURES, predict_command.LISTS) == (KINDS, FORMATS)
    parsed = predict_command.build_parser().parse_args(["-", "--model", str(model_dir), "--output_dir", "o"])
    assert parsed.nms_threshold == NMS_THRESHOLD
    assert set(vars(parsed)) - {"json", "verbose", "debug"} <= inspect.signature(predict_files).parameters.keys()


def test_mistakes_are_one_line(model_dir, tmp_path, monkeypatch, capsys):
    for arguments, words in (
        (["--model", tmp_path / "nothing", picture(tmp_path / "a.png")], "nothing"),
        (["--model", model_dir, tmp_path / "empty*.png"], "there is no file"),
        (["--model", model_dir, tmp_path / "a.pgn"], f"there is no file {tmp_path / 'a.pgn'}; did you mean"),
        (["--model", model_dir, "--max_frames", "0", tmp_path / "a.png"], "max_frames=0 must be at least 1"),
    ):
        monkeypatch.setattr("sys.argv", ["samdetr-predict", "--output_dir", *map(str, [tmp_path / "out", *arguments])])
        try:
            code = predict_command.main()
        except SystemExit as error:
            code = error.code
        shown = capsys.readouterr().err
        assert code == 2 and words in shown and "Traceback" not in shown and shown.count("\n") <= 2
        assert "Loading weights" not in shown


def test_script_and_its_exit_codes(model_dir, tmp_path):
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        script = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--model", str(model_dir)]
        command = [*script, "--output_dir", str(tmp_path / "out"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    page = tmp_path / "page.html"
    more = ("--nms_threshold", "none", "--explain", "--explain_top", "1", "--report", page)
    skipped = run("--threshold", "0", *more, good, bad)
    assert skipped.returncode == 1 and f"{bad} cannot be read: " in skipped.stderr and "in 1 picture:" in skipped.stdout
    assert "Detecting" in skipped.stderr  # the progress bar
    assert "Scores above 0: as asked for." in skipped.stdout and "all boxes are shown" in skipped.stdout
    assert "1 figure: " in skipped.stdout and page.is_file() and f"Report: {page}" in skipped.stdout
    wrong = run("--threshold", "2", good)
    assert wrong.returncode == 2 and "threshold=2.0" in wrong.stderr and "Traceback" not in wrong.stderr
