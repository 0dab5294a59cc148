import json

import numpy as np
import pytest
import torch

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.augment import make_augmentation
from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.data.load import load_detection_data
from transformers_samdetr.evaluation import CocoEvaluator
from transformers_samdetr.training import Recipe, Trainer

from ..coco_by_hand import coco_by_hand
from ..detection_folders import coco_content, save_picture
from ..models import tiny_model


@pytest.fixture(scope="module")
def scenes():
    return build_digit_scenes(num_train=4, num_eval=3, size=96, seed=3)


def test_scenes_are_a_function_of_the_seed(scenes):
    again = build_digit_scenes(num_train=2, num_eval=1, size=96, seed=3)
    assert again["train"][1]["objects"] == scenes["train"][1]["objects"]
    assert np.array_equal(np.asarray(again["train"][1]["image"]), np.asarray(scenes["train"][1]["image"]))
    other = build_digit_scenes(num_train=1, num_eval=1, size=96, seed=4)
    assert other["train"][0]["objects"] != scenes["train"][0]["objects"]
    for example in scenes["train"]:
        for x, y, w, h in example["objects"]["bbox"]:
            assert 0 <= x and 0 <= y and x + w <= 96 and y + h <= 96 and min(w, h) > 0


def test_scenes_too_small_are_refused():
    with pytest.raises(ValueError, match="size=32"):
        build_digit_scenes(size=32)


def test_training_saves_a_model_that_loads(scenes, tmp_path):
    model = tiny_model(num_labels=10)
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    recipe = Recipe(epochs=1, batch_size=2)
    before = model.class_heads[0].weight.detach().clone()
    metrics = Trainer(model, processor, scenes["train"], scenes["validation"], recipe, tmp_path).train()
    assert 0 <= metrics["AP"] <= 100
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["epoch"] == 1 and line["train_loss"] > 0
    loaded = type(model).from_pretrained(tmp_path)
    assert not torch.equal(loaded.class_heads[0].weight, before)
    assert torch.equal(loaded.class_heads[0].weight, model.class_heads[0].weight)


def test_batches_hold_what_the_model_takes(scenes):
    dataset = DetectionDataset(scenes["train"], make_augmentation("strong"))
    batch = DetectionCollator(SamDetrImageProcessor(size={"height": 64, "width": 64}))([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 3, 64, 64) and set(batch) == {"pixel_values", "pixel_mask", "labels"}
    first = dataset[0][0].tobytes()
    assert dataset[0][0].tobytes() == first


def test_areas_and_boxes_are_those_of_the_json_to_the_last_digit(tmp_path):
    """At COCO's limits (32² and 96² pixels), and with IoUs at its thresholds, rounding would change AP."""
    content = coco_content(6)
    areas = [1024.0000001, 1024.0, 1023.9999999, 9216.0000001, 9216.0, 9215.9999999]
    boxes = [[0.1, 0.2, 10.123456789012345, 20.2], [1 / 3, 2 / 3, 8.1, 9.7]] * 3
    found = []
    for annotation, area, box in zip(content["annotations"], areas, boxes, strict=True):
        annotation |= {"area": area, "bbox": box}
        x, y, width, height = box
        # three quarters of the box, but for what float32 would round off
        corners = [x, y, x + width, y + 0.75 * height]
        box = [x, y, corners[2] - x, corners[3] - y]
        category = annotation["category_id"]
        found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": 0.9})
        found[-1]["corners"] = corners
    for image in content["images"]:
        save_picture(tmp_path / image["file_name"], seed=image["id"])
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    data = load_detection_data(tmp_path)
    evaluator = CocoEvaluator(data.names)
    for (_, annotations), expected, detection in zip(
        DetectionDataset(data.evaluation), content["annotations"], found, strict=True
    ):
        (annotation,) = annotations["annotations"]
        assert annotation["area"] == expected["area"] and annotation["bbox"] == expected["bbox"]
        label = data.category_ids.index(detection["category_id"])
        result = {"scores": [0.9], "labels": [label], "boxes": [detection["corners"]]}
        evaluator.add(annotations["image_id"], result, annotations["annotations"])
    by_hand = coco_by_hand(content, found)
    assert np.array_equal(evaluator.result().coco.stats, by_hand.stats)
    assert np.array_equal(evaluator.result().coco.precision, by_hand.eval["precision"])
    # what rounding would do is seen: an area of 1024 is small and medium, one a little larger is medium alone
    rounded = json.loads(json.dumps(content))
    for annotation in rounded["annotations"]:
        annotation["area"] = float(np.float32(annotation["area"]))
    assert not np.array_equal(coco_by_hand(rounded, found).stats, by_hand.stats)
