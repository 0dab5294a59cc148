"""What an upload may be, and how it becomes a picture."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..pictures import PICTURE_FORMATS, picture_to_array, upright


class Refused(ValueError):
    """An upload that is not taken; the message names the file, and says what would be."""


@dataclass(frozen=True)
class Limits:
    """Attributes:
    pictures: at once.
    megabytes: of a file; larger ones are refused while they are uploaded.
    megapixels: of a picture, read from its header before anything is decoded.
    seconds: for one upload, after which no further picture is begun.
    waiting: requests in the queue; further ones are told to come back.
    """

    pictures: int = 100
    megabytes: int = 25
    megapixels: float = 50.0
    seconds: float = 120.0
    waiting: int = 32

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be a finite number above 0.")


def read_upload(path: str | os.PathLike, limits: Limits) -> Image.Image:
    """The upright RGB picture of a file.

    Raises:
        Refused: it is too large, empty, or not a picture that can be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > limits.megabytes * 1e6:
        raise Refused(f"{path.name} has {size / 1e6:.1f} MB: at most {limits.megabytes} MB are taken.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path, formats=PICTURE_FORMATS) as image:
                _check_pixels(path.name, image.size, limits)
                return Image.fromarray(picture_to_array(upright(image)))
    except Refused:
        raise
    except Image.DecompressionBombError:  # so many that Pillow does not even read the header's numbers out
        raise Refused(
            f"{path.name} has far more than {limits.megapixels:g} megapixels. Make it smaller first."
        ) from None
    except UnidentifiedImageError:
        reason = "it is empty" if size == 0 else "no picture format that is known here"
        raise Refused(f"{path.name} cannot be read: {reason}.") from None
    except Exception as error:  # decoders raise all kinds for broken files
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise Refused(f"{path.name} cannot be read: {reason}.") from error


def _check_pixels(name: str, size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.megapixels * 1e6:
        raise Refused(
            f"{name} has {size[0]} x {size[1]} pixels, {size[0] * size[1] / 1e6:.0f} megapixels: at most "
            f"{limits.megapixels:g} are taken. Make it smaller first."
        )
