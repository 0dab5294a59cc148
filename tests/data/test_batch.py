import io
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from transformers_samdetr.data.augment import make_augmentation
from transformers_samdetr.data.dataset import DetectionDataset
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.data.stream import DetectionStream

BAD = (3, 4)


def stored(index: int, size=(48, 36)) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def make_set(count: int = 10, bad: dict[int, bytes] | None = None, width: int = 48) -> Dataset:
    bad = bad or {}
    rows = [
        {
            "image": {"bytes": bad.get(i, stored(i)), "path": f"{i}.png"},
            "image_id": 100 + i,
            "width": width,
            "height": 36,
            "objects": {
                "id": [i],
                "area": [80.0],
                "bbox": [[5.0, 6.0, 10.0, 8.0]],
                "category": [0],
                "iscrowd": [0],
            },
        }
        for i in range(count)
    ]
    return Dataset.from_list(rows, features=detection_features(["thing"]))


def with_bad_pictures() -> Dataset:
    """One cut off in the middle, one of a different kind of file."""
    return make_set(bad={BAD[0]: stored(BAD[0])[:400], BAD[1]: b"<html>not found</html>"})


def fingerprints(examples) -> list:
    return [(image.tobytes(), annotations) for image, annotations in examples]


def test_what_an_index_gives_depends_on_seed_epoch_and_index_alone():
    data = make_set()
    dataset = DetectionDataset(data, make_augmentation("strong"), seed=4)
    forwards = fingerprints(dataset[i] for i in range(10))
    torch.manual_seed(123)
    assert fingerprints(dataset[i] for i in reversed(range(10)))[::-1] == forwards
    for workers in (1, 2):
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        assert fingerprints(loader) == forwards
    dataset.set_epoch(1)
    assert fingerprints(dataset[i] for i in range(10)) != forwards
    assert fingerprints([DetectionDataset(data, make_augmentation("strong"), seed=5)[0]]) != forwards[:1]


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_pictures_are_replaced_counted_and_named(caplog, workers):
    whole = DetectionDataset(make_set(), make_augmentation("strong"))
    dataset = DetectionDataset(with_bad_pictures(), make_augmentation("strong"), max_corrupt=2)
    with caplog.at_level(logging.WARNING):
        loaded = fingerprints(DataLoader(dataset, batch_size=None, num_workers=workers))
    expected = fingerprints(whole[i] for i in range(10))
    assert len(loaded) == 10
    assert [one == other for one, other in zip(loaded, expected, strict=True)] == [i not in BAD for i in range(10)]
    # the next readable picture, with the random numbers of the place asked for
    assert loaded[3][1]["image_id"] == loaded[4][1]["image_id"] == 105 and loaded[3][0] != loaded[4][0]
    assert dataset.skipped == ["image 103 (3.png)", "image 104 (4.png)"]
    if workers == 0:
        assert "Skipped image 103 (3.png) (1 of at most 2): " in caplog.text and "image 104" in caplog.text
    # the order does not matter
    again = DetectionDataset(with_bad_pictures(), make_augmentation("strong"), max_corrupt=2)
    assert fingerprints(again[i] for i in reversed(range(10)))[::-1] == loaded


def test_more_than_the_limit_is_an_error():
    dataset = DetectionDataset(with_bad_pictures(), max_corrupt=1)
    loader = DataLoader(dataset, batch_size=None)
    message = r"2 pictures cannot be used, more than max_corrupt=1: image 10[34].*samdetr-check"
    with pytest.raises(RuntimeError, match=message):
        list(loader)
    with pytest.raises(RuntimeError, match="None of the pictures"):
        DetectionDataset(make_set(2, bad={0: b"", 1: b""}))[0]


def test_boxes_of_another_size_are_not_used():
    dataset = DetectionDataset(make_set(width=96), max_corrupt=0)
    with pytest.raises(RuntimeError, match="has 48x36 pixels as displayed, but is annotated with 96x36"):
        dataset[0]


def test_streams():
    data = with_bad_pictures()
    stream = DetectionStream(data.to_iterable_dataset(num_shards=2), make_augmentation("strong"), max_corrupt=2)
    loaded = {annotations["image_id"]: (image.tobytes(), annotations) for image, annotations in stream}
    assert sorted(loaded) == [100 + i for i in range(10) if i not in BAD] and len(stream.unusable) == 2
    assert len(list(stream)) == 8 and len(stream.unusable) == 2  # the same ones again count once
    with pytest.raises(RuntimeError, match="2 pictures cannot be used, more than max_corrupt=1"):
        list(DetectionStream(data.to_iterable_dataset(), max_corrupt=1))
    whole = make_set().to_iterable_dataset(num_shards=2)
    one = DetectionStream(whole.shuffle(seed=0, buffer_size=4), make_augmentation("strong"))
    by_id = {a["image_id"]: (i.tobytes(), a) for i, a in DataLoader(one, batch_size=None, num_workers=2)}
    assert len(by_id) == 10 and all(by_id[image_id] == example for image_id, example in loaded.items())
    first = [annotations["image_id"] for _, annotations in one]
    assert first == [annotations["image_id"] for _, annotations in one] and first != sorted(first)
    one.set_epoch(1)
    assert [annotations["image_id"] for _, annotations in one] != first
    with pytest.raises(TypeError, match="streams go into DetectionStream"):
        DetectionDataset(whole)


def test_a_loop_over_the_set_ends():
    assert [annotations["image_id"] for _, annotations in DetectionDataset(make_set(3))] == [100, 101, 102]
    with pytest.raises(IndexError, match="index=3 is none of 0 to 2"):
        DetectionDataset(make_set(3))[3]
