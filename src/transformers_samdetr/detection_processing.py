"""What both image processors share: options, opening pictures, the size after resizing, labels, and detections."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    AnnotationFormat,
    AnnotationType,
    ImageInput,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
    is_valid_image,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from .annotations import check_batch, check_format, integer_keys, labels_from_coco
from .pictures import UnreadablePictureError, open_picture
from .post_processing import detections_from_outputs

MOST_PIXELS = 178_956_970
"""A picture may have so many after resizing, as many as Pillow opens: without a `longest_edge`, a strip of one by
20 000 pixels would become 800 by 16 million."""


class SamDetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    format (`str`, *optional*, defaults to `"coco_detection"`):
        Format of the annotations; there is no other.
    do_convert_annotations (`bool`, *optional*, defaults to `True`):
        Whether label boxes are (center x, center y, width, height) in [0, 1] of the unpadded picture. Otherwise they
        are (x1, y1, x2, y2) in pixels of the resized picture.
    category_id_to_label (`dict[int, int]`, *optional*):
        Class label of each category id. Without it an id is its own label.
    id2label (`dict[int, str]`, *optional*):
        Names of the model's classes, to refuse annotations with a label that is not among them.
    """

    format: str | AnnotationFormat
    do_convert_annotations: bool
    category_id_to_label: dict | None
    id2label: dict | None


class DetectionProcessingMixin:
    """Goes in front of a Transformers backend, which adds `process_image` and the pixel operations."""

    valid_kwargs = SamDetrImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]
    default_to_square = False

    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 800, "longest_edge": 1333}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_pad = True
    format = AnnotationFormat.COCO_DETECTION
    do_convert_annotations = True
    category_id_to_label = None
    id2label = None

    def __init__(self, **kwargs: Unpack[SamDetrImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    def preprocess(
        self,
        images: ImageInput,
        annotations: AnnotationType | list[AnnotationType] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike | None = None,
        **kwargs: Unpack[SamDetrImageProcessorKwargs],
    ) -> BatchFeature:
        """Pictures, with their annotations if there are any, to a batch for the model.

        Args:
            images: one or several pictures: PIL, NumPy, torch, a path, a URL. Of a PIL picture or a file, the EXIF
                orientation is applied.
            annotations: one dict per image, `{"image_id": int, "annotations": [{"bbox": [x, y, width, height],
                "category_id": int, "area": float, "iscrowd": 0 or 1, "id": int}, ...]}`, the last three optional. Boxes
                are in pixels of the picture as displayed, with the EXIF orientation applied.
            return_segmentation_masks, masks_path: of Transformers' DETR processors; refused, there are only boxes.
            kwargs: any option of the processor, for this call.

        Returns:
            `pixel_values` `(B, 3, H, W)` float32, padded with 0 at the bottom and right; `pixel_mask` `(B, H, W)`
            int64, 1 on the picture and 0 on padding (only with `do_pad`); with annotations `labels`, a dict for each
            image, as `annotations.labels_from_coco` describes it.

        Raises:
            ValueError: there is no image; an annotation does not fit, naming the image's id, the box, and what would be
                right; pictures of different sizes without padding; a picture larger than `pad_size`.
        """
        if return_segmentation_masks or masks_path is not None:
            raise ValueError("SAM-DETR detects boxes: leave out return_segmentation_masks and masks_path.")
        return super().preprocess(images, annotations, **kwargs)

    def post_process_object_detection(
        self,
        outputs,
        threshold: float = 0.5,
        target_sizes: Tensor | Sequence[Sequence[int]] | None = None,
        top_k: int = 100,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image in `outputs.logits` and `outputs.pred_boxes`.

        Args:
            outputs: of `SamDetrForObjectDetection`.
            threshold: detections have a higher score than this; the authors evaluate at 0.
            target_sizes: `(B, 2)` or a list of pairs, height and width of each displayed picture, in pixels.
            top_k: at most so many detections per image.
            one_label_per_query: only the best label of each query, instead of all that score high enough.
            nms_threshold: IoU above which the lower of two boxes with the same label is dropped.

        Returns:
            For each image a dict of `scores` `(D,)`, descending, `labels` `(D,)` and `boxes` `(D, 4)`, (x1, y1, x2, y2)
            in pixels of `target_sizes`, or normalised by the picture without them.

        Raises:
            ValueError: `target_sizes` does not have one height and width per image.
        """
        return detections_from_outputs(
            outputs.logits, outputs.pred_boxes, threshold, target_sizes, top_k, one_label_per_query, nms_threshold
        )

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens paths, URLs and base64 strings, at any depth of lists; adds the channel of a grey `(H, W)` array."""
        if isinstance(image_url_or_urls, list | tuple):
            if not image_url_or_urls:
                raise ValueError("A list of images is empty: give at least one image.")
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, str | os.PathLike):
            return open_picture(image_url_or_urls)
        if not is_valid_image(image_url_or_urls):
            raise TypeError(
                "An image must be a PIL image, an array, a tensor, a path, a URL or a base64 string, not of type "
                f"{type(image_url_or_urls).__name__}."
            )
        dimensions = getattr(image_url_or_urls, "ndim", 3)
        if dimensions not in (2, 3, 4):
            shape = tuple(image_url_or_urls.shape)
            raise UnreadablePictureError(
                f"An array of shape {shape} is no picture: give (C, H, W), (H, W, C) or (H, W)."
            )
        if dimensions == 4 and not len(image_url_or_urls):
            shape = tuple(image_url_or_urls.shape)
            raise ValueError(f"An array of shape {shape} is a batch without images: give at least one image.")
        return image_url_or_urls[None] if dimensions == 2 else image_url_or_urls

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        if kwargs.get("format") is not None:
            check_format(kwargs["format"])
        # their keys come back from JSON as strings
        mapping = integer_keys("category_id_to_label", kwargs.get("category_id_to_label"), integer_values=True)
        kwargs |= {"category_id_to_label": mapping, "id2label": integer_keys("id2label", kwargs.get("id2label"))}
        return kwargs

    def _resized_sizes(self, images: Sequence, do_resize: bool | None, size: SizeDict) -> list[tuple[int, int]]:
        """Height and width of each channels-first image once resized, in pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        return [resized_size(image_size, size) for image_size in sizes] if do_resize else sizes

    def _labels(
        self,
        annotations: AnnotationType | list[AnnotationType],
        images: Sequence,
        resized_sizes: list[tuple[int, int]],
        do_convert_annotations: bool | None,
        category_id_to_label: dict[int, int] | None,
        id2label: dict[int, str] | None,
    ) -> list[dict[str, np.ndarray]]:
        """The checked labels of each channels-first image."""
        return [
            labels_from_coco(
                target, tuple(image.shape[-2:]), resized, bool(do_convert_annotations), category_id_to_label, id2label
            )
            for target, image, resized in zip(check_batch(annotations, len(images)), images, resized_sizes, strict=True)
        ]

    @staticmethod
    def _check_equal_sizes(images: Sequence) -> None:
        """What stacking without padding needs."""
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"Pictures of different sizes {sizes} (height, width) make no batch: leave do_pad=True, or resize "
                "to one size with size={'height': ..., 'width': ...}."
            )


def resized_size(image_size: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Height and width to resize to, rounded as DETR's authors do, and at least one pixel.

    Args:
        image_size: height and width of the picture.
        size: `shortest_edge`, `longest_edge` or both, or `max_height` and `max_width`, which keep the aspect ratio;
            or `height` and `width`, which do not.

    >>> resized_size((480, 640), SizeDict(shortest_edge=800, longest_edge=1333))
    (800, 1066)

    Raises:
        ValueError: `size` has none of these, or the picture would have more than `MOST_PIXELS`.
    """
    if size.shortest_edge:
        new_size = get_size_with_aspect_ratio(image_size, size.shortest_edge, size.longest_edge)
    elif size.longest_edge:
        new_size = get_image_size_for_max_height_width(image_size, size.longest_edge, size.longest_edge)
    elif size.max_height and size.max_width:
        new_size = get_image_size_for_max_height_width(image_size, size.max_height, size.max_width)
    elif size.height and size.width:
        new_size = (size.height, size.width)
    else:
        raise ValueError(
            f"size={dict(size)} is not supported: give shortest_edge and longest_edge, max_height and max_width, "
            "or height and width."
        )
    height, width = max(new_size[0], 1), max(new_size[1], 1)
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"A picture of {image_size[0]}x{image_size[1]} (height x width, in pixels) becomes {height}x{width} with "
            f"size={dict(size)}: give less, and with shortest_edge a longest_edge too."
        )
    return height, width
