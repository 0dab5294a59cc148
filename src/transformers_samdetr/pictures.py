"""Pictures of any kind to arrays as they are displayed: upright, eight bits, three channels.

Transformers' backends take it from here; what they do not do is apply the EXIF orientation of a picture that is already
open, and keep the tones of pictures with more than eight bits.
"""

import base64
import binascii
import os
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

try:  # comes with Transformers; only pictures given as a URL need it
    import httpx
except ImportError:  # pragma: no cover
    httpx = None

EXIF_ORIENTATION = 0x0112
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a URL is given up."""


def open_picture(source: str | os.PathLike) -> Image.Image:
    """Opens a local path, an `http(s)` URL, a data URI or a base64 string, in the picture's own mode and upright.

    The mode is kept, unlike in Transformers' `load_image`, which cuts a 16-bit picture off at 255.

    Raises:
        ValueError: `source` is none of these.
        FileNotFoundError: `source` is an `os.PathLike` to nowhere.
    """
    if isinstance(source, os.PathLike) or os.path.isfile(source):
        content = source
    elif source.startswith(("http://", "https://")):
        if httpx is None:
            raise ValueError(f"To open the URL {source}, `pip install httpx`, or download it and give its path.")
        response = httpx.get(source, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT)
        response.raise_for_status()
        content = BytesIO(response.content)
    else:
        try:
            content = BytesIO(base64.b64decode(source.split(",")[-1].encode(), validate=True))
        except (binascii.Error, UnicodeEncodeError):
            content = None
        if content is None or not source:
            raise ValueError(
                f"{source[:200]!r} is not a picture: expected the path of an existing file, a URL that starts with "
                "http:// or https://, or a base64 string."
            )
    # read at once: a long list of paths must not keep as many files open
    with Image.open(content) as image:
        image.load()
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it: its EXIF orientation applied, and the tag removed."""
    if image.getexif().get(EXIF_ORIENTATION, 1) == 1:
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
    """
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
