"""Files of a data set: texts in any common encoding, and pictures by their names."""

from pathlib import Path


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        ValueError: it is not UTF-8, naming the file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}.") from error
