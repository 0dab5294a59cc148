import numpy as np
import pytest

from transformers_samdetr.evaluation import CocoEvaluator
from transformers_samdetr.evaluation.matching import ERROR_KINDS, ErrorKinds

from ..coco_by_hand import scattered
from .test_coco_evaluator import evaluate, random_set, through_corners

# what tidecv 1.0.1, the authors' package, gives for these sets: number of errors and ΔAP in points
TIDE = [
    ([5, 32, 8, 13, 21, 4], [3.66, 16.24, 1.21, 1.87, 7.54, 5.94]),
    ([11, 22, 9, 21, 17, 0], [5.91, 16.49, 3.21, 2.49, 5.22, 0.0]),
    ([3, 14, 4, 12, 17, 2], [6.76, 9.78, 0.05, 0.17, 7.46, 0.86]),
    ([8, 19, 5, 20, 22, 1], [7.94, 2.83, 2.84, 1.67, 8.42, 2.26]),
]


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_tides_authors(seed):
    truth = random_set(seed, with_crowd=False)  # tidecv counts detections on crowd regions as errors, COCO does not
    image_ids = [image["id"] for image in truth["images"]]
    present = sorted({annotation["category_id"] for annotation in truth["annotations"]})
    detections = through_corners(scattered(truth["annotations"] * 2, image_ids, present, seed))
    for index, detection in enumerate(detections):  # the order of equal scores is not defined
        detection["score"] = (index * 37 % len(detections) + 1) / (len(detections) + 2)
    result = evaluate(truth, detections).result()
    counts, gains = TIDE[seed]
    assert [result.error_counts[kind] for kind in ERROR_KINDS] == counts
    assert [100 * result.error_gains[kind] for kind in ERROR_KINDS] == pytest.approx(gains, abs=0.011)


CAT, DOG = 0, 1


def one_image(found: list[tuple], truth: list[tuple], **options) -> CocoEvaluator:
    """Detections (label, score, x1, y1, x2, y2) and objects (label, x, y, width, height, iscrowd)."""
    evaluator = CocoEvaluator(["cat", "dog"], **options)
    result = {
        "labels": [row[0] for row in found],
        "scores": [row[1] for row in found],
        "boxes": [row[2:] for row in found],
    }
    annotations = [{"category_id": row[0], "bbox": row[1:5], "iscrowd": row[5]} for row in truth]
    evaluator.add("only", result, annotations, position=5)
    return evaluator


FOUND = [
    (CAT, 0.90, 0, 0, 10, 10),  # the cat
    (CAT, 0.80, 0, 0, 10, 9),  # again
    (DOG, 0.70, 20, 0, 30, 10),  # a cat
    (CAT, 0.60, 45, 0, 55, 10),  # half of a cat
    (DOG, 0.50, 45, 0, 55, 10),  # half of a cat, as a dog
    (DOG, 0.40, 90, 90, 99, 99),  # nothing
    (CAT, 0.30, 70, 70, 75, 75),  # in the crowd
]
TRUTH = [
    (CAT, 0, 0, 10, 10, 0),
    (CAT, 20, 0, 10, 10, 0),
    (CAT, 40, 0, 10, 10, 0),
    (DOG, 60, 0, 10, 10, 0),  # not found
    (CAT, 60, 60, 30, 30, 1),
]


def test_each_kind_of_error():
    evaluator = one_image(FOUND, TRUTH)
    result = evaluator.result()
    found, truth = result.found, result.truth
    kinds = {round(float(row["score"]), 2): ErrorKinds(row["error"]).name for row in found}
    assert kinds == {
        0.9: "CORRECT",
        0.8: "DUPLICATE",
        0.7: "CLASSIFICATION",
        0.6: "LOCALISATION",
        0.5: "BOTH",
        0.4: "BACKGROUND",
        0.3: "IGNORED",
    }
    assert truth["missed"].tolist() == [False, False, False, True, False]
    assert all(evaluator.result().error_counts[kind] == 1 for kind in ERROR_KINDS)


def test_confusion_by_hand():
    result = one_image(FOUND, TRUTH).result()
    # rows: cat, dog, background; columns: as cat, as dog, missed
    assert result.confusion(0.35).tolist() == [[1, 1, 1], [0, 0, 1], [2, 2, 0]]
    assert result.confusion(0.75).tolist() == [[1, 0, 2], [0, 0, 1], [1, 0, 0]]
    assert result.confusion(0.95).tolist() == [[0, 0, 3], [0, 0, 1], [0, 0, 0]]
    assert result.confusion(0.0)[2].tolist() == [2, 2, 0]  # what lies on the crowd does not count


def test_thresholds_by_hand():
    scores, precision, recall, f1 = one_image(FOUND, TRUTH).result().threshold_curves()
    assert scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    assert recall.tolist() == [1 / 4] * 6 and f1[0] == pytest.approx(2 / 5)
    assert one_image(FOUND, TRUTH).result().best_threshold() == 0.9
    assert one_image(FOUND, TRUTH).result().useful_threshold() == 0.899  # scores above it, 0.9 among them
    assert one_image([], TRUTH).result().useful_threshold() is None
    assert one_image([], TRUTH).result().best_threshold() == one_image(FOUND[5:6], TRUTH).result().best_threshold() == 1
    equal = one_image([(CAT, 0.5, 0, 0, 10, 10), (CAT, 0.5, 90, 0, 99, 9)], TRUTH).result()
    assert [len(values) for values in equal.threshold_curves()] == [1] * 4 and equal.threshold_curves()[1][0] == 1 / 2


def test_the_worst_pictures_are_kept_in_order():
    evaluator = CocoEvaluator(["cat"], worst=2)
    for image_id, score in ((4, 0.5), (3, 0.9), (2, 0.5), (1, 0.1)):
        evaluator.add(image_id, {"labels": [0], "scores": [score], "boxes": [[0, 0, 9, 9]]}, [], position=image_id)
    worst = evaluator.result().worst
    assert [(picture.image_id, picture.position) for picture in worst[ErrorKinds.BACKGROUND]] == [(3, 3), (2, 2)]
    assert not any(worst[kind] for kind in ERROR_KINDS if kind != ErrorKinds.BACKGROUND)
    missed = one_image([], TRUTH).result().worst[ErrorKinds.MISSED][0]
    assert missed.cost == 4 and np.array_equal(missed.objects.boxes[0], [0, 0, 10, 10])


def test_half_of_an_object_that_is_found_already_is_a_fault_of_place():
    evaluator = one_image([(CAT, 0.9, 0, 0, 10, 10), (CAT, 0.8, 0, 0, 10, 5)], [(CAT, 0, 0, 10, 10, 0)])
    kinds = [ErrorKinds(row["error"]).name for row in evaluator.result().found]
    assert sorted(kinds) == ["CORRECT", "LOCALISATION"]
