"""Pictures of any kind, from a path or URL to a tensor, to the same array: upright, eight bits, three channels.

Transformers' backends apply neither the EXIF orientation of an open picture nor the range of values of an array.
"""

import base64
import binascii
import math
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.utils import logging

logger = logging.get_logger(__name__)

EXIF_ORIENTATION = 0x0112
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a URL is given up."""
MOST_BYTES = 2**30
"""Largest file or download that is read; Pillow limits the number of pixels."""
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Ranges of values that cameras and scanners store in 16 bits: 0 to 2**depth - 1."""
PICTURE_FORMATS = tuple("JPEG PNG GIF BMP DIB WEBP TIFF PPM AVIF JPEG2000".split())
"""Formats that are read, by Pillow's names; JPEG is MPO too. Pillow knows more, and gives EPS to another program."""
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .avif .jp2".split())
"""Of such files, in lower case."""
Pixels = np.ndarray | torch.Tensor


class UnreadablePictureError(ValueError):
    """What was given as a picture cannot be read as one; `reason` is the message without the name of the file."""

    def __init__(self, message: str, reason: str | None = None):
        super().__init__(message)
        self.reason = message if reason is None else reason


def open_picture(source: str | os.PathLike, timeout: float | None = None) -> Image.Image:
    """Opens a local path, an `http(s)` URL, a data URI or a base64 string, in the picture's own mode and upright.

    The mode is kept, unlike in Transformers' `load_image`, which clips a 16-bit picture at 255. A URL is given up
    after `timeout` seconds without an answer, by default `DOWNLOAD_TIMEOUT`. A `source` that is none of these is a
    ValueError, one without a picture an `UnreadablePictureError`, an `os.PathLike` to nowhere a FileNotFoundError.
    """
    if isinstance(source, os.PathLike) or os.path.isfile(source):
        return read_picture(source, str(source))
    if source.startswith(("http://", "https://")):
        return read_picture(download(source, timeout or DOWNLOAD_TIMEOUT), source)
    try:
        content = base64.b64decode(source.split(",")[-1].encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        content = b""
    if not content:
        kinds = "the path of an existing file, a URL that starts with http:// or https://, or a base64 string"
        raise ValueError(f"{source[:200]!r} is not a picture: give {kinds}.")
    return read_picture(content, f"The base64 string {source[:40]!r}…")


def download(url: str, timeout: float, most_bytes: int = MOST_BYTES, most_seconds: float = math.inf) -> bytes:
    """What an address holds, or a ValueError where it is more or takes longer; redirects stay in the web."""
    try:  # here, since it takes a while, and only pictures given as a URL need it
        import httpx
    except ImportError as error:  # it comes with Transformers
        raise ValueError(f"To open the URL {url}, `pip install httpx`, or download it and give its path.") from error
    begin, content = time.monotonic(), bytearray()
    with (
        httpx.Client(follow_redirects=True, max_redirects=5, timeout=timeout) as client,
        client.stream("GET", url) as response,
    ):
        response.raise_for_status()
        for piece in response.iter_bytes():  # as it arrives
            content += piece
            if len(content) > most_bytes:
                raise ValueError(f"{url} has more than {most_bytes} bytes")
            if time.monotonic() - begin > most_seconds:
                raise ValueError(f"{url} takes longer than {most_seconds:g} s")
    return bytes(content)


def read_picture(content: bytes | str | os.PathLike, name: str) -> Image.Image:
    """The whole picture, decoded, in its own mode and upright; `content` is a file's path or bytes, `name` for errors.

    What is broken, too large, of none of `PICTURE_FORMATS`, or no regular file is an `UnreadablePictureError`.
    """
    # read at once: a long list of paths must not keep as many files open
    with opened_picture(content, name) as image:
        try:
            image.load()
        except ValueError:  # Pillow refuses a long text chunk behind the pixels only now
            if image.format != "PNG":
                raise
            image = _open_without_texts(content)
            image.load()
        return upright(image)


@contextmanager
def opened_picture(content: bytes | str | os.PathLike, name: str) -> Iterator[Image.Image]:
    """A picture of which only the header is read; arguments and errors as of `read_picture`, also from within."""
    with naming_errors(name):
        if not isinstance(content, bytes):
            require_file(content)
        try:
            image = Image.open(BytesIO(content) if isinstance(content, bytes) else content, formats=PICTURE_FORMATS)
        except ValueError:  # Pillow refuses a PNG with more than 1 MiB of text, which nothing here reads
            image = _open_without_texts(content)
        with image:
            yield image


def _open_without_texts(content: bytes | str | os.PathLike) -> Image.Image:
    """A PNG file without its text chunks."""
    data = memoryview(content if isinstance(content, bytes) else Path(content).read_bytes())
    kept, start = [data[:8]], 8
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + length
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[start:end])
        start = end
    return Image.open(BytesIO(b"".join(kept)), formats=("PNG",))


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
    """Refuses what would be read without an end, such as a pipe, and what is larger than `MOST_BYTES`.

    Links are followed: whoever made one in a folder has chosen where it leads. Errors are those of `read_picture`.
    """
    status = os.stat(path)
    with naming_errors(str(path)):
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is a folder, a pipe or a device, not a file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it has {status.st_size} bytes, more than {MOST_BYTES}")


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or the EXIF data are damaged, as viewers take it."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's parser raises all kinds, and the pixels are good without it
        return 1
    return orientation if orientation in range(1, 9) else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it: its EXIF orientation applied, and the tag removed."""
    return image if exif_orientation(image) == 1 else ImageOps.exif_transpose(image)  # which would copy it


def picture_to_array(image: Image.Image, to_rgb: bool | None = True) -> np.ndarray:
    """The upright pixels of a PIL picture of any mode: `(H, W, 3)` uint8, transparent parts over white.

    Without `to_rgb` they are `(H, W)` or `(H, W, C)` as stored: indices of a palette, 16-bit tones, an alpha channel. A
    broken file, read not before now, or tones without meaning are an `UnreadablePictureError`.
    """
    name = getattr(image, "filename", "") or f"A PIL picture of {image.width}x{image.height}, mode {image.mode},"
    with naming_errors(str(name)):
        image = upright(image)
        if not to_rgb:
            return np.array(image)
        if image.mode == "F" or image.mode.startswith("I"):  # I is also how Pillow opens some 16-bit files
            tones = np.asarray(image)
            try:
                eight_bits = floats_to_eight_bits(_integers_to_eight_bits(tones))
            except UnreadablePictureError as error:
                raise ValueError(f"its tones from {tones.min()} to {tones.max()} have no meaning as grey") from error
            image = Image.fromarray(np.rint(eight_bits).clip(0, 255).astype(np.uint8))
        elif image.mode in ("La", "RGBa"):  # alpha already multiplied in; they convert to their plain kind only
            image = image.convert(image.mode.upper())
        elif image.mode == "LAB":
            from PIL import ImageCms  # absent from some builds of Pillow, and rarely needed

            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def read_array(pixels: Pixels, to_rgb: bool | None, layout: str | ChannelDimension | None) -> Pixels:
    """A picture given as an array, in the same order of axes: integers of 8 bits, floats as they are.

    With `to_rgb` one channel becomes three, and so do four, transparent parts white; `layout` says where they are.
    Without pixels, or with values that are not finite or beyond 16 bits, it is an `UnreadablePictureError`.
    """
    what = f"A picture given as an array of shape {tuple(pixels.shape)} and type {pixels.dtype}"
    if pixels.is_complex() if isinstance(pixels, torch.Tensor) else pixels.dtype.kind not in "buif":
        raise UnreadablePictureError(f"{what} is none: give uint8 of 0 to 255, or floats.")
    if 0 in tuple(pixels.shape):
        raise UnreadablePictureError(f"{what} has no pixels.")
    if _is_float(pixels) and not (math.isfinite(pixels.min()) and math.isfinite(pixels.max())):
        raise UnreadablePictureError(f"{what} has values that are not finite.")
    if isinstance(pixels, np.ndarray):  # torch reads the machine's byte order only, and no array[:, :, ::-1]
        pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    if pixels.ndim == 3 and layout is None and not {1, 3, 4} & {pixels.shape[0], pixels.shape[2]}:
        raise UnreadablePictureError(f"{what} has not 1, 3 or 4 channels, first or last: leave the others out.")
    pixels = _integers_to_eight_bits(pixels)
    if to_rgb and pixels.ndim == 3 and {1, 4} & {pixels.shape[0], pixels.shape[2]}:
        layout = layout or infer_channel_dimension_format(pixels, num_channels=(1, 3, 4))
        axis = 2 if layout == ChannelDimension.LAST else 0
        if pixels.shape[axis] == 4:
            return _flatten_alpha(pixels, axis)
        if pixels.shape[axis] == 1:
            return pixels.repeat_interleave(3, axis) if isinstance(pixels, torch.Tensor) else pixels.repeat(3, axis)
    return pixels


def _is_float(pixels: Pixels) -> bool:
    return pixels.is_floating_point() if isinstance(pixels, torch.Tensor) else pixels.dtype.kind == "f"


def _as_type(pixels: Pixels, name: str) -> Pixels:
    return pixels.to(getattr(torch, name)) if isinstance(pixels, torch.Tensor) else pixels.astype(name)


def _integers_to_eight_bits(pixels: Pixels) -> Pixels:
    """Integers to uint8: scaled by the smallest of `BIT_DEPTHS` that holds them; booleans to 0 and 255; floats stay.

    >>> _integers_to_eight_bits(np.array([0, 128, 129, 65535], dtype=np.uint16))
    array([  0,   0,   1, 255], dtype=uint8)
    >>> _integers_to_eight_bits(np.array([0, 2048, 4095], dtype=np.uint16))
    array([  0, 128, 255], dtype=uint8)
    """
    if _is_float(pixels) or pixels.dtype in (np.uint8, torch.uint8):
        return pixels
    if pixels.dtype in (bool, torch.bool):
        return _as_type(pixels, "uint8") * 255
    wide = _as_type(pixels, "int64")  # torch computes little in uint16
    lowest, highest = int(wide.min()), int(wide.max())
    if lowest < 0 or highest > 65535:
        raise UnreadablePictureError(f"A picture has pixels of {lowest} to {highest}: give 0 to 255, or 0 to 65535.")
    depth = next(depth for depth in BIT_DEPTHS if highest < 2**depth)
    if 8 < depth < 16:
        logger.warning_once(
            f"A 16-bit picture whose highest value is {highest} is read as one of {depth} bits. "
            "Scale pictures to 8 bits yourself for another range."
        )
    limit = 2**depth - 1
    return _as_type((wide * 255 + limit // 2) // limit, "uint8")  # rounds to the nearest


def floats_to_eight_bits(pixels: Pixels) -> Pixels:
    """Floats in [0, 1], as of `ToTensor` and `plt.imread`, to uint8; likewise whole numbers of any depth.

    Values may pass their range by 15 %, as after bicubic resizing; those of [0, 1] are clipped then. Integers, and
    floats in [0, 255] that are not all whole, pass unchanged. What is negative or larger is refused.

    >>> floats_to_eight_bits(np.array([0.0, 0.5, 1.0]))
    array([  0, 128, 255], dtype=uint8)
    """
    if not _is_float(pixels):
        return pixels
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not -0.15 * max(highest, 1) <= lowest <= highest <= 65535:
        remedy = "give [0, 1] or [0, 255]; for normalised pixels, do_rescale=False and do_normalize=False"
        raise UnreadablePictureError(f"A picture of floats has values from {lowest:g} to {highest:g}: {remedy}.")
    if highest <= 1.15:
        return _as_type((pixels.clip(0, 1) * 255).round(), "uint8")
    whole = _as_type(pixels, "float32").clip(0, 65535).round()  # float16 ends at 65504
    if highest > 255 * 1.15 or bool((whole == pixels).all()):
        return _integers_to_eight_bits(_as_type(whole, "int64"))
    return pixels


def _flatten_alpha(pixels: Pixels, axis: int) -> Pixels:
    """Three channels along `axis` instead of four, over white: uint8, or floats in [0, 1] where those were given."""
    rgba = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels
    eight_bits = floats_to_eight_bits(rgba)
    is_unit_range = eight_bits.dtype == np.uint8 != rgba.dtype
    eight_bits = np.rint(eight_bits).clip(0, 255).astype(np.uint8)
    rgb = picture_to_array(Image.fromarray(np.ascontiguousarray(np.moveaxis(eight_bits, axis, -1))))
    rgb = np.ascontiguousarray(np.moveaxis(rgb, -1, axis))
    rgb = rgb.astype(np.float32) / 255 if is_unit_range else rgb
    return torch.from_numpy(rgb).to(pixels.device) if isinstance(pixels, torch.Tensor) else rgb
