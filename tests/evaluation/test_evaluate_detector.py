import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import transformers_samdetr
from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.dataset import DetectionDataset
from transformers_samdetr.data.load import load_detection_data
from transformers_samdetr.evaluation import CocoEvaluator, SetLoss, evaluate, evaluate_detector, set_loss
from transformers_samdetr.evaluation.evaluate import evaluate_saved_model
from transformers_samdetr.evaluation.evaluation_page import result_figures, result_json, result_tables, write_report
from transformers_samdetr.evaluation.matching import ERROR_KINDS

from ..coco_by_hand import coco_by_hand, scattered
from ..models import Operations, tiny_model
from .test_coco_evaluator import COCO_SAMPLE, assert_equal_to_the_last_bit, random_set, through_corners

REPOSITORY = Path(__file__).parents[2]
NAMES = ["cat", "dog", "<b>$x$</b>", "_hidden", "[red]"]


class Photographs(torch.utils.data.Dataset):
    """Noise of several sizes with string ids."""

    def __init__(self, count: int):
        truth = random_set(0, strings=True)
        self.examples = []
        for index in range(count):
            annotations = [a for a in truth["annotations"] if a["image_id"] == truth["images"][index % 10]["id"]]
            self.examples.append({"image_id": f"photo {index:02d}", "annotations": annotations})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int):
        pixels = np.random.default_rng(index).integers(0, 256, (90 + 7 * index, 120, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self.examples[index]


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_labels=5)


@pytest.fixture(scope="module")
def processor():
    return SamDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})


def run(model, processor, dataset, **options) -> CocoEvaluator:
    return evaluate_detector(model, processor, dataset, NAMES, batch_size=2, worst=2, **options)


def test_the_model_is_run_on_every_picture(model, processor):
    model.train()
    dataset = Photographs(5)
    evaluator = run(model, processor, dataset)
    assert model.training and not model.eval().training
    assert sorted(evaluator.images) == [f"photo {index:02d}" for index in range(5)]
    # by hand: the batches, post-processing and the evaluator one after the other
    expected = CocoEvaluator(NAMES, worst=2)
    for indices in ([0, 1], [2, 3], [4]):
        images = [dataset[index][0] for index in indices]
        with torch.no_grad():
            outputs = model(**processor(images, return_tensors="pt"))
        sizes = [(image.height, image.width) for image in images]
        for index, result in zip(indices, processor.post_process_object_detection(outputs, 0.0, sizes), strict=True):
            expected.add(dataset[index][1]["image_id"], result, dataset[index][1]["annotations"])
    assert expected.compute() == evaluator.compute()


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, dataset: Photographs):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[index] for index in range(len(self.dataset)))


@pytest.mark.parametrize("streamed", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize(("processes", "pictures"), [(2, 5), (3, 5), (3, 2), (4, 9)])
def test_batches_are_dealt_out_to_processes(model, processor, monkeypatch, processes, pictures, streamed):
    dataset = Photographs(pictures)
    alone = run(model, processor, dataset)
    dataset = Stream(dataset) if streamed else dataset
    parts, steps = [], []
    for rank in range(processes):
        state = SimpleNamespace(num_processes=processes, process_index=rank)
        monkeypatch.setattr(evaluate, "PartialState", lambda state=state: state)
        monkeypatch.setattr(CocoEvaluator, "gather", lambda self: None)
        seen = []
        count = lambda loader, seen=seen: (seen.append(1) or batch for batch in loader)  # noqa: E731
        parts.append(run(model, processor, dataset, progress=count))
        steps.append(len(seen))
    assert len(set(steps)) == 1, "all processes must take equally many steps"
    states = [part.images for part in parts]
    monkeypatch.undo()
    monkeypatch.setattr("transformers_samdetr.evaluation.coco_evaluator.gather_object", lambda own: states)
    parts[0].gather()
    assert parts[0].images.keys() == alone.images.keys()
    ours, theirs = parts[0].result(), alone.result()
    assert np.array_equal(ours.found, theirs.found) and np.array_equal(ours.truth, theirs.truth)
    assert ours.metrics() == theirs.metrics()
    for kind in ERROR_KINDS:
        ours, theirs = parts[0].result().worst[kind], alone.result().worst[kind]
        assert [(p.image_id, p.cost) for p in ours] == [(p.image_id, p.cost) for p in theirs]
        assert [p.position for p in ours] == [None if streamed else p.position for p in theirs]


def test_classes_are_matched_by_name(model, processor):
    dataset = Photographs(3)
    for example in dataset.examples:
        example["annotations"] = [a for a in example["annotations"] if a["category_id"] == 1]
    plain = run(model, processor, dataset)
    for example in dataset.examples:
        example["annotations"] = [{**a, "category_id": 0} for a in example["annotations"]]
    labels = evaluate.set_labels_of(dict(enumerate(NAMES)), ["dog"])
    assert labels == [-1, 0, -1, -1, -1]
    mapped = evaluate_detector(model, processor, dataset, ["dog"], batch_size=2, set_labels=labels)
    assert mapped.compute()["AP/dog"] == plain.compute()["AP/dog"]
    assert set(mapped.result().found["label"]) <= {0}
    with pytest.raises(ValueError, match=r"does not know \['bird'\], 1 of the set's 2 classes"):
        evaluate.set_labels_of(dict(enumerate(NAMES)), ["dog", "bird"])


def test_the_page_holds_everything(model, processor, tmp_path):
    dataset = Photographs(4)
    result = run(model, processor, dataset).result()
    threshold = 0.0
    figures = result_figures(result, threshold)
    write_report(tmp_path / "page.html", result, "a <model>", threshold, figures, lambda position: dataset[position][0])
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;$x$&lt;/b&gt;" in page and "<b>$x$</b>" not in page and "a &lt;model&gt;" in page

    sources, opened = [], []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.append(tag)
            sources.extend(value for name, value in attributes if name in ("src", "href"))

    Parser().feed(page)
    pictures = sum(len(pictures) for pictures in result.worst.values())
    assert pictures > 2 and opened.count("img") == 5 + pictures
    assert len(sources) == opened.count("img") and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page), "the page must need no other file"


def test_tables_and_json(model, processor):
    from rich.console import Console

    result = run(model, processor, Photographs(4)).result()
    console = Console(record=True, width=80, file=open(os.devnull, "w"))
    console.print(result_tables(result))
    text = console.export_text()
    assert "[red]" in text and "VOC AP50" in text and "localisation" in text and "…" not in text
    content = json.loads(json.dumps(result_json(result, 0.5)))
    assert content["metrics"]["AP"] == result.metrics()["AP"] and len(content["classes"]) == 5
    assert np.array(content["confusion"]["matrix"]).shape == (6, 6)


def test_results_without_anything_are_drawn(tmp_path):
    evaluator = CocoEvaluator(["cat"])
    evaluator.add(1, {"scores": [], "labels": [], "boxes": []}, [])
    result = evaluator.result()
    write_report(tmp_path / "p.html", result, "empty", 0.5, result_figures(result, 0.5), lambda position: None)
    assert (tmp_path / "p.html").stat().st_size > 10_000
    assert not any(result.worst.values())


def test_the_loss_of_a_set_does_not_depend_on_its_batches(model):
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    pictures = Photographs(5)
    images, annotations = zip(*(pictures[index] for index in range(5)), strict=True)
    numbered = [{**annotation, "image_id": index} for index, annotation in enumerate(annotations)]
    batch = processor(images=list(images), annotations=numbered, return_tensors="pt")
    counts = [len(target["class_labels"]) for target in batch["labels"]]
    assert len(set(counts)) > 1
    with torch.no_grad():
        expected = model(**batch).loss.item()  # one batch: divided by all objects
    for batch_size in (1, 2, 5):
        loss = SetLoss()
        evaluate_detector(model, processor, pictures, NAMES, batch_size=batch_size, loss=loss)
        assert loss.compute() == pytest.approx(expected, rel=1e-5), batch_size


def test_a_batch_that_two_processes_see_counts_once(monkeypatch):
    """Two processes share three batches; the second repeats the third as its last."""
    # sums of terms 12, 30, 8 of 4, 6, 2 objects; the model divides by the mean over the processes
    first, second = SetLoss(), SetLoss()
    first.add(torch.tensor(12 / 5.0), 4, counted=True)
    second.add(torch.tensor(30 / 5.0), 6, counted=True)
    first.add(torch.tensor(8 / 2.0), 2, counted=True)
    second.add(torch.tensor(8 / 2.0), 2, counted=False)
    batches = [[(float(loss), *rest) for loss, *rest in one.batches] for one in (first, second)]
    monkeypatch.setattr(set_loss, "gather_object", lambda own: batches)
    assert first.compute() == second.compute() == pytest.approx((12 + 30 + 8) / (4 + 6 + 2))


def saved_model_and_data(folder: Path, model, processor) -> None:
    """A COCO folder with sparse ids, without `area` and `iscrowd`, and a model with one class more."""
    model.config.id2label = {0: "N/A", 1: "cat", 2: "dog", 3: "cow", 4: "owl"}
    model.config.label2id = {name: label for label, name in model.config.id2label.items()}
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "data" / "annotations").mkdir()
    photographs = Photographs(5)
    images, annotations = [], []
    for index in range(5):
        picture, example = photographs[index]
        picture.save(folder / "data" / "images" / f"{index}.png")
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": 100 * index, "file_name": f"{index}.png", **size})
        for annotation in example["annotations"]:
            if annotation["category_id"] < 3:
                box = [0.3 * value for value in annotation["bbox"]]
                entry = {"id": len(annotations) + 1, "image_id": 100 * index, "bbox": box}
                annotations.append({**entry, "category_id": 7 * annotation["category_id"] + 3})
    assert annotations
    categories = [{"id": 7 * label + 3, "name": name} for label, name in enumerate(("dog", "cow", "cat"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (folder / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def test_a_saved_model_on_a_folder(model, processor, tmp_path):
    saved_model_and_data(tmp_path, model, processor)
    arguments = {"model": str(tmp_path / "model"), "data": str(tmp_path / "data"), "output_dir": tmp_path / "out"}
    result, other = evaluate_saved_model(**arguments, report=tmp_path / "new" / "page.html", threshold=0.1)
    assert result.num_images == 5 and result.names == ["dog", "cow", "cat"]
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["metrics"]["AP"] == result.metrics()["AP"] and content["confusion"]["threshold"] == 0.1
    names = {"precision_recall", "thresholds", "errors", "calibration", "confusion_matrix"}
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == names
    assert "model on data" in (tmp_path / "new" / "page.html").read_text()
    assert content["images_left_out"] == 0 and other is None and "comparison" not in content
    (tmp_path / "data" / "images" / "2.png").write_bytes(b"no picture")
    evaluate_saved_model(**arguments)
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (content["images"], content["images_left_out"]) == (4, 1)
    with pytest.raises(ValueError, match="threshold=2"):
        evaluate_saved_model(**arguments, threshold=2)
    result, other = evaluate_saved_model(**arguments, other_model=arguments["model"])
    assert result.metrics() == other.metrics()
    comparison = json.loads((tmp_path / "out" / "metrics.json").read_text())["comparison"]
    assert comparison["other_model"] == arguments["model"] and {row["p"] for row in comparison["metrics"]} == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_script_on_several_processes(model, processor, tmp_path, processes):
    saved_model_and_data(tmp_path, model, processor)
    evaluate_saved_model(str(tmp_path / "model"), str(tmp_path / "data"), tmp_path / "alone")
    source = str(Path(transformers_samdetr.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": source}
    environment["ACCELERATE_USE_CPU"] = "true"  # not --cpu, which starts a single process unless there is MPI
    launch = ["-m", "accelerate.commands.launch", "--num_processes", str(processes), "--main_process_port", "0"]
    launch += ["--config_file", str(REPOSITORY / "examples" / "accelerate_configs" / "multi_cpu.yaml")]
    command = [sys.executable, *launch, str(REPOSITORY / "scripts" / "evaluate.py"), "--report", "page.html"]
    command += ["--model", "model", "--data", "data", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("VOC AP50") == 2 and "Written: out/metrics.json and page.html" in done.stdout
    alone, together = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "out"))
    assert {**together, "model": 0, "data": 0} == {**alone, "model": 0, "data": 0}


class Replay(torch.nn.Module):
    """In place of a model and its image processor: gives the detections it was made with, batch by batch."""

    def __init__(self, results: list[dict]):
        super().__init__()
        self.device = torch.nn.Parameter(torch.zeros(1))
        self.results = iter(results)

    def __call__(self, images=None, return_tensors=None, count=None):
        return {"count": torch.tensor(len(images))} if count is None else count.item()

    def post_process_object_detection(self, count, threshold, target_sizes, top_k):
        assert len(target_sizes) == count and threshold == 0 and top_k == 100
        return [next(self.results) for _ in range(count)]


def test_a_folder_of_real_images_equals_cocoeval_on_its_json():
    folder = COCO_SAMPLE.parents[1]
    if not COCO_SAMPLE.is_file():
        pytest.skip(f"no sample of COCO at {folder}")
    truth = json.loads(COCO_SAMPLE.read_text())
    category_ids = sorted(category["id"] for category in truth["categories"])
    image_ids = [image["id"] for image in truth["images"]]
    detections = through_corners(scattered(truth["annotations"], image_ids, category_ids, 3, size=448))
    results = []
    for image_id in image_ids:
        mine = [detection for detection in detections if detection["image_id"] == image_id]
        results.append(
            {
                "scores": torch.tensor([detection["score"] for detection in mine], dtype=torch.float64),
                "labels": torch.tensor([category_ids.index(detection["category_id"]) for detection in mine]).long(),
                "boxes": torch.tensor([detection["corners"] for detection in mine], dtype=torch.float64).reshape(-1, 4),
            }
        )
    data = load_detection_data(str(folder))
    replay = Replay(results)
    evaluator = evaluate_detector(replay, replay, DetectionDataset(data.evaluation), data.names, batch_size=3)
    assert len(evaluator) == len(image_ids)
    assert_equal_to_the_last_bit(evaluator, coco_by_hand(truth, detections))


def test_all_pictures_of_a_set_without_splits_but_what_the_model_was_trained_on(model, processor, tmp_path, capsys):
    saved_model_and_data(tmp_path, model, processor)
    (tmp_path / "data" / "annotations" / "instances_train.json").unlink()
    arguments = {"model": str(tmp_path / "model"), "data": str(tmp_path / "data"), "output_dir": tmp_path / "out"}
    assert evaluate_saved_model(**arguments)[0].num_images == 5
    assert "held out" not in capsys.readouterr().out
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["data_fingerprint"] = load_detection_data(tmp_path / "data").fingerprint
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert evaluate_saved_model(**arguments)[0].num_images == 1
    assert "1 of 5 images" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has no split 'test' for eval_split"):
        evaluate_saved_model(**arguments, eval_split="test")


def test_intervals_calibration_and_the_paired_test():
    """A detector that finds most objects, beside itself and one that finds fewer."""
    rng = np.random.default_rng(0)
    good, same, worse = (CocoEvaluator(["cat"]) for _ in range(3))
    for image_id in range(60):
        boxes = np.float32(rng.uniform(0, 80, (6, 4)))
        boxes[:, 2:] = boxes[:, :2] + 20 + boxes[:, 2:] / 10
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        annotations = [{"bbox": size, "category_id": 0} for size in sizes]
        for evaluator, share in ((good, 0.8), (same, 0.8), (worse, 0.5)):
            right = np.random.default_rng(image_id).random(6) < share
            shifted = boxes + np.where(right, 0, 300)[:, None].astype(np.float32)
            evaluator.add(image_id, {"scores": np.full(6, 0.8), "labels": np.zeros(6), "boxes": shifted}, annotations)
    result, low = good.result(), worse.result()
    metrics = result.metrics()
    for name, (lower, upper) in result.intervals.items():
        assert (lower, upper) == (-1, -1) if metrics[name] < 0 else 0 <= lower < metrics[name] < upper <= 100, name
    assert 3 < result.intervals["AP50"][1] - result.intervals["AP50"][0] < 30

    difference = {row["metric"]: row for row in result.difference_to(low)}["AP50"]
    assert difference["difference"] == pytest.approx(metrics["AP50"] - low.metrics()["AP50"], abs=1e-9)
    assert 0 < difference["low"] < difference["difference"] < difference["high"] and difference["p"] < 1e-3
    assert all(row["p"] == 1 and row["difference"] == 0 for row in result.difference_to(same.result()))
    with pytest.raises(ValueError, match="must have the same images"):
        result.difference_to(CocoEvaluator(["cat"]).result())

    error, bins = result.calibration
    precision = np.mean(result.found["error"] == 0)
    assert error == pytest.approx(abs(precision - 0.8)) and [one["count"] for one in bins] == [360]
    assert CocoEvaluator(["cat"]).result().calibration == (0.0, [])


def test_no_tensor_becomes_float64(model, processor):
    """Apple's GPUs have no float64: what comes from the device stays as it is until it is on the host."""
    loss = SetLoss()
    with Operations() as given:
        run(model, processor, Photographs(3), loss=loss).compute()
        loss.compute()
    assert given.calls and not [call.name for call in given.calls for one in call.made if one.dtype == torch.float64]
