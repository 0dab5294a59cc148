"""Tiles cover a picture, and an object that several of them show is found once, where it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transformers_samdetr.prediction import SlicedDetector
from transformers_samdetr.prediction.tiles import MAX_TILES, is_cut, merge_tiles, tile_boxes


class Seeing:
    """Finds every patch of one colour, as far as a view shows it, the fuller the surer; small ones only in full size.

    Args:
        objects: x1, y1, x2, y2 and label.
        longest: of a view; one that is larger is made smaller, and what then has less than 8 pixels is not seen.
    """

    def __init__(self, objects, longest=100):
        self.objects, self.longest, self.views = objects, longest, []

    def detect(self, images, threshold):
        found = []
        for image in images:
            pixels = np.asarray(image)
            self.views.append(image.size)
            rows = []
            for number, (x1, y1, x2, y2, label) in enumerate(self.objects, 1):
                ys, xs = np.nonzero(pixels[..., 0] == number)
                if len(xs) and min(x2 - x1, y2 - y1) * min(1, self.longest / max(image.size)) >= 8:
                    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                    rows.append((0.5 + 0.4 * len(xs) / ((x2 - x1) * (y2 - y1)), label, box))
            rows = sorted((row for row in rows if row[0] > threshold), key=lambda row: -row[0])
            found.append(
                {
                    "scores": torch.tensor([score for score, _, _ in rows]),
                    "labels": torch.tensor([label for _, label, _ in rows], dtype=torch.int64),
                    "boxes": torch.tensor(np.array([box for _, _, box in rows]).reshape(-1, 4), dtype=torch.float32),
                }
            )
        return found


def picture(size, objects) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for number, (x1, y1, x2, y2, _) in enumerate(objects, 1):
        pixels[y1:y2, x1:x2, 0] = number
    return Image.fromarray(pixels)


def rows_of(found) -> list[tuple]:
    boxes, labels = found["boxes"].round().int().tolist(), found["labels"].tolist()
    return sorted((*box, label) for box, label in zip(boxes, labels, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300), st.floats(0, 0.9))
def test_tiles_cover_the_picture_and_overlap(width, height, side, overlap):
    if max(width, height) / (side * (1 - overlap)) > 40:
        return  # thousands of tiles
    tiles = tile_boxes(width, height, side, overlap)
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in tiles:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        covered[y1:y2, x1:x2] = True
    assert covered.all() and len(set(tiles)) == len(tiles)
    columns = sorted({x1 for x1, *_ in tiles})
    assert all(b - a <= max(1, side * (1 - overlap)) + 1 for a, b in zip(columns, columns[1:], strict=False))


OBJECTS = [(95, 20, 110, 36, 0), (300, 200, 320, 225, 1), (80, 80, 100, 100, 0), (390, 290, 400, 300, 2)]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_objects_on_the_borders_of_tiles_are_found_once_where_they_are(batch_size):
    detector = Seeing(OBJECTS)
    sliced = SlicedDetector(detector, side=100, overlap=0.3, batch_size=batch_size)
    found = sliced.detect(picture((400, 300), OBJECTS), threshold=0.5)
    rows = {
        (*map(int, box), label) for box, label in zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True)
    }
    assert rows == set(OBJECTS) and len(found["scores"]) == len(OBJECTS)
    assert detector.views.count((100, 100)) == len(detector.views) - 1 and (400, 300) in detector.views
    # on the whole picture alone all are too small
    assert len(Seeing(OBJECTS).detect([picture((400, 300), OBJECTS)], 0.5)[0]["scores"]) == 0


def test_an_object_larger_than_a_tile_is_that_of_the_whole_picture():
    objects = [(50, 60, 330, 240, 3), (60, 10, 75, 25, 0)]
    image = picture((400, 300), objects)
    assert rows_of(SlicedDetector(Seeing(objects), side=100, overlap=0.3).detect(image, 0.5)) == sorted(objects)
    # without the whole, parts that overlap become one
    parts = SlicedDetector(Seeing(objects), side=100, overlap=0.3, whole_picture=False, merge_threshold=0.2)
    assert rows_of(parts.detect(image, 0.5)) == sorted(objects)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(12, 24), st.integers(0, 2)), max_size=8))
def test_any_scene_of_small_objects(cells):
    """One object a cell of 50 pixels, so that none touches another."""
    objects = [(x * 50 + 3, y * 50 + 5, x * 50 + 3 + side, y * 50 + 5 + side, label) for x, y, side, label in cells]
    objects = list({one[:2]: one for one in objects}.values())
    sliced = SlicedDetector(Seeing(objects), side=90, overlap=0.3, batch_size=4)
    found = sliced.detect(picture((360, 260), objects), 0.5)
    rows = [
        (*map(int, box), label) for box, label in zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True)
    ]
    assert sorted(rows) == sorted(objects)
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def test_a_small_picture_is_one_view():
    detector = Seeing(OBJECTS)
    SlicedDetector(detector, side=500).detect(Image.new("RGB", (40, 30)), 0.5)
    assert detector.views == [(40, 30)]


def found_of(rows) -> dict[str, torch.Tensor]:
    """Of rows of box, label, score and whether it is cut."""
    boxes, labels, scores, cut = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
        "cut": torch.tensor(cut, dtype=torch.bool),
    }


WHOLE, ALIKE, PART = (0, 0, 10, 10), (1, 0, 11, 10), (0, 0, 4, 10)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([], []),
        ([(WHOLE, 0, 0.9, False), (ALIKE, 0, 0.8, False)], [WHOLE]),
        ([(WHOLE, 0, 0.9, False), (ALIKE, 1, 0.8, False)], [WHOLE, ALIKE]),  # another class
        ([(PART, 0, 0.9, False), (WHOLE, 0, 0.8, False)], [PART, WHOLE]),  # a small one before a large one
        ([(PART, 0, 0.9, True), (WHOLE, 0, 0.8, False)], [WHOLE]),  # a part, though its score is higher
        ([(PART, 1, 0.9, True), (WHOLE, 0, 0.8, False)], [PART, WHOLE]),
        ([((0, 0, 10, 10), 0, 0.9, True), ((4, 0, 20, 10), 0, 0.8, True)], [(0, 0, 20, 10)]),
        # the third reaches no other part before they are one
        ([(WHOLE, 0, 0.9, True), ((12, 0, 30, 10), 0, 0.8, True), ((5, 0, 21, 10), 0, 0.7, True)], [(0, 0, 30, 10)]),
        ([((3, 3, 3, 3), 0, 0.9, True), ((3, 3, 3, 3), 0, 0.9, False)], [(3, 3, 3, 3)] * 2),  # of no area
    ],
)
def test_merging(rows, kept):
    found = merge_tiles(found_of(rows), 0.5 if rows[:1] != [(WHOLE, 0, 0.9, True)] else 0.3)
    assert sorted(map(tuple, found["boxes"].int().tolist())) == sorted(kept) and "cut" not in found
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def test_a_box_is_cut_at_borders_within_the_picture_alone():
    boxes = torch.tensor([[0.0, 0, 30, 30], [70, 10, 99, 30], [0, 60, 30, 99.5], [20, 20, 60, 60]])
    assert is_cut(boxes, (0, 0, 100, 100), 100, 100).tolist() == [False] * 4
    assert is_cut(boxes, (0, 0, 100, 100), 300, 300).tolist() == [False, True, True, False]
    assert is_cut(boxes + 50, (50, 50, 150, 150), 150, 300).tolist() == [True, False, True, False]


@pytest.mark.parametrize("wrong", [{"side": 0}, {"overlap": 1.0}, {"merge_threshold": 0.0}, {"batch_size": 0}])
def test_wrong_values(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlicedDetector(Seeing([]), **wrong)


def test_too_many_tiles_are_refused_before_any_is_cut():
    detector = Seeing([])
    with pytest.raises(ValueError, match=f"more than {MAX_TILES} tiles of side=1: give a larger side"):
        SlicedDetector(detector, side=1, overlap=0).detect(Image.new("RGB", (200, 200)), 0.5)
    assert not detector.views
