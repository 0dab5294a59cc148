"""Drawn detections: what is on the picture, and where the names are."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr.visualization import class_colors, draw_detections, fonts, numbered_names
from transformers_samdetr.visualization.drawing import PALETTE, LabelPlates, fit_caption, readable_on

GREY = (90, 90, 90)


def has_color(image: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(image) == color).all(-1)


def luminance(color: tuple[int, int, int]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


def test_box_lies_on_its_pixels_and_the_input_is_unchanged():
    image = Image.new("RGB", (200, 100), GREY)
    drawn = draw_detections(image, [[20, 30, 120, 90]], ["cat"], [0.9])
    assert drawn.size == image.size and drawn.mode == "RGB"
    assert has_color(image, GREY).all()
    colored = has_color(drawn, PALETTE[0])
    rows, columns = np.nonzero(colored[30:])  # below the plate
    assert (columns.min(), columns.max(), rows.max() + 30) == (20, 119, 89)
    assert colored[89, 20:120].all() and colored[30:90, 20].all() and colored[30:90, 119].all()
    assert has_color(drawn, GREY)[45:75, 35:105].all()  # nothing inside


@pytest.mark.parametrize("count", [7, 21, 49])  # all palettes' first tiers, the dark ones among them
@pytest.mark.parametrize("ground", [0, 40, 90, 128, 180, 255])
def test_boxes_show_on_every_ground(ground, count):
    """Of the colour and its two edges one has a contrast of at least 3 to 1 with the ground (WCAG 2.2, 1.4.11)."""
    for name, color in class_colors(map(str, range(count))).items():
        picture = draw_detections(
            Image.new("RGB", (90, 60), (ground,) * 3), [[20, 20, 70, 50]], [""], None, {"": color}
        )
        line = np.asarray(picture)[35, 15:30]  # across the box's left side
        contrasts = [contrast(tuple(pixel), (ground,) * 3) for pixel in line]
        assert max(contrasts) >= 3, f"class {name} {color} on {ground}: {max(contrasts):.2f}"
        assert any(contrast(tuple(pixel), color) >= 3 for pixel in line), "no edge beside the line"


def test_line_and_text_grow_with_the_picture():
    def line_and_plate(size):
        width, height = size
        box = [width // 4, height // 4, width // 2, height // 2]
        colored = has_color(draw_detections(Image.new("RGB", size), [box], ["x"]), PALETTE[0])
        return colored[height * 3 // 8, : width * 3 // 8].sum(), colored[: height // 4, width // 4].sum()

    small, large = line_and_plate((400, 400)), line_and_plate((2000, 2000))
    assert large[0] == 4 * small[0] and large[1] > 4 * small[1] > 0


def test_no_detections_give_the_picture():
    image = Image.new("L", (30, 20), 7)
    for boxes in ([], np.zeros((0, 4)), torch.zeros(0, 4)):
        assert (np.asarray(draw_detections(image, boxes, [])) == 7).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (60, 40))
    drawn = draw_detections(image, torch.tensor([[10.0, 20.0, 30.0, 35.0]]), ["a"], torch.tensor([0.5]))
    assert drawn.mode == "RGB" and has_color(drawn, PALETTE[0]).any()


def test_boxes_are_of_the_upright_picture():
    image = Image.new("RGB", (60, 40))
    image.getexif()[0x0112] = 6  # displayed after a quarter turn
    drawn = draw_detections(image, [[5, 45, 35, 58]], ["a"])
    assert drawn.size == (40, 60) and has_color(drawn, PALETTE[0])[57, 5:35].all()


def test_boxes_beyond_the_picture_are_cut_or_left_out():
    image = Image.new("RGB", (100, 80), GREY)
    cut = has_color(draw_detections(image, [[-50, -50, 150, 150]], [""]), PALETTE[0])
    assert cut[0].all() and cut[-1].all() and cut[:, 0].all() and cut[:, -1].all()
    outside = draw_detections(image, [[100, 0, 120, 20], [-20, 0, 0, 20], [0, -9, 20, -1]], ["a", "b", "c"])
    assert has_color(outside, GREY).all()
    assert not has_color(draw_detections(image, [[40, 40, 40, 40]], ["a"]), GREY).all()  # an empty box is a point


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "message"),
    [
        ([[0, 0, 1, 1]], ["a", "b"], None, r"2 labels need boxes of shape \(2, 4\), not \(1, 4\)"),
        ([[0, 0, 1]], ["a"], None, r"not \(1, 3\)"),
        ([[0, 0, 1, 1]], ["a"], [0.1, 0.2], "1 labels need scores"),
        ([[0, 0, float("nan"), 1]], ["a"], None, "'a' must be finite"),
        ([[5, 0, 1, 1]], ["a"], None, r"\[5.0, 0.0, 1.0, 1.0\] of 'a'"),
    ],
)
def test_what_does_not_fit_is_refused(boxes, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(Image.new("RGB", (9, 9)), boxes, labels, scores)
    with pytest.raises(ValueError, match="colors has no"):
        draw_detections(Image.new("RGB", (9, 9)), [[0, 0, 1, 1]], ["a"], colors={})


@pytest.mark.parametrize("count", [7, 91, 365])
def test_each_class_has_its_own_color_with_readable_text(count):
    colors = class_colors(f"class {index}" for index in range(count))
    assert len(set(colors.values())) == count
    for color in colors.values():
        bright, dark = sorted((luminance(color), luminance(readable_on(color))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_colors_stay_with_the_class():
    colors = class_colors(["cat", "dog", "cat"])
    assert list(colors) == ["cat", "dog"]
    drawn = draw_detections(Image.new("RGB", (90, 90)), [[10, 40, 60, 80]], ["dog"], colors=colors)
    assert has_color(drawn, colors["dog"]).any() and not has_color(drawn, colors["cat"]).any()


@pytest.mark.parametrize("seed", range(5))
def test_plates_stay_inside_and_apart(seed):
    chance = random.Random(seed)
    width, height = chance.randint(80, 400), chance.randint(80, 400)
    plates, placed = LabelPlates(width, height), []
    for _ in range(120):
        x1, y1 = chance.randrange(width), chance.randrange(height)
        box = x1, y1, chance.randint(x1 + 1, width), chance.randint(y1 + 1, height)
        placed.append(plates.place(box, (chance.randint(20, 70), 14)))
    canvas = np.zeros((height, width), dtype=int)
    kept = [plate for plate in placed if plate is not None]
    for x1, y1, x2, y2 in kept:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        canvas[y1:y2, x1:x2] += 1
    assert canvas.max() == 1 and len(kept) >= 5


def test_crowded_picture_keeps_one_plate_per_box_where_there_is_room(monkeypatch):
    placed = []
    place = LabelPlates.place
    monkeypatch.setattr(LabelPlates, "place", lambda *args: placed.append(place(*args)) or placed[-1])
    draw_detections(Image.new("RGB", (640, 480)), [[300, 200, 360, 260]] * 40, ["cell"] * 40, np.linspace(0, 1, 40))
    assert len(placed) == 40 and None not in placed and len(set(placed)) == 40
    assert placed[0][3] == 200 and placed[0][0] == 300  # the highest score is directly above its box


def test_long_names_are_shortened_to_the_picture():
    def text(label, width):
        caption = fit_caption(label, ": 0.50", {}, 12, width)
        assert caption is None or caption.size[0] <= width
        return caption and caption.name + caption.ending

    assert text("dining\n table", 500) == "dining table: 0.50"
    short = text("a very long name of a class", 120)
    assert short.startswith("a ") and short.endswith("…: 0.50")
    assert text("a name that goes on and on " * 9, 5000) == "a name that goes on and on a na…: 0.50"
    assert text("wide", 3) is None
    for size in ((1, 1), (3, 50), (50, 3), (25, 25)):
        assert draw_detections(Image.new("RGB", size), [[0, 0, *size]], ["a very long name"], [1]).size == size


@pytest.fixture
def no_system_fonts(monkeypatch):
    """As on a computer where only Pillow's own font is installed."""
    monkeypatch.setattr(fonts, "_font_files", lambda: ())
    fonts._font_path.cache_clear()
    yield
    fonts._font_path.cache_clear()


def test_names_without_a_font_are_numbers(no_system_fonts):
    colors = class_colors(["cat", "汽车", "行人"])
    assert numbered_names(list(colors)) == {1: "汽车", 2: "行人"}
    with pytest.warns(UserWarning, match="letters of '行人': the class is drawn as #2"):
        drawn = draw_detections(Image.new("RGB", (90, 60)), [[10, 20, 80, 50]], ["行人"], colors=colors)
    same = draw_detections(
        Image.new("RGB", (90, 60)), [[10, 20, 80, 50]], ["#2"], colors={**colors, "#2": colors["行人"]}
    )
    assert np.array_equal(np.asarray(drawn), np.asarray(same))
    with pytest.warns(UserWarning):  # without colors of all classes, different names still differ
        first, second = (
            np.asarray(draw_detections(Image.new("RGB", (90, 60)), [[10, 20, 80, 50]], [name])) for name in ("汽", "车")
        )
    assert (first != second).any()


def test_names_in_a_font_of_the_system():
    for name in ("汽车", "日本語", "سيارة", "автомобиль", "Ελληνικά"):
        path = fonts.font_path(name)
        if path is None:
            assert numbered_names(["cat", name]) == {1: name}
            continue
        font, empty = fonts.load_font(path, 20), fonts.load_font(path, 20).getmask(fonts.NO_CHARACTER, "1")
        assert path and all(bytes(font.getmask(letter, "1")) != bytes(empty) for letter in name)
    assert fonts.font_path("plain ASCII, with a space") == ""
    assert fonts.shorten("cafe\u0301 au lait", 5) == "café…"  # composed first


def test_names_at_a_low_threshold_leave_the_picture_visible():
    chance = np.random.default_rng(0)
    corners = chance.uniform(0, 1, (300, 2)) * [560, 400]
    boxes = np.concatenate([corners, corners + 60], axis=1)
    picture = Image.new("RGB", (640, 480))
    named, unnamed = (
        np.asarray(draw_detections(picture, boxes, labels, np.linspace(1, 0, 300), {"cell": (1, 2, 3), "": (1, 2, 3)}))
        for labels in (["cell"] * 300, [""] * 300)
    )
    assert (named != unnamed).any(-1).mean() < 0.16
    few = np.asarray(draw_detections(Image.new("RGB", (60, 40)), [[5, 20, 50, 38]], ["cell"], [0.5]))
    assert has_color(few, PALETTE[0])[:19].any(), "the first names are there on small pictures, too"
