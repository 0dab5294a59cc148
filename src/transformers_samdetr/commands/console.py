"""The console commands of an installed package: `samdetr-train`, `samdetr-predict`, …"""

from functools import partial
from importlib import import_module


def run(command: str) -> int | None:
    """Runs `commands/{command}.py` with the arguments of this process and returns its exit code."""
    return import_module(f".{command}", __package__).main()


check = partial(run, "check")
convert = partial(run, "convert")
demo = partial(run, "demo")
evaluate = partial(run, "evaluate")
export = partial(run, "export")
predict = partial(run, "predict")
push = partial(run, "push")
train = partial(run, "train")
