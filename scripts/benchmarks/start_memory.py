"""Memory and time of a run's start with a set of COCO's size, stage by stage (Linux only).

    python scripts/benchmarks/start_memory.py

118 000 training and 5000 evaluation pictures of 7 objects each are drawn as links to 40 small files. Resident memory
counts pages of library files, which all processes of a machine share; private memory does not. The pages of CUDA's
libraries and Triton, which PyTorch's CPU build lacks, are a column of their own.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train2017": 118_000, "val2017": 5000}
OBJECTS, CLASSES, FILES = 7, 80, 40


def make_set(folder: Path) -> None:
    """Writes pictures and COCO files with polygons."""
    random = np.random.default_rng(0)
    for index in range(FILES):
        Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    categories = [{"id": index, "name": f"class {index}"} for index in range(1, CLASSES + 1)]
    (folder / "annotations").mkdir()
    for split, count in SPLITS.items():
        (folder / split).mkdir()
        images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48} for i in range(count)]
        for image in images:
            os.link(folder / f"{image['id'] % FILES}.jpg", folder / split / image["file_name"])
        annotations = []
        for place in range(count * OBJECTS):
            x, y, width, height = (random.random(4) * [40, 30, 20, 15] + [0, 0, 2, 2]).round(2).tolist()
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            row = {"id": place, "image_id": place // OBJECTS, "category_id": 1 + place % CLASSES}
            row |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, "segmentation": [outline]}
            annotations.append(row)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def status(name: str) -> float:
    """A field of this process's memory, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def of_cuda() -> float:
    """Resident memory of files that PyTorch's CPU build lacks, in MiB."""
    pages, is_cuda = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:") and is_cuda:
            pages += int(line.split()[1])
        elif not line.split()[0].endswith(":"):  # the range and file of those that follow
            is_cuda = any(name in line for name in ("/nvidia/", "/triton/", "cuda"))
    return pages / 1024


def say(stage: str) -> None:
    """Prints a line; the peak is that since the line before."""
    resident, private, peak = (status(name) for name in ("VmRSS", "RssAnon", "VmHWM"))
    seconds = time.process_time()
    print(f"{stage:34s}{resident:9.0f}{private:9.0f}{peak:9.0f}{of_cuda():9.0f}{seconds:9.1f}", flush=True)
    Path("/proc/self/clear_refs").write_text("5")


class StopAfterStep:
    """Ends the run after its first step."""

    def after_step(self, trainer) -> None:
        say("first step")
        sys.exit(0)


def start(data: Path, output: Path) -> None:
    """Starts a run as `samdetr-train` does."""
    print(f"{'MiB':34s}{'resident':>9s}{'private':>9s}{'peak':>9s}{'CUDA':>9s}{'CPU s':>9s}")
    import torch
    import torchvision  # noqa: F401

    say(f"torch {torch.__version__}, torchvision")
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import timm  # noqa: F401
    from transformers import PreTrainedModel  # noqa: F401

    say("transformers, timm, datasets")
    from transformers_samdetr.commands.data_arguments import checked_data_from
    from transformers_samdetr.commands.train import parse
    from transformers_samdetr.training import Trainer, load_model_and_processor
    from transformers_samdetr.training.processes import start_processes

    say("transformers_samdetr")
    start_processes()
    sys.argv = ["train", "--data", str(data), "--output_dir", str(output), "--trackers", "none"]
    sys.argv += ["--backbone_weights", "none", "--image_size", "64"]
    args, recipe = parse()
    data = checked_data_from(args)
    say("data, checked")
    model, processor = load_model_and_processor(recipe, data.names, data.category_ids, data.train)
    trainer = Trainer(model, processor, data.train, data.evaluation, recipe, output, (StopAfterStep(),))
    say("model and trainer")
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a set instead of the drawn one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            data = Path(folder) / "set"
            data.mkdir()
            if os.fork() == 0:  # so that drawing the set does not count
                make_set(data)
                os._exit(0)
            os.wait()
        start(args.data or data, Path(folder) / "out")


if __name__ == "__main__":
    main()
