"""Pictures of any kind to arrays as they are displayed: upright, eight bits, three channels.

Transformers' backends take it from here; what they do not do is apply the EXIF orientation of a picture that is already
open, and keep the tones of pictures with more than eight bits.
"""

import base64
import binascii
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.image_transforms import convert_to_rgb

EXIF_ORIENTATION = 0x0112
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a URL is given up."""
MOST_BYTES = 2**30
"""A file or download that is larger than this is no picture; how many pixels it may have, Pillow limits."""
PICTURE_FORMATS = tuple("JPEG PNG GIF BMP DIB WEBP TIFF PPM AVIF JPEG2000".split())
"""Formats that are read, by Pillow's names; JPEG is MPO too. Pillow knows more, and gives EPS to another program."""
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .avif .jp2".split())
"""Of such files, in lower case."""


class UnreadablePictureError(ValueError):
    """A file, or what was given as a picture, cannot be read as one.

    Attributes:
        reason: why, without the name that the message begins with.
    """

    def __init__(self, message: str, reason: str | None = None):
        super().__init__(message)
        self.reason = message if reason is None else reason


def open_picture(source: str | os.PathLike) -> Image.Image:
    """Opens a local path, an `http(s)` URL, a data URI or a base64 string, in the picture's own mode and upright.

    The mode is kept, unlike in Transformers' `load_image`, which cuts a 16-bit picture off at 255.

    Raises:
        ValueError: `source` is none of these, or `UnreadablePictureError`: it holds no picture.
        FileNotFoundError: `source` is an `os.PathLike` to nowhere.
    """
    if isinstance(source, os.PathLike) or os.path.isfile(source):
        return read_picture(source, str(source))
    if source.startswith(("http://", "https://")):
        return read_picture(_download(source), source)
    try:
        content = base64.b64decode(source.split(",")[-1].encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        content = b""
    if not content:
        raise ValueError(
            f"{source[:200]!r} is not a picture: expected the path of an existing file, a URL that starts with "
            "http:// or https://, or a base64 string."
        )
    return read_picture(content, f"The base64 string {source[:40]!r}…")


def _download(url: str) -> bytes:
    try:  # here, since it takes a while, and only pictures given as a URL need it
        import httpx
    except ImportError as error:  # it comes with Transformers
        raise ValueError(f"To open the URL {url}, `pip install httpx`, or download it and give its path.") from error
    content = bytearray()
    with httpx.stream("GET", url, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                raise UnreadablePictureError(f"{url} has more than {MOST_BYTES} bytes, which no picture needs.")
    return bytes(content)


def read_picture(content: bytes | str | os.PathLike, name: str) -> Image.Image:
    """The whole picture, decoded, in its own mode and upright.

    Args:
        content: bytes of a file, or its path.
        name: what errors call it.

    Raises:
        UnreadablePictureError: it is broken, too large, of none of `PICTURE_FORMATS`, or no regular file.
        FileNotFoundError, PermissionError: of the path.
    """
    # read at once: a long list of paths must not keep as many files open
    with opened_picture(content, name) as image:
        image.load()
        return upright(image)


@contextmanager
def opened_picture(content: bytes | str | os.PathLike, name: str) -> Iterator[Image.Image]:
    """A picture of which only the header is read; arguments and errors as of `read_picture`, also from within."""
    with naming_errors(name):
        if not isinstance(content, bytes):
            require_file(content)
        file = BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file, formats=PICTURE_FORMATS) as image:
            yield image


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Whatever decoders raise within becomes an `UnreadablePictureError` that begins with the name."""
    try:
        yield
    except (UnreadablePictureError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # for broken files they raise all kinds, IndexError and MemoryError among them
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(PICTURE_FORMATS)}"
        raise UnreadablePictureError(f"{name} cannot be read as a picture: {reason}", reason) from error


def require_file(path: str | os.PathLike) -> None:
    """Refuses what would be read without an end, such as a pipe, and what is too large for a picture.

    Links are followed: whoever made one in a folder has chosen where it leads.

    Raises:
        UnreadablePictureError: it is no regular file, or larger than `MOST_BYTES`.
        FileNotFoundError: there is none.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        reason = "it is a folder, a pipe or a device, not a file"
    elif status.st_size > MOST_BYTES:
        reason = f"it has {status.st_size} bytes, more than {MOST_BYTES}"
    else:
        return
    raise UnreadablePictureError(f"{path} cannot be read as a picture: {reason}", reason)


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or the EXIF data are damaged, as viewers take it."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's parser raises all kinds, and the pixels are good without it
        return 1
    return orientation if orientation in range(1, 9) else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it: its EXIF orientation applied, and the tag removed."""
    if exif_orientation(image) == 1:
        return image  # exif_transpose would copy it
    return ImageOps.exif_transpose(image)


def picture_to_array(image: Image.Image, to_rgb: bool | None = True) -> np.ndarray:
    """The upright pixels of a PIL picture.

    Args:
        image: of any mode and EXIF orientation.
        to_rgb: makes 8-bit RGB of every mode, transparent parts over white. Otherwise the pixels stay as they are
            stored: indices of a palette, 16-bit tones, or an alpha channel.

    Returns:
        `(H, W, 3)` uint8, or `(H, W)` and `(H, W, C)` of the stored type without `to_rgb`.

    Raises:
        UnreadablePictureError: its file, read not before now, is broken, or its tones have no meaning.
    """
    name = getattr(image, "filename", "") or f"A PIL picture of {image.width}x{image.height}, mode {image.mode},"
    with naming_errors(str(name)):
        return _to_array(image, to_rgb)


def _to_array(image: Image.Image, to_rgb: bool | None) -> np.ndarray:
    image = upright(image)
    if not to_rgb:
        return np.array(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_deep_grey_to_eight_bits(np.asarray(image), image.mode))
    elif image.mode in ("La", "RGBa"):  # alpha already multiplied in; they convert to their plain kind only
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    return convert_to_rgb(image, return_numpy=True)


def check_pixels(pixels: np.ndarray | torch.Tensor) -> None:
    """Refuses an array that cannot be a picture: of no pixels, or of values that are no finite numbers.

    Raises:
        UnreadablePictureError: naming the shape and the type, and what would be right.
    """
    if isinstance(pixels, torch.Tensor):
        is_number, is_float = not pixels.is_complex(), pixels.is_floating_point()
    else:
        is_number, is_float = pixels.dtype.kind in "buif", pixels.dtype.kind == "f"
    what = f"A picture given as an array of shape {tuple(pixels.shape)} and type {pixels.dtype}"
    if not is_number:
        raise UnreadablePictureError(f"{what} is none: give uint8 of 0 to 255, or floats.")
    if 0 in tuple(pixels.shape):
        raise UnreadablePictureError(f"{what} has no pixels.")
    if is_float and not (torch.isfinite(pixels) if isinstance(pixels, torch.Tensor) else np.isfinite(pixels)).all():
        raise UnreadablePictureError(f"{what} has values that are not finite.")


def sixteen_to_eight_bits(pixels: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Scales unsigned 16-bit pixels to uint8, 65535 to 255, rounding to the nearest; other types pass unchanged.

    >>> sixteen_to_eight_bits(np.array([0, 128, 129, 65535], dtype=np.uint16))
    array([  0,   0,   1, 255], dtype=uint8)
    """
    if isinstance(pixels, torch.Tensor):
        # 257 * 255 = 65535, and 32-bit integers because torch computes little in uint16
        return ((pixels.to(torch.int32) + 128) // 257).to(torch.uint8) if pixels.dtype == torch.uint16 else pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of either byte order
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def _deep_grey_to_eight_bits(pixels: np.ndarray, mode: str) -> np.ndarray:
    """`(H, W)` tones of PIL's modes I;16, I and F to uint8.

    Mode I is how PIL opens some 16-bit files, but also what an array of 32-bit integers becomes, and F holds [0, 1] as
    often as [0, 255]: the largest tone decides between the two readings.
    """
    if mode.startswith("I;16"):
        return sixteen_to_eight_bits(pixels.astype(np.uint16))
    lowest, highest = pixels.min(), pixels.max()
    limit = 65535 if mode == "I" else 255
    if not (lowest >= 0 and highest <= limit):  # so that NaN fails too
        raise ValueError(
            f"A picture of mode {mode} has tones from {lowest} to {highest}, which have no meaning as grey: "
            f"scale it to [0, {limit}] first."
        )
    if mode == "I" and highest > 255:
        return sixteen_to_eight_bits(pixels.astype(np.uint16))
    return np.rint(pixels * 255 if mode == "F" and highest <= 1 else pixels).astype(np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # absent from some builds of Pillow, and rarely needed

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
