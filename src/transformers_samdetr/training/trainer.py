"""The training loop on Accelerate: windows of micro-batches, one process or many, evaluated after every epoch."""

import math
import time
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils import send_to_device
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.dataset import DetectionCollator
from ..data.schema import AnySet
from ..data.stream import evaluation_examples
from ..evaluation import SetLoss, evaluate_detector
from .balance import class_weights
from .checkpoint import replace_files
from .display import Display, total_text
from .log import TrainingProgress, epoch_line, write_line
from .loss_sums import LossSums, any_process, loss_weights, stop_for_non_finite, weighted_terms, without_objects
from .order import ProcessBatches, position_seed, training_examples
from .processes import limit_waiting, make_accelerator, name_sharded_layers
from .recipes import PEER_TIMEOUT, Recipe


class TrainingHook(Protocol):
    """What may act while a run stands still: weights, optimizer, schedule and progress belong together then.

    All processes call each method together, with the `Trainer`. Its `state_dict()` and its
    `accelerator.save_state` have everything between them. What a subclass leaves out does nothing.
    """

    def after_step(self, trainer: "Trainer") -> None:
        """After each optimizer step; after the last one of an epoch its evaluation is still to come."""

    def after_epoch(self, trainer: "Trainer") -> None:
        """After the evaluation of an epoch, its line in the log, and the model that was kept."""

    def when_stopped(self, trainer: "Trainer") -> None:
        """When all processes agreed to stop: in place of `after_step`, or within an evaluation."""


class _Stopped(Exception):
    """All processes agreed to stop, after a step or within an evaluation."""


class Trainer:
    """Fine-tunes a detector, writes a line of `log.jsonl` an epoch, and saves model and image processor.

    Args:
        model: a `SamDetrForObjectDetection`.
        processor: its image processor.
        train: training set, in the schema of `transformers_samdetr.data.schema`; a stream must know its length.
        evaluation: evaluation set, in the same schema; each may be a stream.
        recipe: how to train.
        output_dir: where the model and the log are written.
        hooks: see `TrainingHook`; called in this order.
        peer_timeout: seconds that processes wait for each other in training before they take one for lost.

    Attributes:
        progress: where the run stands.
        stopped: whether `train` returned because of `request_stop`.
        resumed_from: the checkpoint that the run goes on from, or None.
        detection_threshold: of the last evaluation, the score from which on detections have the highest F1; saved with
            the model, for pictures of its detections. None where there was none or nothing was right.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        train: AnySet,
        evaluation: AnySet,
        recipe: Recipe,
        output_dir: str | Path,
        hooks: tuple[TrainingHook, ...] = (),
        peer_timeout: float = PEER_TIMEOUT,
    ):
        self.recipe, self.processor, self.hooks, self.peer_timeout = recipe, processor, hooks, peer_timeout
        self.output_dir = Path(output_dir)
        self.accelerator = accelerator = make_accelerator(recipe, self.output_dir)
        self.config = model.config
        self.names = [model.config.id2label[label] for label in range(model.config.num_labels)]
        if recipe.metric.startswith("AP/") and recipe.metric[3:] not in self.names:
            raise ValueError(f"metric={recipe.metric!r} is not possible: the classes are {', '.join(self.names[:20])}.")
        if recipe.class_weights is not None:
            model.config.class_weights = class_weights(recipe.class_weights, self.names, train)
        self.train_set, self.order = training_examples(
            train, recipe, processor, accelerator.num_processes, len(self.names)
        )
        self.evaluation_set = evaluation_examples(evaluation, recipe.max_corrupt)
        if recipe.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self.average: ModelEmaV3 | None = None  # a moving average of the weights, made before the model is wrapped
        if recipe.ema_decay:
            self.average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
            self.average.module.to(accelerator.device).requires_grad_(False)
            accelerator.register_for_checkpointing(self.average)
        self.parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        optimizer = make_optimizer(model, recipe)
        self.schedule = make_schedule(optimizer, recipe, self.order.steps_per_epoch * recipe.epochs)
        name_sharded_layers(accelerator, model)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(self.schedule)
        self.progress = TrainingProgress()
        self.losses = LossSums(accelerator)
        self.display = Display(accelerator, recipe.epochs, self.order.steps_per_epoch, recipe.log_steps)
        self.gradient_norm: Tensor | None = None  # of the last step, on the device
        self._last_labels: list[dict] = []  # of that step on this process
        self.stop_requested = self.stopped = False
        self.resumed_from: Path | None = None
        self.detection_threshold: float | None = None

    def state_dict(self) -> dict:
        """The progress as plain numbers, for a checkpoint; all processes call it together.

        A FloatingPointError if the last step's gradient was not finite, so that nothing may be saved.
        """
        self.refuse_bad_gradient()
        self.progress.loss_sums = self.losses.collect()
        self.progress.stream = self.order.position(self.progress.epoch, self.progress.step)
        return asdict(self.progress)

    def load_state_dict(self, state: dict) -> None:
        """Goes on from what `state_dict` returned; `accelerator.load_state` loads weights, optimizer and schedule."""
        self.progress.load(state)
        self.losses.restore(self.progress.loss_sums)
        self.order.restore(self.progress.stream)
        # learning rates of this recipe, which may have more epochs than before
        factor = self.schedule.lr_lambdas[0](self.schedule.last_epoch)
        self.schedule._last_lr = [base * factor for base in self.schedule.base_lrs]
        for group, rate in zip(self.schedule.optimizer.param_groups, self.schedule._last_lr, strict=True):
            group["lr"] = rate

    def request_stop(self) -> None:
        """Stops all processes after the running step, or batch of an evaluation; for signal handlers and hooks."""
        self.stop_requested = True

    def train(self) -> dict[str, float]:
        """Trains to the end, or until it is stopped; returns the last evaluation (COCO AP in percent).

        Raises:
            FloatingPointError: the loss or the gradient is not finite; on every process, with the ids of the images.
        """
        limit_waiting(self.peer_timeout)
        self.display.console.print(self.describe())
        metrics: dict[str, float] = {}
        self.stopped = False
        recipe, progress = self.recipe, self.progress
        try:
            while progress.epoch < recipe.epochs and not 0 < recipe.patience <= progress.epochs_without_improvement:
                self.train_epoch()
                metrics = self.evaluate()
                self.finish_epoch(metrics)
        except _Stopped:
            self.stopped = True
            self._call_hooks("when_stopped")
            return metrics
        if progress.epoch < recipe.epochs:
            best = f"{recipe.metric} has not improved since epoch {progress.best_epoch}"
            self.display.console.print(f"Ends after epoch {progress.epoch} of {recipe.epochs}: {best}")
        if recipe.keep == "last":
            self.save()
        self.accelerator.end_training()
        return metrics

    def describe(self) -> str:
        """The run for the user: recipe, model, picture size, queries, device, precision, steps; where it resumes."""
        recipe, config, processes = self.recipe, self.config, self.accelerator.num_processes
        size = dict(self.processor.size)
        pixels = "{height}x{width}" if "height" in size else "{shortest_edge} (short side)"
        place = f"{processes} x {self.accelerator.device.type}".removeprefix("1 x ")
        precision = {"no": "float32"}.get(recipe.mixed_precision, recipe.mixed_precision)
        done = f", {self.progress.global_step} done" if self.progress.global_step else ""
        lines = [
            f"Recipe {recipe.name}: model {recipe.model}, pictures of {pixels.format(**size)} pixels, "
            f"{config.num_queries} queries, {place}, {precision}; {recipe.epochs} epochs of "
            f"{self.order.steps_per_epoch} steps with {recipe.batch_size} pictures{done}"
        ]
        if recipe.sampling == "balanced":
            lines.append(f"Balanced sampling: {self.order.num_images} pictures an epoch, of {len(self.train_set)}")
        if config.class_weights is not None:
            weights = sorted(zip(config.class_weights, self.names, strict=True), reverse=True)
            shown = [f"{name} {weight:.3g}" for weight, name in weights]
            shown = shown if len(shown) <= 12 else [*shown[:6], "…", *shown[-5:]]
            lines.append(f"Class weights: {', '.join(shown)}")
        if self.resumed_from is not None:
            lines.append(f"Resumes from {self.resumed_from}")
        return "\n".join(lines)

    def train_epoch(self) -> None:
        """The rest of the epoch in which the run stands."""
        self.model.train()
        progress, begin = self.progress, time.perf_counter()
        self.display.begin_epoch(progress.epoch, progress.step)
        try:
            for window in self.windows():
                self.train_window(window)
                progress.seconds += time.perf_counter() - begin
                begin = time.perf_counter()
                images, lr = len(self.order.window(progress.epoch, progress.step - 1)), progress.learning_rate
                self.display.step(progress.step, images, lr, lambda: self.losses.local_means(progress.step))
                if self.accelerator.trackers and progress.global_step % self.recipe.log_steps == 0:
                    means = self.losses.local_means(progress.step)
                    values = {f"train/{name}": value for name, value in means.items()}
                    self.accelerator.log({**values, "lr": lr}, step=progress.global_step)
                if self.stopped:
                    raise _Stopped
                self._call_hooks("after_step")
        finally:
            self.display.end_epoch()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Writes down the epoch just evaluated, keeps its weights where the recipe says so, and moves on."""
        improved = self.progress.record(metrics[self.recipe.metric])
        self.progress.loss_sums = self.losses.collect()
        line = epoch_line(self.progress, metrics, self.recipe.name, self.parameters)
        if self.accelerator.is_main_process:
            write_line(self.output_dir, line)
        losses = {name.removeprefix("train_"): value for name, value in line.items() if name.startswith("train_")}
        precision = "  ".join(f"{name} {line[name]:4.1f}" for name in ("AP", "AP50", "AP75"))
        head = f"epoch {line['epoch']}/{self.recipe.epochs}  {total_text(losses)}"
        self.display.console.print(
            f"{head}  evaluation loss {line['test_loss']:.3f}  {precision}  {line['seconds']:.0f} s"
        )
        values = {f"epoch/{name}": value for name, value in line.items() if isinstance(value, (int, float))}
        self.accelerator.log(values, step=self.progress.global_step)
        if improved and self.recipe.keep == "best":
            self.save()
        self.progress.begin_next_epoch()
        self.losses.restore({})
        self._call_hooks("after_epoch")

    def windows(self) -> Iterator[list[dict]]:
        """This process's micro-batches of each window that is left of the epoch, on the host."""
        progress, accelerator = self.progress, self.accelerator
        self.train_set.set_epoch(progress.epoch)
        shares = accelerator.process_index, accelerator.num_processes
        batches = ProcessBatches(self.order, progress.epoch, progress.step, *shares)
        # not prepared by Accelerate, which would shard batches that are already this process's own
        loader = DataLoader(
            self.train_set,
            batch_sampler=batches,
            collate_fn=DetectionCollator(self.processor),
            num_workers=self.recipe.workers,
            pin_memory=accelerator.device.type == "cuda",
            # of its own: a loader draws a seed from the default generator otherwise, more of them in a resumed run
            generator=torch.Generator().manual_seed(position_seed(self.recipe.seed, progress.epoch)),
        )
        micro_batches = iter(loader)
        for _ in range(progress.step, self.order.steps_per_epoch):
            yield list(islice(micro_batches, len(batches.my_slots)))

    def train_window(self, window: list[dict]) -> None:
        """One optimizer step, from the gradients of all micro-batches of all processes."""
        recipe, progress, accelerator = self.recipe, self.progress, self.accelerator
        slots = range(accelerator.process_index, self.order.slots, accelerator.num_processes)
        images = self.order.window(progress.epoch, progress.step)
        fillers = [not self.order.share(images, slot) for slot in slots]
        window = [without_objects(batch) if filler else batch for batch, filler in zip(window, fillers, strict=True)]
        counts = [sum(len(target["class_labels"]) for target in batch["labels"]) for batch in window]
        weights = loss_weights(counts, fillers, accelerator)
        bad: list[Tensor] = []
        for batch, slot, weight in zip(window, slots, weights, strict=True):
            # noise and dropout of these images are the same however many processes there are, and after a resume
            torch.manual_seed(position_seed(recipe.seed, progress.epoch, progress.step, slot))
            with accelerator.accumulate(self.model):
                # labels stay on the host, where the model checks them
                pictures = {name: values for name, values in batch.items() if name != "labels"}
                pictures = send_to_device(pictures, accelerator.device, non_blocking=True)
                with accelerator.autocast():  # for FSDP2; other models have it in their forward
                    outputs = self.model(**pictures, labels=batch["labels"])
                bad.append(~outputs.loss.detach().isfinite())
                if accelerator.sync_gradients:
                    self._agree(window, bad)
                accelerator.backward(outputs.loss * weight * recipe.accumulation_steps)  # which it divides by
                self.losses.add({"loss": outputs.loss, **weighted_terms(outputs.loss_dict, self.config)}, weight)
                if accelerator.sync_gradients:
                    self._step_optimizer()
        progress.images += len(images)
        progress.step += 1
        progress.global_step += 1

    def _agree(self, window: list[dict], bad: list[Tensor]) -> None:
        """Before gradients are exchanged: whether any process has a loss that is not finite, or was asked to stop."""
        *losses, gradient, stop = any_process([*bad, self._is_gradient_bad(), self.stop_requested], self.accelerator)
        if gradient:
            stop_for_non_finite(self._last_labels, "The gradient", self.accelerator)
        if any(losses):
            found = [target for batch, flag in zip(window, bad, strict=True) if flag for target in batch["labels"]]
            stop_for_non_finite(found, "The loss", self.accelerator)
        self._last_labels = [target for batch in window for target in batch["labels"]]
        self.stopped = stop

    def _step_optimizer(self) -> None:
        """Clips, steps and moves the learning rate on, once the window is complete."""
        limit = self.recipe.clip_norm or float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of FSDP2; DeepSpeed gives a float or None
        self.gradient_norm = None if norm is None else torch.as_tensor(norm, device=self.accelerator.device)
        self.progress.learning_rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.progress.skipped_steps += self.accelerator.optimizer_step_was_skipped
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.model), self.progress.global_step + 1)

    def _is_gradient_bad(self) -> Tensor | bool:
        """Whether the last step's gradient was not finite; fp16's scaler has left such a step out."""
        if self.gradient_norm is None or self.accelerator.scaler is not None:
            return False
        return ~self.gradient_norm.isfinite()

    def refuse_bad_gradient(self) -> None:
        """Stops every process if the last step's gradient was not finite; called before anything is saved."""
        if any_process([self._is_gradient_bad()], self.accelerator)[0]:
            stop_for_non_finite(self._last_labels, "The gradient", self.accelerator)

    def _call_hooks(self, name: str) -> None:
        for hook in self.hooks:
            getattr(hook, name)(self)

    def evaluate(self) -> dict[str, float]:
        """COCO AP of the evaluation set in percent, every image counted once; the same on all processes."""
        self.refuse_bad_gradient()
        loss, begin = SetLoss(), time.perf_counter()
        with self.accelerator.autocast():
            evaluator = evaluate_detector(
                self.model if self.average is None else self.average.module,
                self.processor,
                self.evaluation_set,
                self.names,
                batch_size=self.recipe.evaluation_batch_size,
                workers=self.recipe.workers,
                loss=loss,
                progress=self._until_stopped,
            )
        self.display.evaluation_seconds = time.perf_counter() - begin
        result = evaluator.result()
        self.detection_threshold = result.useful_threshold()
        return {"test_loss": loss.compute(), **result.metrics()}

    def _until_stopped(self, batches: Iterable) -> Iterator:
        """The batches of an evaluation, shown, which stops at the same one on every process."""
        for batch in self.display.evaluation(batches):
            if any_process([self.stop_requested], self.accelerator)[0]:
                raise _Stopped
            yield batch

    def save(self) -> None:
        """Writes the model and its image processor, ready for `from_pretrained` and `pipeline`."""
        self.accelerator.wait_for_everyone()
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        weights = self.accelerator.get_state_dict(self.model) or {}  # gathered, where processes share them
        weights = {name.replace("_orig_mod.", ""): weight for name, weight in weights.items()}  # of compiled layers
        if self.accelerator.is_main_process:
            if self.average is not None:
                weights = self.average.module.state_dict()
            with replace_files(self.output_dir) as folder:
                model.save_pretrained(folder, state_dict=weights)
                self.processor.save_pretrained(folder)
                config = copy(model.config)  # a copy, so that checkpoints of a run that goes on stay as they are
                config.detection_threshold = self.detection_threshold
                config.save_pretrained(folder)
        self.accelerator.wait_for_everyone()


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Two groups: the feature extractor with its own learning rate, and the rest. Frozen parameters are left out."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["feature_extractor" in name].append(parameter)
    rates = {False: recipe.learning_rate, True: recipe.backbone_learning_rate}
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rates[in_backbone]} for in_backbone, parameters in groups.items() if parameters],
        weight_decay=recipe.weight_decay,
        # takes 3 % off a small model's step on a CPU; a scaler leaves it to such an optimizer to pass over a step whose
        # gradient is not finite, and then Accelerate cannot tell that it was
        fused=recipe.mixed_precision != "fp16",
    )


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int) -> LambdaLR:
    """The recipe's schedule over `total_steps` optimizer steps."""

    def factor(step: int) -> float:
        progress = step / max(total_steps, 1)
        if progress < recipe.warmup:
            return (step + 1) / (recipe.warmup * total_steps + 1)
        if recipe.schedule == "step":
            return 1.0 if progress < recipe.drop_at else 0.1
        after = (progress - recipe.warmup) / (1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(after, 1.0)))

    return LambdaLR(optimizer, factor)
