"""The parser of all commands, and what they print beside results: errors in one line, no bars or warnings of libraries.

Arguments are checked before PyTorch and Transformers are imported, so that a mistyped one is answered at once.
"""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from ..presets import PRESETS
from ..training.checkpoint import find_model

PACKAGES_OF_TRAIN = ("accelerate", "datasets", "evaluate", "hotcoco", "jinja2", "matplotlib", "rich")
"""What the extra `train` installs."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class CommandParser(argparse.ArgumentParser):
    """Prints a mistake as one line with the nearest valid word, in place of the usage of all options."""

    def __init__(self, description: str | None, usage: str | None = None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, usage=usage, formatter_class=formatter)
        self.checks = {"checkpoint": check_file, "data": check_data, "model": check_model, "compare_with": check_model}
        """Of arguments by name, what raises a ValueError if they name nothing that can be read."""

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse's; then checks what is to be read."""
        found = super().parse_args(args, namespace)
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
        print(f"{self.prog}: error: {one_line(message)}{hint}", file=sys.stderr)
        sys.exit(2)


def add_message_arguments(parser: argparse.ArgumentParser) -> None:
    """`--verbose` and `--debug`, for `plain_messages`."""
    parser.add_argument("--verbose", action="store_true", help="show progress bars and warnings of libraries")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


@contextmanager
def plain_messages(parser: argparse.ArgumentParser, verbose: bool = False, debug: bool = False) -> Iterator[None]:
    """Mistakes of the user within end the command with `error: …` and exit code 2; libraries are silent.

    Args:
        parser: of the command, for its name in the error.
        verbose: whether to leave progress bars of loading and warnings of libraries as they are.
        debug: whether to raise errors as they are.
    """
    with warnings.catch_warnings():
        if not (verbose or debug):
            warnings.simplefilter("ignore")
            for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
                os.environ.setdefault(f"{library}_VERBOSITY", "error")
            from transformers.utils import logging  # here, so that --help does not wait for it

            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            from .. import auto_classes  # noqa: F401  registers the classes with Transformers' Auto classes

            yield
        except (ImportError, OSError, ValueError) as error:
            package = getattr(error, "name", None) or ""
            if debug or package.startswith(__package__.split(".")[0]):  # a fault of ours
                raise
            text = one_line(str(error)) or type(error).__name__
            if isinstance(error, ModuleNotFoundError) and package.split(".")[0] in PACKAGES_OF_TRAIN:
                text = f'the package {package} is not installed: pip install "transformers-samdetr[train]"'
            print(f"{parser.prog}: error: {text}", file=sys.stderr)
            sys.exit(2)


def one_line(text: str) -> str:
    """The text with all whitespace as single spaces."""
    return " ".join(text.split())


def check_file(text: str) -> None:
    """That a file to read exists.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if not Path(text).is_file():
        near = nearest_path(Path(text))
        raise ValueError(f"there is no file {text}" + (f"; did you mean {near}?" if near else ""))


def check_model(text: str) -> None:
    """That a saved model is a folder with one, or a name on the Hub, `USER/NAME`.

    Raises:
        ValueError: it is neither, or a folder without a model; names the nearest folder.
    """
    path = Path(text)
    if (path / "config.json").is_file():
        return
    if path.is_dir():
        saved = find_model(path)
        hint = f"; training has saved {saved}" if saved else ", so it holds no saved model"
        raise ValueError(f"the folder {text} has no config.json{hint}")
    _check_hub_name(text, path, "model")


def check_model_or_preset(text: str) -> None:
    """As `check_model`, or that it is a preset."""
    try:
        if text not in PRESETS:
            check_model(text)
    except ValueError as error:
        near = get_close_matches(text, PRESETS, 1)
        presets = f"did you mean {near[0]}?" if near else f"presets are {', '.join(PRESETS)}"
        raise ValueError(f"{error}; {presets}") from None


def check_data(text: str) -> None:
    """That data are `digits`, an existing path, or a name on the Hub.

    Raises:
        ValueError: it is a path and does not exist; names the nearest one.
    """
    path = Path(text).expanduser()
    if text == "digits" or path.exists():
        return
    if get_close_matches(text, ["digits"], 1, 0.8):
        raise ValueError(f"there is no data set {text!r}; did you mean digits?")
    if "/" in text or nearest_path(path):  # the Hub has sets without a user's name
        _check_hub_name(text, path, "data set")


def nearest_path(path: Path) -> str | None:
    """The entry of the same folder whose name is most like the path's, or None."""
    parent = path.parent
    names: Iterable[str] = (entry.name for entry in parent.iterdir()) if parent.is_dir() else ()
    near = get_close_matches(path.name, [*names], 1, 0.7)
    return str(parent / near[0]) if near else None


def _check_hub_name(text: str, path: Path, kind: str) -> None:
    """That it can be a name on the Hub, and is no path that was mistyped."""
    near = nearest_path(path)
    if HUB_NAME.fullmatch(text) and not text.startswith(".") and not near and not Path(path.parts[0]).is_dir():
        return
    what = "is a file, not the folder of a" if path.exists() else "is neither a folder nor a Hub name (USER/NAME) of a"
    hint = f"; did you mean {near}?" if near and not path.exists() else ""
    raise ValueError(f"{text!r} {what} {kind}{hint}")
