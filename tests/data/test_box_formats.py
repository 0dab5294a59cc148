import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers_samdetr.data.box_formats import (
    BOX_FORMATS,
    boxes_to_xywh,
    check_box_format,
    detect_box_format,
    xywh_to_boxes,
)


def in_format(xywh: np.ndarray, box_format: str, sizes: np.ndarray) -> np.ndarray:
    """The inverse of `boxes_to_xywh`, written down independently."""
    x, y, w, h = xywh.T
    form = box_format.removesuffix("_normalised")
    columns = {"xywh": (x, y, w, h), "xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h)}[form]
    boxes = np.stack(columns, axis=1)
    return boxes / np.tile(sizes, 2) if box_format.endswith("normalised") else boxes


def random_boxes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(200, 900, (count, 2)).astype(float)
    sides = sizes * rng.uniform(0.02, 0.9, (count, 2))
    return np.concatenate([(sizes - sides) * rng.uniform(0, 1, (count, 2)), sides], axis=1), sizes


@pytest.mark.parametrize("box_format", BOX_FORMATS)
@pytest.mark.parametrize("seed", range(5))
def test_formats_are_detected_and_converted(box_format, seed):
    xywh, sizes = random_boxes(60, seed)
    boxes = in_format(xywh, box_format, sizes)
    assert detect_box_format(boxes, sizes).box_format == box_format
    np.testing.assert_allclose(boxes_to_xywh(boxes, box_format, sizes), xywh, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8),
    st.sampled_from(BOX_FORMATS),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_conversion_is_the_inverse(shares, box_format, size):
    sizes = np.tile(np.array(size, dtype=float), (len(shares), 1))
    shares = np.array(shares)
    xywh = np.concatenate([shares[:, :2], (1 - shares[:, :2]) * shares[:, 2:]], 1) * np.tile(sizes, 2)
    boxes = in_format(xywh, box_format, sizes)
    np.testing.assert_allclose(boxes_to_xywh(boxes, box_format, sizes), xywh, atol=1e-6)
    np.testing.assert_allclose(xywh_to_boxes(xywh, box_format, sizes), boxes, atol=1e-6)


def test_a_few_wrong_boxes_do_not_matter():
    xywh, sizes = random_boxes(200, seed=1)
    xywh[:2, 2] = 5000
    assert detect_box_format(xywh, sizes).box_format == "xywh"


@pytest.mark.parametrize(("wrong", "fits"), [(4, True), (5, False)])
def test_two_percent_of_the_boxes_may_be_wrong(wrong, fits):
    xywh, sizes = random_boxes(200, seed=1)
    xywh[:wrong, 2] = 5000
    if fits:
        assert detect_box_format(xywh, sizes).wrong["xywh"] == wrong
    else:
        with pytest.raises(ValueError, match=f"fit no format: in the best one, xywh, {wrong} of 200"):
            detect_box_format(xywh, sizes)


@pytest.mark.parametrize(("against", "decided"), [(9, False), (10, True)])
def test_a_format_is_ruled_out_by_five_times_the_wrong_boxes_of_the_best(against, decided):
    """Two boxes are wrong in each format; others leave their picture as corners or centers, and not as x, y, w, h."""
    sizes = np.full((200, 2), 1000.0)
    xywh = np.tile([400.0, 400, 500, 500], (200, 1))  # possible in every format
    xywh[:2, 2] = -1
    xywh[2:against] = [10.0, 10, 300, 5]  # as corners without height, as centers beyond the left edge
    if decided:
        assert detect_box_format(xywh, sizes).box_format == "xywh"
    else:
        with pytest.raises(ValueError, match="could be xywh or xyxy or cxcywh"):
            detect_box_format(xywh, sizes)


def test_areas_decide_where_places_do_not():
    sizes = np.full((10, 2), 1000.0)
    corners = np.array([[300.0, 300, 350, 350]] * 10)
    with pytest.raises(ValueError, match="could be xywh or xyxy or cxcywh"):
        detect_box_format(corners, sizes)
    for area in (50.0 * 50, 2552):  # 2 % and a square pixel of rounding
        assert detect_box_format(corners, sizes, np.full(10, area)).box_format == "xyxy"
    with pytest.raises(ValueError, match="could be xywh or xyxy or cxcywh"):
        detect_box_format(corners, sizes, np.full(10, 2553.0))


def test_ambiguous_boxes_are_refused_with_examples():
    boxes, sizes = np.array([[100.0, 100, 20, 30]] * 50), np.full((50, 2), 500.0)
    with pytest.raises(ValueError, match=r"could be xywh or cxcywh.*\[100, 100, 20, 30\] in 500x500.*box_format="):
        detect_box_format(boxes, sizes, source="the set")


def test_impossible_boxes_are_refused_with_examples():
    boxes, sizes = np.array([[300.0, 300, 280, 270]] * 50), np.full((50, 2), 320.0)
    with pytest.raises(ValueError, match=r"the set fit no format.*\[300, 300, 280, 270\] in 320x320"):
        detect_box_format(boxes, sizes, source="the set")
    with pytest.raises(ValueError, match="fit no format"):
        detect_box_format(np.full((9, 4), np.nan), np.full((9, 2), 100.0))
    with pytest.raises(ValueError, match="no boxes"):
        detect_box_format(np.zeros((0, 4)), np.zeros((0, 2)))


def test_names_of_formats():
    assert [check_box_format(name) for name in ("yolo", "coco", "xyxy_normalized")] == [
        "cxcywh_normalised",
        "xywh",
        "xyxy_normalised",
    ]
    with pytest.raises(ValueError, match="box_format='yxyx' is none of xywh, "):
        check_box_format("yxyx")
