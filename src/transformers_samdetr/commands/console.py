"""The console commands of an installed package: `samdetr-train`, `samdetr-predict`, …

Each is imported when it is called, so that a package that is not installed is named with the extra that brings it.
"""

import sys
from functools import partial
from importlib import import_module

EXTRAS = {"train": "train", "evaluate": "train", "check": "train"}
"""Of each command that needs more than the package does; `pip install "transformers-samdetr[EXTRA]"`."""


def run(command: str) -> int | None:
    """Runs `commands/{command}.py` with the arguments of this process and returns its exit code.

    Raises:
        SystemExit: a package of the command's extra is missing; the message has the line that installs it.
    """
    try:
        module = import_module(f".{command}", __package__)
    except ModuleNotFoundError as error:
        if command not in EXTRAS or (error.name or "").startswith(__package__.split(".")[0]):
            raise
        sys.exit(
            f"samdetr-{command} needs the package {error.name}, which is not installed: "
            f'pip install "transformers-samdetr[{EXTRAS[command]}]"'
        )
    return module.main()


check = partial(run, "check")
convert = partial(run, "convert")
demo = partial(run, "demo")
evaluate = partial(run, "evaluate")
export = partial(run, "export")
predict = partial(run, "predict")
push = partial(run, "push")
train = partial(run, "train")
