"""A training run of some seconds, for tests that kill and resume it in processes of its own."""

import json
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np
from accelerate.utils import set_seed
from datasets import Dataset
from PIL import Image

from tests.models import SMALL_BACKBONE, tiny_model
from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.data.stream import with_length
from transformers_samdetr.training import Checkpointing, Recipe, Trainer
from transformers_samdetr.training.interruption import EXIT_REQUEUE, explain_lost_process, on_stop_signal

NAMES = ["a", "b", "c", "d", "e"]


def pictures(count, seed, sizes=(10, 30)):
    """Noise with up to three objects a picture, of such widths and heights, and none in every third."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        objects = 0 if index % 3 == 2 else int(random.integers(1, 4))
        boxes = [
            [float(x) for x in (*random.integers(0, 64 - sizes[1], 2), *random.integers(*sizes, 2))]
            for _ in range(objects)
        ]
        rows.append(
            {
                "image": Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)),
                "image_id": index,
                "width": 64,
                "height": 64,
                "objects": {
                    "id": list(range(objects)),
                    "area": [box[2] * box[3] for box in boxes],
                    "bbox": boxes,
                    "category": [int(label) for label in random.integers(0, len(NAMES), objects)],
                    "iscrowd": [0] * objects,
                },
            }
        )
    return Dataset.from_list(rows, features=detection_features(NAMES))


class Slow:
    """Gives the test time to send a signal, or asks to stop after a step."""

    def __init__(self, seconds, stop_after=None):
        self.seconds, self.stop_after = seconds, stop_after

    def after_step(self, trainer):
        time.sleep(self.seconds)
        if trainer.progress.global_step == self.stop_after:
            trainer.request_stop()

    def after_epoch(self, trainer):
        pass

    def when_stopped(self, trainer):
        pass


def run_training(
    folder,
    resume="auto",
    every=1,
    pause=0.0,
    model=None,
    number=10,
    fingerprint="noise",
    stream=False,
    stop_after=None,
    **recipe,
):
    """Trains as `scripts/train.py` does, and returns whether it was resumed; SystemExit(EXIT_REQUEUE) if stopped."""
    set_seed(0)
    recipe = Recipe(**{"name": "test", "learning_rate": 1e-3, "epochs": 3, "batch_size": 4, "ema_decay": 0.9, **recipe})
    model = tiny_model(
        **{"num_denoising_groups": 2, "backbone_config": SMALL_BACKBONE, "dropout": 0.1, **(model or {})}
    )
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    saving = Checkpointing(fingerprint, every)
    train, evaluation = pictures(number, 0), pictures(3, 1)
    if stream:
        train = with_length(train.to_iterable_dataset(num_shards=4), number)
        evaluation = evaluation.to_iterable_dataset()
    hooks = saving, Slow(pause, stop_after)
    trainer = Trainer(model, processor, train, evaluation, recipe, folder, hooks, peer_timeout=30)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with explain_lost_process(folder), on_stop_signal(trainer.request_stop):
        resumed = saving.start(trainer, resume)
        (Path(folder) / f"started-{trainer.accelerator.process_index}").touch()
        trainer.train()
    if trainer.stopped:
        raise SystemExit(EXIT_REQUEUE)
    return resumed


def write_output_to(path):
    """What this process writes to the terminal goes into a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run_script(*arguments, output=None):
    """`scripts/train.py` with these arguments, in a process that has imported all of it already.

    `output` is a file that gets what it writes to the terminal; the test itself does not see that.
    """
    if output is not None:
        write_output_to(output)
    script = Path(__file__).parents[1] / "scripts" / "train.py"
    sys.argv = [str(script), *map(str, arguments)]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":  # what the tests of launchers launch: folder, and keyword arguments as JSON
    run_training(sys.argv[1], **json.loads(sys.argv[2]))
