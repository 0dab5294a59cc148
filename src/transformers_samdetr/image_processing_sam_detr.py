"""Image processors: pictures and annotations to a batch for the model, and the model's outputs to detections.

`SamDetrImageProcessor` computes with Torchvision, `SamDetrImageProcessorPil` with PIL and NumPy. Both have the options,
labels and detections of `DetectionProcessingMixin`. `SamDetrObjectDetectionPipeline` is `pipeline("object-detection")`.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import get_size_with_aspect_ratio, group_images_by_shape, reorder_images
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    AnnotationFormat,
    AnnotationType,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
    infer_channel_dimension_format,
    is_pil_image,
    is_valid_image,
)
from transformers.modeling_outputs import ModelOutput
from transformers.pipelines.object_detection import ObjectDetectionPipeline
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, is_torch_tensor

from .annotations import check_batch, check_format, integer_keys, labels_from_coco
from .configuration_sam_detr import save_code
from .pictures import (
    UnreadablePictureError,
    check_pixels,
    flatten_alpha,
    floats_to_eight_bits,
    integers_to_eight_bits,
    open_picture,
    picture_to_array,
    upright,
)
from .post_processing import detections_from_outputs

MOST_PIXELS = 178_956_970
"""Largest number of pixels of a resized picture, the limit at which Pillow refuses to open one: without a
`longest_edge`, a strip of 1 by 20 000 pixels would become 800 by 16 million."""


class SamDetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    format (`str`, *optional*, defaults to `"coco_detection"`):
        Format of the annotations; no other is supported.
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
    """Options, labels and detections of both image processors; a Transformers backend follows it in the bases."""

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
        kwargs.pop("auto_map", None)  # of the folder that it was loaded from; saving writes its own
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
            images: one or several pictures: PIL, NumPy, torch, a path, a URL. The EXIF orientation of a PIL picture or
                a file is applied. The values of an array or tensor decide its range: integers of 8 to 16 bits, floats
                in [0, 1] or in [0, 255]. With `do_rescale=False` floats are not touched.
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

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Writes `preprocessor_config.json` and the code, so that the folder loads with `trust_remote_code=True`."""
        written = super().save_pretrained(save_directory, **kwargs)
        save_code(save_directory, "preprocessor_config.json")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return written

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

    def _checked_array(
        self,
        image: np.ndarray | Tensor,
        do_convert_rgb: bool | None,
        input_data_format: str | ChannelDimension | None,
    ) -> np.ndarray | Tensor:
        """A picture given as an array, in the same order of axes: integers of 8 bits, RGB where there is one channel or
        transparency."""
        check_pixels(image)
        image = integers_to_eight_bits(image)
        if do_convert_rgb and image.ndim == 3 and {1, 4} & {image.shape[0], image.shape[2]}:
            layout = input_data_format or infer_channel_dimension_format(image, num_channels=(1, 3, 4))
            channels_last = layout == ChannelDimension.LAST
            axis = 2 if channels_last else 0
            if image.shape[axis] == 4:
                return flatten_alpha(image, channels_last)
            if image.shape[axis] == 1:
                return image.repeat_interleave(3, axis) if isinstance(image, Tensor) else image.repeat(3, axis)
        return image

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        if kwargs.get("format") is not None:
            check_format(kwargs["format"])
        # their keys come back from JSON as strings
        mapping = integer_keys("category_id_to_label", kwargs.get("category_id_to_label"), integer_values=True)
        kwargs |= {"category_id_to_label": mapping, "id2label": integer_keys("id2label", kwargs.get("id2label"))}
        return kwargs

    def _preprocess(
        self,
        images: list[np.ndarray] | list[Tensor],
        annotations: AnnotationType | list[AnnotationType] | None,
        do_resize: bool,
        size: SizeDict,
        do_convert_annotations: bool,
        category_id_to_label: dict[int, int] | None,
        id2label: dict[int, str] | None,
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        if kwargs["do_rescale"]:
            images = [floats_to_eight_bits(image) for image in images]
        labels = None
        if annotations is not None:  # before the pixels, so that a mistake is found at once
            sizes = [tuple(image.shape[-2:]) for image in images]
            labels = [
                labels_from_coco(
                    target,
                    image_size,
                    resized_size(image_size, size) if do_resize else image_size,
                    bool(do_convert_annotations),
                    category_id_to_label,
                    id2label,
                )
                for target, image_size in zip(check_batch(annotations, len(images)), sizes, strict=True)
            ]
            if isinstance(images[0], Tensor):
                device = images[0].device
                labels = [{key: torch.as_tensor(value, device=device) for key, value in row.items()} for row in labels]
        batch = BatchFeature(self._batch_pixels(images, do_resize, size, **kwargs), tensor_type=return_tensors)
        if labels is not None:
            batch["labels"] = [BatchFeature(row, tensor_type=return_tensors) for row in labels]
        return batch

    def _check_equal_sizes(self, images: Sequence) -> None:
        """Without padding, only pictures of one size can be stacked."""
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"Pictures of different sizes {sizes} (height, width) make no batch: leave do_pad=True, or resize "
                "to one size with size={'height': ..., 'width': ...}."
            )

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
            top_k: at most this many detections per image.
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


class SamDetrImageProcessor(DetectionProcessingMixin, TorchvisionBackend):
    """Image processor of SAM-DETR and SAM-DETR++; the one to use where Torchvision is installed.

    By default the shortest side becomes 800 pixels, unless the longest then passes 1333; values are divided by 255 and
    normalised by ImageNet's mean and deviation; the pictures of a batch are padded at the bottom and right.

    Predictions depend on how far a picture is padded, as in the authors' code: convolutions and GroupNorm see the
    padding. With a `pad_size`, such as `{"height": 1333, "width": 1333}`, they do not depend on the batch. Neither do
    those of a model with `mask_padding=True`.

    Label boxes are normalised by the picture without its padding, as the model predicts them and unlike the labels of
    Transformers' DETR processors: a picture has the same labels in every batch.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | None = None,
        **kwargs,
    ) -> Tensor:
        """One picture as an upright `(C, H, W)` tensor on `device`; 16-bit values become 8-bit."""
        if is_pil_image(image):
            image = picture_to_array(image, to_rgb=do_convert_rgb)
            input_data_format = ChannelDimension.LAST
        image = self._checked_array(image, do_convert_rgb, input_data_format)
        if isinstance(image, np.ndarray) and not image.dtype.isnative:
            image = image.astype(image.dtype.newbyteorder("="))  # torch reads the machine's byte order only
        return super().process_image(image, do_convert_rgb, input_data_format, device, **kwargs)

    def resize(
        self, image: Tensor, size: SizeDict, resample: PILImageResampling | int | None = None, **kwargs
    ) -> Tensor:
        """`(..., C, H, W)` to the size that `resized_size` gives, with antialiasing."""
        height, width = resized_size(tuple(image.shape[-2:]), size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def _batch_pixels(
        self,
        images: list[Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | int | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        do_pad: bool,
        pad_size: SizeDict | None,
        disable_grouping: bool | None,
        **kwargs,
    ) -> dict[str, Tensor]:
        """`pixel_values` `(B, C, H, W)` and, with `do_pad`, `pixel_mask` `(B, H, W)` int64.

        All work after resizing is done in place in one allocation: on a CPU, touching memory pages for the first time
        costs more than all arithmetic. (On one thread, eight JPEGs took 0.43 of the time of Transformers' processor,
        and 1.05 with a new batch for each of normalising, padding and stacking.)
        """
        if do_resize:
            grouped, index = group_images_by_shape(images, disable_grouping=disable_grouping)
            for shape, stacked in grouped.items():
                grouped[shape] = self.resize(stacked, size, resample)
            images = reorder_images(grouped, index)
        if not do_pad:
            self._check_equal_sizes(images)
            pad_size = None

        height, width = _padded_size(images, pad_size)
        dtypes = [torch.result_type(image, rescale_factor) if do_rescale else image.dtype for image in images]
        dtype = torch.float32 if do_normalize else functools.reduce(torch.promote_types, dtypes)
        pixel_values = images[0].new_empty(len(images), images[0].shape[0], height, width, dtype=dtype)
        pixel_mask = torch.zeros_like(pixel_values[:, 0], dtype=torch.int64)
        mean, std, do_rescale = self._fuse_mean_std_and_rescale_factor(
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            device=images[0].device,
        )
        for row, mask, image in zip(pixel_values, pixel_mask, images, strict=True):
            h, w = image.shape[-2:]
            row[:, h:] = 0
            row[:, :h, w:] = 0
            place = row[:, :h, :w].copy_(image)
            if do_normalize:
                normalised = self.normalize(place, mean, std, inplace=True)
                if normalised.data_ptr() != place.data_ptr():  # older Transformers ignore `inplace`
                    place.copy_(normalised)
            elif do_rescale:
                place.mul_(rescale_factor)
            mask[:h, :w] = 1
        return {"pixel_mask": pixel_mask, "pixel_values": pixel_values} if do_pad else {"pixel_values": pixel_values}


class SamDetrImageProcessorPil(DetectionProcessingMixin, PilBackend):
    """Image processor of SAM-DETR and SAM-DETR++ with PIL's resizing, which the authors trained and evaluated with.

    The same options, defaults, labels and mask as `SamDetrImageProcessor`; pixels differ a little, by the resizing.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One picture as an upright `(C, H, W)` array; 16-bit values become 8-bit."""
        if is_pil_image(image):
            image = picture_to_array(image, to_rgb=do_convert_rgb)
            input_data_format = ChannelDimension.FIRST if image.ndim == 2 else ChannelDimension.LAST
            image = image[None] if image.ndim == 2 else image
        elif is_torch_tensor(image):
            image = image.detach().cpu()
        image = self._checked_array(image, do_convert_rgb, input_data_format)
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def resize(
        self, image: np.ndarray, size: SizeDict, resample: PILImageResampling | int | None = None, **kwargs
    ) -> np.ndarray:
        """`(C, H, W)` to the size that `resized_size` gives."""
        height, width = resized_size(tuple(image.shape[-2:]), size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def _batch_pixels(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | int | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        do_pad: bool,
        pad_size: SizeDict | None,
        **kwargs,
    ) -> dict[str, np.ndarray]:
        """`pixel_values` `(B, C, H, W)` and, with `do_pad`, `pixel_mask` `(B, H, W)` int64."""
        processed = []
        for image in images:
            if do_resize:
                image = self.resize(image, size, resample)
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            processed.append(image)
        if not do_pad:
            self._check_equal_sizes(processed)
            return {"pixel_values": np.stack(processed)}
        processed, masks = self.pad(processed, pad_size=pad_size, return_mask=True)
        return {"pixel_mask": np.stack(masks), "pixel_values": np.stack(processed)}


def resized_size(image_size: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Height and width to resize to, rounded as DETR's authors do, and at least one pixel.

    Args:
        image_size: height and width of the picture, in pixels.
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


def _padded_size(images: list[Tensor], pad_size: SizeDict | None) -> tuple[int, int]:
    """Height and width of the batch in pixels: those of the largest picture, or `pad_size`.

    Raises:
        ValueError: a picture is larger than `pad_size`.
    """
    height, width = (max(side) for side in zip(*(image.shape[-2:] for image in images), strict=True))
    if pad_size is None:
        return height, width
    if not (pad_size.height and pad_size.width):
        raise ValueError(f"pad_size={dict(pad_size)} is not supported: give height and width.")
    if height > pad_size.height or width > pad_size.width:
        raise ValueError(
            f"A picture of {height}x{width} (height x width, in pixels, after resizing) does not fit into "
            f"pad_size={dict(pad_size)}: resize to less with `size`, or pad to more."
        )
    return pad_size.height, pad_size.width


class SamDetrObjectDetectionPipeline(ObjectDetectionPipeline):
    """`pipeline("object-detection")` that reads and batches pictures as the image processors do.

    Transformers' own pipeline converts pictures to 8-bit RGB before a processor sees them, which clips 16-bit values
    at 255 and shows what is transparent, and it batches pictures of one size only. Here each batch is split by size,
    so that every picture gets the scores that it gets alone. Other models and processors get what the base class does.
    """

    @property
    def _is_sam_detr(self) -> bool:
        return self.model.config.model_type == "sam_detr"

    def check_model_type(self, supported_models) -> None:
        if not self._is_sam_detr:  # the list has no remote code
            super().check_model_type(supported_models)

    def preprocess(self, image, timeout: float | None = None) -> dict[str, Any]:
        is_read_here = isinstance(image, str) or is_pil_image(image)
        if not is_read_here or not isinstance(self.image_processor, DetectionProcessingMixin):
            inputs = super().preprocess(image, timeout)
        else:
            image = open_picture(image, timeout) if isinstance(image, str) else upright(image)
            inputs = self.image_processor(images=[image], return_tensors="pt").to(self.dtype)
            inputs["target_size"] = torch.tensor([[image.height, image.width]], dtype=torch.int32)
        return {"pictures": [inputs]} if self._is_sam_detr else inputs  # the pipeline collates lists as they are

    def _forward(self, model_inputs: dict[str, Any]) -> ModelOutput:
        if not self._is_sam_detr:
            return super()._forward(model_inputs)
        pictures = model_inputs["pictures"]
        if isinstance(pictures[0], list):  # a batch of lists with one picture each
            pictures = [picture for [picture] in pictures]
        by_shape: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pictures):
            by_shape.setdefault(picture["pixel_values"].shape, []).append(index)
        logits, boxes = [None] * len(pictures), [None] * len(pictures)
        for indices in by_shape.values():
            names = [name for name in pictures[indices[0]] if name != "target_size"]
            batch = {name: torch.cat([pictures[index][name] for index in indices]) for name in names}
            outputs = self.model(**batch)
            for row, index in enumerate(indices):
                logits[index], boxes[index] = outputs.logits[row], outputs.pred_boxes[row]
        target_size = torch.cat([picture["target_size"] for picture in pictures])
        return ModelOutput(logits=torch.stack(logits), pred_boxes=torch.stack(boxes), target_size=target_size)

    def postprocess(self, model_outputs: ModelOutput, threshold: float | None = None) -> list[dict[str, Any]]:
        """Detections with a score above `threshold`: by default the one saved with the model, else 0.5."""
        if threshold is None:
            threshold = getattr(self.model.config, "detection_threshold", None) if self._is_sam_detr else None
        return super().postprocess(model_outputs, 0.5 if threshold is None else threshold)


__all__ = ["SamDetrImageProcessor", "SamDetrImageProcessorPil", "SamDetrObjectDetectionPipeline"]
