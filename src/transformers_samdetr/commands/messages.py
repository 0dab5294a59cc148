"""The parser of all commands, and what they print beside results: errors in one line, no bars or warnings of libraries.

Arguments are checked before PyTorch and Transformers are imported, so that a mistyped one is answered at once.
"""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from ..training.checkpoint import find_model

PACKAGES_OF_TRAIN = ("accelerate", "datasets", "evaluate", "hotcoco", "matplotlib", "rich")
"""What the extra `train` installs."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class CommandParser(argparse.ArgumentParser):
    """Prints a mistake as one line with the nearest valid word; `--verbose` and `--debug` are for `plain_messages`."""

    def __init__(self, description: str | None, usage: str | None = None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, usage=usage, formatter_class=formatter)
        self.add_argument("--verbose", action="store_true", help="show progress bars and warnings of libraries")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self.verbose = self.debug = False
        self.checks = {"checkpoint": check_file, "data": check_data, "model": check_model, "compare_with": check_model}
        """Of arguments by name, what raises a ValueError if they name nothing that can be read."""

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse's, without `verbose` and `debug`, which become the parser's; checks what is to be read."""
        found = super().parse_args(args, namespace)
        self.verbose, self.debug = (vars(found).pop(name) for name in ("verbose", "debug"))
        for name, check in self.checks.items():
            given = getattr(found, name, None) or []
            for text in [given] if isinstance(given, str) else given:
                try:
                    check(text)
                except ValueError as error:
                    self.error(f"argument --{name}: {error}")
        return found

    def error(self, message: str) -> NoReturn:
        words, known = [], list(self._option_string_actions)
        if message.startswith("unrecognized arguments: "):
            words = [word.split("=")[0] for word in message.split()[2:] if word.startswith("--")]
        elif choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            words, known = [choice[1]], [word.strip(" '") for word in choice[2].split(",")]
        near = [match for word in words for match in get_close_matches(word, known, 1)]
        hint = f". Did you mean {', '.join(near)}?" if near else "; --help lists all options" if words else ""
        print(f"{self.prog}: error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)

    @contextmanager
    def plain_messages(self) -> Iterator[None]:
        """Mistakes of the user within end the command with `error: …` and exit code 2; libraries are silent."""
        with warnings.catch_warnings():
            if not (self.verbose or self.debug):
                warnings.simplefilter("ignore")
                for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
                    os.environ.setdefault(f"{library}_VERBOSITY", "error")
                from transformers.utils import logging  # here, so that --help does not wait for it

                logging.set_verbosity_error()
                logging.disable_progress_bar()
            try:
                yield
            except (ImportError, OSError, ValueError) as error:
                package = getattr(error, "name", None) or ""
                if self.debug or package.startswith(__package__.split(".")[0]):  # a fault of ours
                    raise
                text = " ".join(str(error).split()) or type(error).__name__
                if isinstance(error, ModuleNotFoundError) and package.split(".")[0] in PACKAGES_OF_TRAIN:
                    text = f'the package {package} is not installed: pip install "transformers-samdetr[train]"'
                print(f"{self.prog}: error: {text}", file=sys.stderr)
                sys.exit(2)


def none_or(kind: type) -> Callable[[str], object]:
    """Reads a value that may be `none`."""

    def read(word: str) -> object:
        return None if word.lower() == "none" else kind(word)

    read.__name__ = kind.__name__  # for argparse's message
    return read


def named(kind: type) -> Callable[[str], tuple[str, object]]:
    """Reads a name and a value, NAME=VALUE."""

    def read(text: str) -> tuple[str, object]:
        name, value = map(str.strip, text.split("="))
        if not name:
            raise ValueError
        return name, kind(value)

    read.__name__ = "NAME=VALUE"
    return read


# Checks: each raises a ValueError, with the nearest name, if a text names nothing that can be read


def check_file(text: str) -> None:
    """That a file to read exists."""
    if not Path(text).is_file():
        near = nearest_path(Path(text))
        if Path(text).is_dir():
            raise ValueError(f"{text} is a folder: give a file")
        raise ValueError(f"there is no file {text}" + (f"; did you mean {near}?" if near else ""))


def check_model(text: str, presets: Collection[str] = ()) -> None:
    """That a saved model is a folder with one, a name on the Hub, `USER/NAME`, or one of the presets."""
    path = Path(text)
    if not path.is_dir() and text not in presets:
        _check_hub_name(text, path, "model", presets)
    elif path.is_dir() and not (path / "config.json").is_file():
        saved = find_model(path)
        hint = f"; training has saved {saved}" if saved else ", so it holds no saved model"
        raise ValueError(f"the folder {text} has no config.json{hint}")


def check_detector(text: str) -> None:
    """As `check_model`, or a file or folder that `samdetr-export` has written."""
    path = Path(text)
    if not (path.suffix in (".onnx", ".pt2") and path.is_file() or (path / "model.xml").is_file()):
        check_model(text)


def check_data(text: str) -> None:
    """That data are `digits`, an existing path, or a name on the Hub."""
    path = Path(text).expanduser()
    if text == "digits" or path.exists():
        return
    if get_close_matches(text, ["digits"], 1, 0.8):
        raise ValueError(f"there is no data set {text!r}; did you mean digits?")
    if "/" in text or nearest_path(path):  # the Hub has sets without a user's name
        _check_hub_name(text, path, "data set")


def nearest_path(path: Path) -> str | None:
    """The entry of the same folder whose name is most like the path's, or None."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, 1, 0.7)
    return str(path.parent / near[0]) if near else None


def _check_hub_name(text: str, path: Path, kind: str, presets: Collection[str] = ()) -> None:
    """That it can be a name on the Hub, and is no path that was mistyped."""
    near = nearest_path(path)
    if HUB_NAME.fullmatch(text) and not near and not Path(path.parts[0]).is_dir():
        return
    if path.exists():
        raise ValueError(f"{text!r} is a file, not the folder of a {kind}")
    near = near or next(iter(get_close_matches(text, presets, 1)), None)
    hint = f"; did you mean {near}?" if near else f"; presets are {', '.join(presets)}" if presets else ""
    raise ValueError(f"{text!r} is neither a folder nor a Hub name (USER/NAME) of a {kind}{hint}")
