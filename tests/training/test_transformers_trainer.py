"""Transformers' own `Trainer` trains and evaluates our model, with our collator and in its examples' convention."""

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import ModelOutput

from transformers_samdetr import SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.data.schema import coco_annotations
from transformers_samdetr.evaluation import CocoEvaluator, evaluate_detector

from ..models import tiny_model

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def scenes():
    return build_digit_scenes(num_train=4, num_eval=4, size=96, seed=7)


@pytest.fixture
def processor():
    return SamDetrImageProcessor(size={"height": 64, "width": 64})


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        num_train_epochs=1,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        remove_unused_columns=False,
        eval_do_concat_batches=False,
        **options,
    )


def test_our_collator(scenes, processor, tmp_path):
    model = tiny_model(num_labels=10)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(
        model,
        arguments(tmp_path, gradient_accumulation_steps=2),
        data_collator=DetectionCollator(processor),
        train_dataset=DetectionDataset(scenes["train"]),
        eval_dataset=DetectionDataset(scenes["validation"]),
    )
    result = trainer.train()
    assert result.training_loss > 0 and trainer.state.global_step == 1
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # content queries start at 0, so that some weights of the first layer have a gradient of 0 in the first step
    assert changed <= trained and {n for n in trained - changed if not n.startswith("model.decoder.layers.0.")} == set()
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(tmp_path / "saved")
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.class_heads[0].weight, model.class_heads[0].weight)


def test_the_published_examples_convention(scenes, processor, tmp_path):
    """Examples are transformed one by one, labels are lists of dicts, predictions loss_dict, logits, pred_boxes.

    The evaluation set is a multiple of the batch: of a last, smaller batch of n images, Transformers' Trainer keeps the
    first n rows of every tensor, and so only n objects of each image.
    """

    def transform(examples):
        columns = [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
        annotations = [coco_annotations(example) for example in columns]
        return dict(processor(images=examples["image"], annotations=annotations, return_tensors="pt"))

    def collate(examples):
        batch = {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
        batch["pixel_mask"] = torch.stack([example["pixel_mask"] for example in examples])
        return {**batch, "labels": [example["labels"] for example in examples]}

    truth = {example["image_id"]: coco_annotations(example)["annotations"] for example in scenes["validation"]}

    detections = {}

    def compute_metrics(results):
        evaluator = CocoEvaluator(NAMES)
        for predictions, targets in zip(results.predictions, results.label_ids, strict=True):
            assert isinstance(predictions[0], dict) and "loss_ce" in predictions[0]
            outputs = ModelOutput(logits=torch.tensor(predictions[1]), pred_boxes=torch.tensor(predictions[2]))
            sizes = torch.tensor([target["orig_size"].tolist() for target in targets])
            found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
            for target, result in zip(targets, found, strict=True):
                image_id = int(target["image_id"][0])
                evaluator.add(image_id, result, truth[image_id])
                detections[image_id] = result
        return evaluator.compute()

    model = tiny_model(num_labels=10)
    trainer = Trainer(
        model,
        arguments(tmp_path),
        data_collator=collate,
        train_dataset=scenes["train"].with_transform(transform),
        eval_dataset=scenes["validation"].with_transform(transform),
        compute_metrics=compute_metrics,
        processing_class=processor,
    )
    trainer.train()
    metrics = trainer.evaluate()
    expected = evaluate_detector(
        model, processor, DetectionDataset(scenes["validation"]), NAMES, batch_size=2
    ).compute()
    assert {name: metrics[f"eval_{name}"] for name in ("AP", "AP50", "AR100")} == pytest.approx(
        {name: expected[name] for name in ("AP", "AP50", "AR100")}
    )
    for index, image_id in enumerate(truth):
        picture = scenes["validation"][index]["image"]
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        result = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(96, 96)])[0]
        torch.testing.assert_close(detections[image_id]["scores"], result["scores"], atol=1e-4, rtol=0)
