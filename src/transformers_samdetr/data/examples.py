"""One example of a set: its picture, upright and in RGB, and its annotations; what makes it unusable."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from ..pictures import picture_to_array, upright
from .schema import coco_annotations

UNUSABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What PIL and its decoders raise for files that they cannot read, and `read_example` for wrong sizes."""


def read_example(example: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
    """The upright RGB picture and `{"image_id", "annotations"}`.

    Args:
        example: in the schema of `detection_features`; the picture may still be `{"path", "bytes"}`.

    Raises:
        ValueError: the picture is not of the annotated width and height, so its boxes lie elsewhere.
        OSError: the picture cannot be read; or another of `UNUSABLE`.
    """
    image = example["image"]
    if isinstance(image, Mapping):
        image = ImageFeature().decode_example(image)
    image = upright(image)
    if image.mode != "RGB":
        image = Image.fromarray(picture_to_array(image))
    annotated = (example["width"], example["height"])
    if image.size != annotated:
        raise ValueError(
            f"the picture has {image.width}x{image.height} pixels as displayed, but is annotated with "
            f"{annotated[0]}x{annotated[1]}."
        )
    return image, coco_annotations(example)


def stored_picture(data: Dataset, row: int) -> Mapping[str, Any]:
    """`{"path", "bytes"}` of a picture, not decoded."""
    return data.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))[row]["image"]


def picture_name(image_id: int, picture: Mapping[str, Any]) -> str:
    """What messages call a picture: its id, and the path of `{"path", "bytes"}` where it has one."""
    path = picture["path"]
    return f"image {image_id}" + (f" ({path})" if path else "")


def example_name(data: Dataset, row: int) -> str:
    """The `picture_name` of a row."""
    return picture_name(data.select_columns(["image_id"])[row]["image_id"], stored_picture(data, row))
