"""When a run saves a checkpoint, what it holds, and how a run resumes from it as if it had never stopped."""

import json
import logging
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from operator import length_hint
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from accelerate.utils import load as load_tensors
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import SAFE_WEIGHTS_NAME

from .checkpoint import (
    CheckpointError,
    begin_checkpoint,
    commit_checkpoint,
    delete_old_checkpoints,
    first_fault,
    latest_checkpoint,
    list_checkpoints,
    step_of,
    verify_checkpoint,
    write_error,
)
from .recipes import Recipe
from .trainer import Trainer, TrainingHook

RUN_STATE = "run.json"
"""File of a checkpoint with the progress, the identity of the run, and versions."""
FREE_FIELDS = "accumulation_steps workers evaluation_batch_size trackers log_steps patience max_corrupt".split()
"""Fields of a recipe that may change on resume, since no training step depends on them. `epochs` may grow, too."""
PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "transformers-samdetr")

logger = logging.getLogger(__name__)


class ResumeRefused(ValueError):
    """The checkpoint is of another run; the message lists the differences."""


class Checkpointing(TrainingHook):
    """Saves a checkpoint every so many optimizer steps, at the end of each epoch before its evaluation, and on a stop.

    A run that is killed during an evaluation repeats it, and not the epoch. A checkpoint holds what Accelerate saves
    (model, optimizer, scaler, EMA, schedule, random numbers of every process), the image processor and `run.json`. The
    model is in the form of `from_pretrained`, unless FSDP or DeepSpeed shard it. Nothing in it is loaded by pickle
    without `weights_only`. Every method is collective, and an error of one process is raised by all.

    Args:
        data_fingerprint: of the data, such as `DetectionData.fingerprint`; a resume with another one is refused.
        every: optimizer steps between checkpoints within an epoch; 0 saves at its end alone.
        keep: so many of the newest checkpoints are kept, at least 1, and the one of the best evaluation.
    """

    def __init__(self, data_fingerprint: str, every: int = 500, keep: int = 2):
        if every < 0 or keep < 1:
            raise ValueError(f"every={every} and keep={keep} are not possible: at least 0 and 1.")
        self.data_fingerprint, self.every, self.keep = data_fingerprint, every, keep
        self.accelerator: Accelerator | None = None  # until the start
        self.saved: Path | None = None  # the checkpoint of the step that the run stands at

    def start(self, trainer: Trainer, resume: str | Path | None = None) -> bool:
        """Gets a trainer ready, and restores it where asked for; returns whether it was restored.

        Args:
            trainer: not trained yet, with this hook among its own.
            resume: a checkpoint's folder; `"auto"` for the newest good one in the output folder, or a fresh start if
                there is none; None for a fresh start.

        Raises:
            CheckpointError: the checkpoint is torn or edited; the message names the file.
            ResumeRefused: it is of another run; or there are checkpoints, and `resume` is None.
        """
        recipe = {name: value for name, value in asdict(trainer.recipe).items() if name not in FREE_FIELDS}
        data = {
            "fingerprint": self.data_fingerprint,
            "training images": trainer.order.num_images,
            "evaluation images": length_hint(trainer.evaluation_set) or "a stream",
            "classes": trainer.names,
        }
        self.attach(trainer.accelerator, trainer.output_dir / "checkpoints", {"recipe": recipe, "data": data})
        self.processor = trainer.processor
        if progress := self.resume(resume):
            trainer.load_state_dict(progress)
            trainer.resumed_from = self.saved
        return self.saved is not None

    def attach(self, accelerator: Accelerator, folder: Path, identity: Mapping[str, Any]) -> None:
        """Saves what is prepared with the accelerator into `folder`, the same one on all machines of a run.

        `identity` is what must not change between start and resume, in JSON values; dicts may be nested.
        """
        self.accelerator, self.folder, self.identity = accelerator, folder, json.loads(json.dumps(identity))
        self.processor: BaseImageProcessor | None = None  # saved beside the model
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    def after_step(self, trainer: Trainer) -> None:
        """Saves if it is time."""
        ends = trainer.progress.step == trainer.order.steps_per_epoch
        if ends or (self.every and trainer.progress.global_step % self.every == 0):
            self.when_stopped(trainer)

    def when_stopped(self, trainer: Trainer) -> None:
        """Saves, unless this step is saved already."""
        if self.accelerator is None:
            raise RuntimeError("Checkpointing.start(trainer) must be called before trainer.train().")
        best = trainer.progress.best_epoch * trainer.order.steps_per_epoch or None
        self.save(trainer.progress.global_step, trainer.state_dict(), best)

    def save(self, step: int, progress: Mapping[str, Any], best_step: int | None = None) -> Path:
        """Writes the checkpoint of a step, unless it is there already; deletes the oldest, but not that of `best_step`.

        `progress` says where the run stands, in JSON values. A CheckpointError names the file; older ones stay.
        """
        if self.saved is not None and step == step_of(self.saved):
            return self.saved
        partial = Path(self._main(lambda: str(begin_checkpoint(self.folder, step))))
        try:
            self._all(lambda: self._write(partial))
            self.saved = Path(self._main(lambda: str(self._finish(partial, progress, best_step))))
        except CheckpointError:
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)  # gives its space back
            raise
        return self.saved

    def resume(self, source: str | Path | None) -> dict[str, Any] | None:
        """Restores the run as `start` says, removes torn checkpoints that are newer, and returns the saved progress.

        None for a fresh start. Raises ResumeRefused also if a newer checkpoint of this run is good.
        """
        found = self._main(lambda: self._find(source and str(source)))
        if found is None:
            return None
        checkpoint, state = Path(found[0]), found[1]
        self._all(lambda: self._load(checkpoint, state["num_processes"]))
        self.saved = checkpoint
        return state["progress"]

    def _write(self, partial: Path) -> None:
        try:
            self.accelerator.save_state(str(partial))
            if self.processor is not None and self.accelerator.is_main_process:
                self.processor.save_pretrained(partial)
        except CheckpointError:
            raise
        except Exception as error:  # a writer's errors share no class of their own; all are raised again
            raise write_error(partial, error) from error

    def _finish(self, partial: Path, progress: Mapping[str, Any], best_step: int | None) -> Path:
        for rank in range(self.accelerator.num_processes):
            if not (path := partial / f"random_states_{rank}.pkl").is_file():
                raise CheckpointError(f"{path} of another process is missing: {self.folder} must be a shared folder.")
        count = self.accelerator.num_processes
        state = {"progress": dict(progress), "identity": self.identity, "num_processes": count, "versions": versions()}
        try:
            (partial / RUN_STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        except OSError as error:
            raise write_error(partial, error) from error
        final = commit_checkpoint(partial)
        delete_old_checkpoints(self.folder, self.keep, best_step)
        return final

    def _find(self, source: str | None) -> tuple[str, dict] | None:
        """The checkpoint to resume from and its `run.json`; says what differs from the run that saved it."""
        if source is None:
            for newest in list_checkpoints(self.folder)[:1]:
                raise ResumeRefused(f"{newest} is of an earlier run: resume it ('auto'), or give another output_dir.")
            return None
        if source == "auto":
            checkpoint = latest_checkpoint(self.folder)
            if checkpoint is None:
                return None
        else:
            checkpoint = Path(source)
            verify_checkpoint(checkpoint)
        instead = f"start a new run from its weights: --model {checkpoint}, another --output_dir and no --resume"
        state = json.loads((checkpoint / RUN_STATE).read_text(encoding="utf-8"))
        saved, now = state["identity"], comparable(self.identity, state["identity"])
        # checkpoints of earlier versions have free fields too
        saved = {**saved, "recipe": {k: v for k, v in saved.get("recipe", {}).items() if k not in FREE_FIELDS}}
        epochs, more = (run.get("recipe", {}).get("epochs", 0) for run in (saved, now))
        if more > epochs > 0:
            saved["recipe"]["epochs"] = more
        if changes := differences(saved, now):
            remedy = f"Give the same again to resume, or {instead}"
            raise ResumeRefused(f"{checkpoint} is of another run: {'; '.join(changes)}. {remedy}.")
        if more > epochs > 0:
            schedule = "the learning rate now follows a schedule over all"
            logger.warning("Resumed for %d instead of %d epochs: %s %d.", more, epochs, schedule, more)
        before, processes = state["num_processes"], self.accelerator.num_processes
        if before != processes and self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            saved_by = f"saved by {before} processes of DeepSpeed, which cannot be resumed on {processes}"
            raise ResumeRefused(f"{checkpoint} was {saved_by}: launch as many, or {instead}.")
        for change in differences(state["versions"], versions()):
            logger.warning("Resumed with other software, so that numbers may differ a little: %s", change)
        if before != processes:
            kept = "noise and dropout stay where processes times accumulation steps do"
            logger.warning("Resumed on %d instead of %d processes: %s.", processes, before, kept)
        for path in [path for path in list_checkpoints(self.folder) if step_of(path) > step_of(checkpoint)]:
            if not first_fault(path):
                remedy = "resume from it (or with 'auto'), or give another output_dir"
                raise ResumeRefused(f"{path} is newer than {checkpoint}: {remedy}.")
            logger.warning("%s is removed, being torn.", path)  # it would count among the newest that are kept
            shutil.rmtree(path)
        return str(checkpoint), state

    def _save_model(self, models: list[torch.nn.Module], weights: list[dict], folder: str) -> None:
        # Accelerate's own file would carry DDP's prefix, and fit neither from_pretrained nor another launch
        # of sharded weights Accelerate has saved the shards, to resume from; here they are gathered for from_pretrained
        gathered = None if weights else self.accelerator.get_state_dict(models[0])
        weights.clear()
        if self.accelerator.is_main_process:
            model, file = self.accelerator.unwrap_model(models[0]), Path(folder) / SAFE_WEIGHTS_NAME
            model.config.save_pretrained(folder)
            try:
                if gathered is None:
                    save_model(model, file, metadata={"format": "pt"})
                else:
                    save_file({name: value.contiguous() for name, value in gathered.items()}, file, {"format": "pt"})
            except SafetensorError as error:
                raise write_error(Path(folder), error, file) from error

    def _load_model(self, models: list[torch.nn.Module], folder: str) -> None:
        if models:
            load_model(self.accelerator.unwrap_model(models.pop()), Path(folder) / SAFE_WEIGHTS_NAME)

    def _load(self, checkpoint: Path, num_processes: int) -> None:
        try:
            self.accelerator.load_state(str(checkpoint))
        except Exception as error:  # verified and of this run, and still it does not fit: say which one
            raise CheckpointError(f"{checkpoint} could not be loaded. {type(error).__name__}: {error}") from error
        if num_processes == self.accelerator.num_processes:
            # Accelerate passes over random numbers that it cannot load
            path = checkpoint / f"random_states_{self.accelerator.process_index}.pkl"
            if not torch.equal(load_tensors(path)["torch_manual_seed"], torch.get_rng_state()):
                raise CheckpointError(f"{path}: the random numbers could not be restored.")

    def _main(self, action: Callable[[], Any]) -> Any:
        """What the action returns on the main process."""
        return self._all(lambda: action() if self.accelerator.is_main_process else None)

    def _all(self, action: Callable[[], Any]) -> Any:
        """What the action returns on the main process; an error on any is raised by all, lest the others wait."""
        error = value = None
        try:
            value = action()
        except Exception as raised:  # whatever it is: raised again below, on every process
            error = raised
        outcomes = gather_object([(error and f"{type(error).__name__}: {error}", value)])
        if error is not None:
            raise error
        for rank, (message, _) in enumerate(outcomes):
            if message:
                raise CheckpointError(f"On process {rank}: {message}")
        return outcomes[0][1]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that differs.

    >>> differences({"recipe": {"seed": 0, "epochs": 12}}, {"recipe": {"seed": 1, "epochs": 12}})
    ['recipe.seed: 0 in the checkpoint, 1 now']
    """
    lines = []
    for key in sorted({*saved, *now}):
        one, other = saved.get(key, "nothing"), now.get(key, "nothing")
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            lines.append(f"{prefix}{key}: {one!r} in the checkpoint, {other!r} now")
    return lines


def comparable(now: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for `now` as JSON has it, without fields of its recipe that are new since and at their default."""
    known, defaults = saved.get("recipe", {}), asdict(Recipe())
    recipe = {k: v for k, v in now.get("recipe", {}).items() if k in known or v != defaults.get(k, v)}
    return json.loads(json.dumps({**now, "recipe": recipe} if "recipe" in now else {**now}))
