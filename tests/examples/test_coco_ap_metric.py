import json
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

import transformers_samdetr

from ..coco_by_hand import coco_by_hand, scattered
from ..evaluation.test_coco_evaluator import COCO_SAMPLE, random_set, through_corners

COCO_AP_METRIC = str(Path(__file__).parents[2] / "examples" / "coco_ap")
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def inputs_of(truth: dict, detections: list[dict], image_ids=None) -> tuple[list[dict], list[dict]]:
    image_ids = [image["id"] for image in truth["images"]] if image_ids is None else image_ids
    predictions, references = [], []
    for image_id in image_ids:
        mine = [detection for detection in detections if detection["image_id"] == image_id]
        predictions.append(
            {
                "scores": [detection["score"] for detection in mine],
                "labels": [detection["category_id"] for detection in mine],
                "boxes": [detection["corners"] for detection in mine],
            }
        )
        annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image_id]
        references.append({"image_id": image_id, "annotations": annotations})
    return predictions, references


def example(seed: int = 0, **options) -> tuple[dict, list[dict]]:
    truth = random_set(seed, **options)
    image_ids = [image["id"] for image in truth["images"]]
    return truth, through_corners(scattered(truth["annotations"], image_ids, [0, 1, 2, 3], seed))


@pytest.fixture
def metric(tmp_path):
    return evaluate.load(COCO_AP_METRIC, cache_dir=str(tmp_path))


@pytest.mark.parametrize("options", [{}, {"strings": True}, {"with_area": False}, {"with_crowd": False}], ids=str)
def test_a_stream_equals_cocoeval(metric, options):
    truth, detections = example(**options)
    predictions, references = inputs_of(truth, detections)
    metric.add(prediction=predictions[0], reference=references[0])
    metric.add_batch(predictions=predictions[1:5], references=references[1:5])
    metric.add_batch(predictions=predictions[3:], references=references[3:])  # two images again
    result = metric.compute()
    by_hand = coco_by_hand(truth, detections)
    assert [result[name] for name in STATS] == by_hand.stats.tolist()
    for label in range(4):
        precision = by_hand.eval["precision"][:, :, label, 0, 2]
        if (precision > -1).any():
            assert result[f"AP/{label}"] == precision[precision > -1].mean()
    assert 0 < result["VOC_AP50"] < 1


def test_real_images_with_cocos_own_ids(metric):
    if not COCO_SAMPLE.is_file():
        pytest.skip(f"no sample of COCO at {COCO_SAMPLE}")
    truth = json.loads(COCO_SAMPLE.read_text())
    category_ids = [category["id"] for category in truth["categories"]]
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, category_ids, 1, size=448))
    predictions, references = inputs_of(truth, detections)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    result = metric.compute(predictions=predictions, references=references, id2label=names)
    assert [result[name] for name in STATS] == coco_by_hand(truth, detections).stats.tolist()
    assert "AP/toothbrush" in result


def test_tensors_and_other_limits(metric):
    truth, detections = example(1)
    predictions, references = inputs_of(truth, detections)
    for prediction in predictions:
        prediction["boxes"] = torch.tensor(prediction["boxes"], dtype=torch.float64).reshape(-1, 4)
        prediction["scores"] = np.array(prediction["scores"])
        prediction["labels"] = torch.tensor(prediction["labels"], dtype=torch.int64)
    metric.add_batch(predictions=predictions, references=references)
    result = metric.compute(max_detections=(1, 2, 3))
    recall = coco_by_hand(truth, detections, (1, 2, 3)).eval["recall"][..., 0, 2]
    assert result["AR3"] == recall[recall > -1].mean() and "AR100" not in result


def test_a_category_that_has_no_name_is_refused(metric):
    truth, detections = example()
    predictions, references = inputs_of(truth, detections)
    with pytest.raises(ValueError, match=r"Image .*: the category ids \[.*\] are not in id2label"):
        metric.compute(predictions=predictions, references=references, id2label={0: "zero"})


def test_predictions_and_references_go_together(metric):
    with pytest.raises(ValueError, match="1 predictions and 0 references"):
        metric.add_batch(predictions=[{"boxes": [], "scores": [], "labels": []}], references=[])


PROCESS = """
import json, sys
import evaluate
folder, cache, rank, inputs = sys.argv[1:]
predictions, references = json.load(open(inputs))
metric = evaluate.load(folder, cache_dir=cache, num_process=2, process_id=int(rank), experiment_id="two")
for index in range(int(rank), len(references), 2):
    metric.add(prediction=predictions[index], reference=references[index])
metric.add(prediction=predictions[0], reference=references[0])  # as samplers fill up the last batch
print(json.dumps(metric.compute()))
"""


def test_two_processes_that_start_anywhere_else(tmp_path):
    truth, detections = example(2)
    (tmp_path / "inputs.json").write_text(json.dumps(inputs_of(truth, detections)))
    source = str(Path(transformers_samdetr.__file__).parents[1])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": source}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, COCO_AP_METRIC, str(tmp_path / "cache"), str(rank), "inputs.json"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert [results[0][name] for name in STATS] == coco_by_hand(truth, detections).stats.tolist()
    assert results[1] is None


def test_the_document_is_right(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[2])
    document = Path(__file__).parents[2] / "docs" / "evaluation.md"
    snippets = re.findall(
        r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet, document.name, "exec"), {})
    percent, fraction = map(float, capsys.readouterr().out.split())
    assert (percent, fraction) == (pytest.approx(100), pytest.approx(1))
