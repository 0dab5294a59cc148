import pytest
import torch

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.evaluation import SetLoss, evaluate_detector, set_loss

from .models import tiny_model
from .test_evaluate_detector import NAMES, Photographs


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def processor():
    return SamDetrImageProcessor(size={"height": 64, "width": 64})


def test_the_loss_of_a_set_does_not_depend_on_its_batches(model, processor):
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
    results = []
    for mine in (first, second):
        sums = []

        def reduce(tensor, reduction, sums=sums):
            return (
                torch.tensor([5.0, 2.0], dtype=torch.float64) if reduction == "mean" else sums.append(tensor) or tensor
            )

        monkeypatch.setattr(set_loss, "reduce", reduce)
        mine.compute()
        results.append(sums[0])
    assert sum(results).tolist() == pytest.approx([12 + 30 + 8, 4 + 6 + 2])
