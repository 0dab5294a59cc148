"""A model's folder changes file by file, each at once: a run that is killed while saving leaves no half file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

from transformers import PreTrainedConfig

PARTIAL = ".partial-model"


@contextmanager
def saving_beside(folder: Path) -> Iterator[Path]:
    """A new folder to write in, whose files then replace those of the same names in `folder`.

    If writing fails, `folder` is as it was.
    """
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_detection_threshold(folder: Path, config: PreTrainedConfig, threshold: float | None) -> None:
    """Writes `config.json` again with `detection_threshold`, None where none is known.

    The configuration itself stays as it is, and with it the checkpoints of a run that goes on.
    """
    config = copy(config)
    config.detection_threshold = threshold
    config.save_pretrained(folder)
