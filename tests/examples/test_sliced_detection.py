"""Tiles cover a picture, and an object that several of them show is found once, where it is."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_iou

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from sliced_detection import MAX_TILES, SlicedDetector, is_cut, merge_tiles, tile_boxes  # noqa: E402


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
    near = torch.tensor([[20.0, 20, 97.9, 60], [20, 20, 98.1, 60], [1.9, 20, 60, 60], [2.1, 20, 60, 60]])
    assert is_cut(near, (0, 0, 100, 100), 300, 300).tolist() == [False, True, False, False]  # 2 % of the tile
    assert is_cut(near + 50, (50, 50, 150, 150), 300, 300).tolist() == [False, True, True, False]


@pytest.mark.parametrize("wrong", [{"side": 0}, {"overlap": 1.0}, {"merge_threshold": 0.0}, {"batch_size": 0}])
def test_wrong_values(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlicedDetector(Seeing([]), **wrong)


def test_too_many_tiles_are_refused_before_any_is_cut():
    detector = Seeing([])
    with pytest.raises(ValueError, match=f"more than {MAX_TILES} tiles of side=1: give a larger side"):
        SlicedDetector(detector, side=1, overlap=0).detect(Image.new("RGB", (200, 200)), 0.5)
    assert not detector.views


class Glimpsing:
    """Finds all of which 30 % is in a view and at least 10 pixels remain after resizing to 800, a little off."""

    def __init__(self, objects: np.ndarray):
        self.objects, self.chance = objects, np.random.default_rng(0)

    def see(self, x1, y1, x2, y2, threshold=0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes in the view's pixels, scores, labels."""
        boxes = np.concatenate([self.objects[:, :2].clip([x1, y1], [x2, y2])] * 2, axis=1)
        boxes[:, 2:] = self.objects[:, 2:4].clip([x1, y1], [x2, y2])
        sides, whole = boxes[:, 2:] - boxes[:, :2], self.objects[:, 2:4] - self.objects[:, :2]
        share = sides.prod(1) / whole.prod(1)
        seen = (share > 0.3) & (sides.min(1) * min(1, 800 / max(x2 - x1, y2 - y1)) >= 10)
        boxes = boxes[seen] + self.chance.normal(0, 0.015, (seen.sum(), 4)) * np.tile(sides[seen], 2)
        scores = (0.4 + 0.4 * share[seen] + self.chance.normal(0, 0.08, seen.sum())).clip(0.01, 0.99)
        kept = scores > threshold
        return (boxes - [x1, y1, x1, y1])[kept], scores[kept], self.objects[seen, 4].astype(int)[kept]

    def detect(self, images, threshold):
        found = []
        for image in images:
            boxes, scores, labels = self.see(*place_of(image), threshold)
            boxes, scores = torch.tensor(boxes).float(), torch.tensor(scores).float()
            found.append({"boxes": boxes, "scores": scores, "labels": torch.tensor(labels)})
        return found


def place_of(view) -> tuple[int, int, int, int]:
    """Where a view of `coordinates` lies."""
    pixels = np.asarray(view).astype(int)
    x, y = divmod(int(pixels[0, 0] @ [65536, 256, 1]), 2048)
    return x, y, x + pixels.shape[1], y + pixels.shape[0]


def f1(objects, boxes, labels, scores) -> float:
    """At IoU 0.7, each object found once."""
    overlaps = box_iou(torch.as_tensor(boxes).double(), torch.tensor(objects[:, :4])).numpy()
    overlaps *= np.asarray(labels)[:, None] == objects[None, :, 4]
    right = 0
    for row in np.argsort(-np.asarray(scores)):
        best = overlaps[row].argmax()
        if overlaps[row, best] >= 0.7:
            right += 1
            overlaps[:, best] = 0
    return 2 * right / (len(boxes) + len(objects))


@pytest.mark.slow
def test_tiles_find_more_than_those_of_supervision():
    """The figures of docs/reliability.md: objects on cuts, sparse and crowded, with each filter of InferenceSlicer."""
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    width, height = 3000, 2000
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    places = x * 2048 + y  # in the three channels of each pixel
    coordinates = Image.fromarray(np.stack([places >> 16, places >> 8 & 255, places & 255], axis=-1).astype(np.uint8))
    for count, most_overlap in ((120, 0.02), (250, 0.3)):
        results: dict[str, list[float]] = {}
        for seed in range(4):
            chance, objects = np.random.default_rng(seed), np.zeros((0, 5))
            while len(objects) < count:
                side = chance.uniform(24, 100) if chance.random() < 0.93 else chance.uniform(300, 700)
                left, top = chance.uniform(0, width - side), chance.uniform(0, height - side)
                one = np.array([[left, top, left + side, top + side * chance.uniform(0.6, 1), chance.integers(2)]])
                if box_iou(torch.tensor(one[:, :4]), torch.tensor(objects[:, :4])).sum() <= most_overlap:
                    objects = np.concatenate([objects, one])
            found = SlicedDetector(Glimpsing(objects), side=640).detect(coordinates, 0.3)
            results.setdefault("ours", []).append(f1(objects, found["boxes"], found["labels"], found["scores"]))

            def look(view, detector):
                boxes, scores, labels = detector.see(*place_of(view))
                return sv.Detections(xyxy=boxes.reshape(-1, 4), confidence=scores, class_id=labels)

            for overlap_filter in (sv.OverlapFilter.NON_MAX_SUPPRESSION, sv.OverlapFilter.NON_MAX_MERGE):
                for metric in (sv.OverlapMetric.IOU, sv.OverlapMetric.IOS):
                    detector = Glimpsing(objects)
                    options = {"overlap_filter": overlap_filter, "overlap_metric": metric}
                    slicer = sv.InferenceSlicer(
                        lambda view, detector=detector: look(view, detector), slice_wh=640, overlap_wh=160, **options
                    )
                    found = slicer(np.asarray(coordinates))
                    score = f1(objects, found.xyxy, found.class_id, found.confidence)
                    results.setdefault(f"{overlap_filter.name} {metric.name}", []).append(score)
        means = {name: round(float(np.mean(scores)), 3) for name, scores in results.items()}
        print(count, "objects:", means)
        ours = means.pop("ours")
        assert ours > 0.99 and max(means.values()) < ours - 0.015


def test_a_box_is_cut_up_to_two_percent_of_a_tile_from_its_border():
    near, far = [101.9, 20, 150, 60], [102.1, 20, 150, 60]
    assert is_cut(torch.tensor([near, far]), (100, 0, 200, 100), 200, 100).tolist() == [True, False]
