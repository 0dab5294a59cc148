"""The training loop on Accelerate: one process or many, evaluated after every epoch."""

import json
import math
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.batch import DetectionCollator, DetectionDataset
from ..evaluation import evaluate_detector
from .optimizer import make_optimizer, make_schedule
from .recipes import Recipe


class Trainer:
    """Fine-tunes a detector, writes a line of `log.jsonl` an epoch, and saves model and image processor.

    Args:
        model: a `SamDetrForObjectDetection`.
        processor: its image processor.
        train: training set, in the schema of `transformers_samdetr.data.schema`.
        evaluation: evaluation set, in the same schema.
        recipe: how to train.
        output_dir: where the model and the log are written.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        train: Dataset,
        evaluation: Dataset,
        recipe: Recipe,
        output_dir: str | Path,
    ):
        self.recipe = recipe
        self.processor = processor
        self.output_dir = Path(output_dir)
        self.accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
        set_seed(recipe.seed)
        self.names = [model.config.id2label[label] for label in range(model.config.num_labels)]
        self.evaluation_set = DetectionDataset(evaluation)
        collate = DetectionCollator(processor)
        options = {"batch_size": recipe.batch_size, "collate_fn": collate, "num_workers": recipe.workers}
        self.train_set = DetectionDataset(train, augment=recipe.augment, seed=recipe.seed)
        order = torch.Generator().manual_seed(recipe.seed)
        train_loader = DataLoader(self.train_set, shuffle=True, generator=order, **options)
        optimizer = make_optimizer(model, recipe)
        self.model, self.optimizer, self.train_loader = self.accelerator.prepare(model, optimizer, train_loader)
        self.schedule = make_schedule(self.optimizer.optimizer, recipe, len(self.train_loader) * recipe.epochs)

    def train(self) -> dict[str, float]:
        """Trains for all epochs and saves the result; returns the last evaluation (COCO AP in percent)."""
        metrics: dict[str, float] = {}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for epoch in range(1, self.recipe.epochs + 1):
            start = time.perf_counter()
            losses = self.train_epoch(epoch)
            seconds = time.perf_counter() - start
            metrics = self.evaluate()
            self._log({"epoch": epoch, "seconds": round(seconds, 1), **losses, **metrics})
        self.save()
        return metrics

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; returns the mean loss and its terms."""
        self.model.train()
        self.train_set.set_epoch(epoch)
        totals: dict[str, torch.Tensor] = {}
        for batch in self._progress(self.train_loader, f"epoch {epoch}/{self.recipe.epochs}"):
            outputs = self.model(**batch)
            self._refuse_non_finite(outputs.loss, batch)
            self.accelerator.backward(outputs.loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            for name, value in {"loss": outputs.loss.detach(), **outputs.loss_dict}.items():
                totals[name] = totals.get(name, 0) + value
        steps = len(self.train_loader)
        return {
            f"train_{name}": round(value.item() / steps, 4) for name, value in totals.items() if name[-1:].isalpha()
        }

    def evaluate(self) -> dict[str, float]:
        """COCO AP of the evaluation set, every image counted once; the same on all processes."""
        evaluator = evaluate_detector(
            self.model,
            self.processor,
            self.evaluation_set,
            self.names,
            batch_size=self.recipe.batch_size,
            workers=self.recipe.workers,
            progress=lambda loader: self._progress(loader, "evaluation"),
        )
        return {name: round(value, 2) for name, value in evaluator.compute().items()}

    def save(self) -> None:
        """Writes the model and its image processor, ready for `from_pretrained` and `pipeline`."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.accelerator.unwrap_model(self.model).save_pretrained(self.output_dir)
            self.processor.save_pretrained(self.output_dir)

    def _refuse_non_finite(self, loss: torch.Tensor, batch: dict) -> None:
        if not math.isfinite(loss.item()):
            ids = [label["image_id"].item() for label in batch["labels"]]
            raise FloatingPointError(
                f"The loss became {loss.item()} on the images with the ids {ids}. Nothing was saved. Look at these "
                "images, or lower learning_rate."
            )

    def _progress(self, loader: DataLoader, what: str) -> tqdm:
        hidden = not self.accelerator.is_local_main_process or not sys.stderr.isatty()
        return tqdm(loader, desc=what, disable=hidden, leave=False)

    def _log(self, line: dict) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.output_dir / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.print(
            f"epoch {line['epoch']:3d}  loss {line['train_loss']:8.3f}  AP {line['AP']:5.1f}  "
            f"AP50 {line['AP50']:5.1f}  {line['seconds']:.0f} s",
            flush=True,
        )
