"""One example of a set: its picture, upright and in RGB, and its annotations; what makes it unusable."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

from datasets import Dataset, IterableDataset
from datasets import Image as ImageFeature
from PIL import Image

from ..pictures import UnreadablePictureError, picture_to_array, read_picture, upright
from .schema import coco_annotations

AnySet = TypeVar("AnySet", Dataset, IterableDataset)
NO_PICTURE = {"path": None, "bytes": None}
"""Stored in a row without a picture."""
UNUSABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What PIL and its decoders raise for files that they cannot read, and `read_example` for wrong sizes."""


def read_example(example: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
    """The upright RGB picture and `{"image_id", "annotations"}`.

    Args:
        example: in the schema of `detection_features`; the picture may still be `{"path", "bytes"}`.

    Raises:
        ValueError: the picture is not of the annotated width and height, so its boxes lie elsewhere.
        UnreadablePictureError: the picture cannot be read.
        OSError: its file is missing; or another of `UNUSABLE`.
    """
    image = example["image"]
    image = upright(image) if isinstance(image, Image.Image) else decode_picture(image)
    if image.mode != "RGB":
        image = Image.fromarray(picture_to_array(image))
    annotated = (example["width"], example["height"])
    if image.size != annotated:
        raise ValueError(
            f"the picture has {image.width}x{image.height} pixels as displayed, but is annotated with "
            f"{annotated[0]}x{annotated[1]}."
        )
    return image, coco_annotations(example)


def decode_picture(stored: Mapping[str, Any] | None) -> Image.Image:
    """The upright picture of `{"path", "bytes"}`, or of the None that stands for a picture in a row without one.

    Raises:
        UnreadablePictureError: it cannot be read, or there is nothing to read.
        OSError: its file is missing; or another of `UNUSABLE`, from reading over the network.
    """
    content, path = (stored or NO_PICTURE)["bytes"], (stored or NO_PICTURE)["path"]
    if content is None and path is None:
        raise UnreadablePictureError("the set has neither bytes nor a path of the picture")
    if content is None and "://" in path:  # within an archive or on the Hub, where the datasets library reads
        return upright(ImageFeature().decode_example(dict(stored)))
    return read_picture(path if content is None else content, path or "the picture")


def undecoded(data: AnySet) -> AnySet:
    """The set or stream with pictures as they are stored, `{"path", "bytes"}`: `read_example` decodes them.

    So who shuffles or skips holds files, not pixels, and broken pictures raise the same errors everywhere.
    """
    return data.cast_column("image", ImageFeature(decode=False))


def stored_picture(data: Dataset, row: int) -> Mapping[str, Any]:
    """`{"path", "bytes"}` of a picture, not decoded."""
    return undecoded(data.select_columns(["image"]))[row]["image"] or NO_PICTURE


def picture_name(image_id: int, picture: Mapping[str, Any]) -> str:
    """What messages call a picture: its id, and the path of `{"path", "bytes"}` where it has one."""
    path = picture["path"]
    return f"image {image_id}" + (f" ({path})" if path else "")


def example_name(data: Dataset, row: int) -> str:
    """The `picture_name` of a row."""
    return picture_name(data.select_columns(["image_id"])[row]["image_id"], stored_picture(data, row))
