"""What commands print beside their results: errors in one line, and nothing of other libraries, unless asked for."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            from transformers.utils import logging  # here, so that --help does not wait for it

            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            yield
        except (ImportError, OSError, ValueError) as error:
            if debug:
                raise
            text = " ".join(str(error).split()) or type(error).__name__
            print(f"{parser.prog}: error: {text}", file=sys.stderr)
            sys.exit(2)
