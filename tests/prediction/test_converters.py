"""Detections for supervision and FiftyOne, where they are installed."""

import sys

import numpy as np
import pytest
import torch

from transformers_samdetr.prediction import to_fiftyone, to_supervision
from transformers_samdetr.prediction.converters import relative_boxes

NAMES = {0: "cat", 1: "dog", 2: "bird"}
FOUND = {
    "scores": torch.tensor([0.9, 0.25]),
    "labels": torch.tensor([2, 0]),
    "boxes": torch.tensor([[-4.0, 8.0, 60.0, 40.0], [10.0, 10.0, 20.0, 30.0]]),
}
NOTHING = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}


def test_supervision():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    detections = to_supervision(FOUND, NAMES)
    assert isinstance(detections, supervision.Detections) and len(detections) == 2
    assert np.array_equal(detections.xyxy, FOUND["boxes"].numpy())
    assert detections.class_id.tolist() == [2, 0] and detections.data["class_name"].tolist() == ["bird", "cat"]
    assert detections.confidence.tolist() == pytest.approx([0.9, 0.25])
    assert len(to_supervision(NOTHING, NAMES)) == 0
    drawn = supervision.BoxAnnotator().annotate(np.zeros((50, 80, 3), np.uint8), detections)
    assert drawn.any()
    assert len(detections[detections.confidence > 0.5]) == 1


def test_fiftyone():
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    detections = to_fiftyone(FOUND, NAMES, (40, 80))
    assert isinstance(detections, fiftyone.Detections) and len(to_fiftyone(NOTHING, NAMES, (40, 80)).detections) == 0
    first, second = detections.detections
    assert (first.label, second.label) == ("bird", "cat") and second.confidence == 0.25
    assert first.bounding_box == [0.0, 0.2, 0.75, 0.8] and second.bounding_box == [0.125, 0.25, 0.125, 0.5]


def test_boxes_as_shares_of_the_picture():
    assert relative_boxes(FOUND["boxes"], (40, 80)) == [[0.0, 0.2, 0.75, 0.8], [0.125, 0.25, 0.125, 0.5]]
    assert relative_boxes(NOTHING["boxes"], (40, 80)) == []


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        to_supervision(FOUND, NAMES)
    with pytest.raises(ImportError, match="pip install fiftyone"):
        to_fiftyone(FOUND, NAMES, (40, 80))
