"""Image processors: pictures and annotations to a batch for the model, and the model's outputs to detections.

`SamDetrImageProcessor` computes with Torchvision, `SamDetrImageProcessorPil` with PIL and NumPy.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.transforms.v2.functional import normalize
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import get_size_with_aspect_ratio, group_images_by_shape, reorder_images
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    AnnotationFormat,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
    is_pil_image,
    is_valid_image,
)
from transformers.modeling_outputs import ModelOutput
from transformers.pipelines.object_detection import ObjectDetectionPipeline
from transformers.processing_utils import ImagesKwargs, Unpack

from .annotations import check_batch, integer_keys, labels_from_coco
from .configuration_sam_detr import save_code
from .geometry import center_to_corners
from .pictures import UnreadablePictureError, floats_to_eight_bits, open_picture, picture_to_array, read_array, upright

MOST_PIXELS = 178_956_970
"""Largest number of pixels of a resized picture, the limit at which Pillow refuses to open one: without a
`longest_edge`, a strip of 1 by 20 000 pixels would become 800 by 16 million."""


class SamDetrImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beside those of every image processor.

    Attributes:
        format: of the annotations: `"coco_detection"`, no other is supported.
        do_convert_annotations: whether label boxes are (center x, center y, width, height) in [0, 1] of the unpadded
            picture; otherwise they are (x1, y1, x2, y2) in pixels of the resized picture.
        category_id_to_label: class label of each category id; without it an id is its own label.
        id2label: names of the model's classes, to refuse annotations with a label that is not among them.
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
        annotations: dict | list[dict] | None = None,
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
            image, as `annotations.labels_from_coco` describes it. A ValueError says that there is no image, that an
            annotation does not fit, or that pictures of different sizes are not padded or do not fit into `pad_size`.
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
        image = image_url_or_urls
        if isinstance(image, list | tuple):
            if not image:
                raise ValueError("A list of images is empty: give at least one image.")
            return [self.fetch_images(entry) for entry in image]
        if isinstance(image, str | os.PathLike):
            return open_picture(image)
        if not is_valid_image(image):
            kinds = "PIL image, an array, a tensor, a path, a URL or a base64 string"
            raise TypeError(f"An image must be a {kinds}, not of type {type(image).__name__}.")
        if is_pil_image(image):
            return image
        what = f"An array of shape {tuple(image.shape)} is"
        if image.ndim not in (2, 3, 4):
            raise UnreadablePictureError(f"{what} no picture: give (C, H, W), (H, W, C) or (H, W).")
        if image.ndim == 4 and not len(image):
            raise ValueError(f"{what} a batch without images: give at least one image.")
        return image[None] if image.ndim == 2 else image

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray | Tensor:
        """One picture as an upright `(C, H, W)` array or tensor; 16-bit values become 8-bit."""
        if is_pil_image(image):
            image = picture_to_array(image, to_rgb=do_convert_rgb)
            image = image[..., None] if image.ndim == 2 else image
            input_data_format = ChannelDimension.LAST
        elif isinstance(image, Tensor) and self.backend == "pil":
            image = image.detach().cpu()
        image = read_array(image, do_convert_rgb, input_data_format)
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def resize(
        self, image: np.ndarray | Tensor, size: SizeDict, resample: PILImageResampling | int | None = None, **kwargs
    ) -> np.ndarray | Tensor:
        """`(..., C, H, W)` to the size that `resized_size` gives, with antialiasing."""
        height, width = resized_size(tuple(image.shape[-2:]), size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        format = kwargs.get("format")
        if format not in (None, AnnotationFormat.COCO_DETECTION):
            name = str(getattr(format, "value", format))
            raise ValueError(f"format={name!r} is not supported: give boxes as 'coco_detection', one dict per image.")
        # their keys come back from JSON as strings
        mapping = integer_keys("category_id_to_label", kwargs.get("category_id_to_label"), integer_values=True)
        return kwargs | {"category_id_to_label": mapping, "id2label": integer_keys("id2label", kwargs.get("id2label"))}

    def _preprocess(self, images, annotations, do_resize, size, return_tensors, **kwargs) -> BatchFeature:
        if kwargs["do_rescale"]:
            images = [floats_to_eight_bits(image) for image in images]
        labels = []
        if annotations is not None:  # before the pixels, so that a mistake is found at once
            options = [kwargs[name] for name in ("do_convert_annotations", "category_id_to_label", "id2label")]
            for target, image in zip(check_batch(annotations, len(images)), images, strict=True):
                before = tuple(image.shape[-2:])
                row = labels_from_coco(target, before, resized_size(before, size) if do_resize else before, *options)
                if isinstance(image, Tensor):
                    row = {key: torch.as_tensor(value, device=image.device) for key, value in row.items()}
                labels.append(BatchFeature(row, tensor_type=return_tensors))
        pixel_mask, pixel_values = self._batch_pixels(images, size if do_resize else None, **kwargs)
        pixels = {"pixel_mask": pixel_mask} if kwargs["do_pad"] else {}
        batch = BatchFeature(pixels | {"pixel_values": pixel_values}, tensor_type=return_tensors)
        if annotations is not None:
            batch["labels"] = labels
        return batch

    def post_process_object_detection(
        self,
        outputs,
        threshold: float = 0.5,
        target_sizes: Tensor | Sequence[Sequence[int]] | None = None,
        top_k: int = 100,
        one_label_per_query: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict[str, Tensor]]:
        """The detections of each image: of all pairs of a query and a label the best `top_k`, if above `threshold`.

        A query may so be detected under several labels, as in Deformable DETR and in the authors' evaluation.

        Args:
            outputs: of `SamDetrForObjectDetection`, of any floating type; scores and boxes are computed in float32.
            threshold: detections have a higher score than this; the authors evaluate at 0.
            target_sizes: `(B, 2)` or a list of pairs, height and width of each displayed picture, in pixels.
            top_k: at most this many detections per image.
            one_label_per_query: only the best label of each query, instead of all that score high enough.
            nms_threshold: IoU above which the lower of two boxes with the same label is dropped; no suppression by
                default, since the model is trained to predict each object once.

        Returns:
            For each image a dict of `scores` `(D,)` float32, descending, `labels` `(D,)` int64 and `boxes` `(D, 4)`
            float32, (x1, y1, x2, y2) in pixels of `target_sizes`, or normalised by the picture without them. Boxes are
            not clipped to the picture. Other `target_sizes`, and a `top_k` below 1, are a ValueError.
        """
        sizes = None if target_sizes is None else _checked_sizes(target_sizes, len(outputs.logits))
        best = best_detections(outputs.logits, outputs.pred_boxes, top_k, sizes, one_label_per_query)
        results = []
        for scores, labels, boxes in zip(*best, strict=True):
            keep = scores > threshold
            detections = {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}
            if nms_threshold is not None:
                keep = batched_nms(detections["boxes"], detections["scores"], detections["labels"], nms_threshold)
                detections = {name: values[keep] for name, values in detections.items()}
            results.append(detections)
        return results


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

    def _batch_pixels(
        self, images, size, resample, do_rescale, rescale_factor, do_normalize, image_mean, image_std, **options
    ) -> tuple[Tensor, Tensor]:
        """`pixel_mask` `(B, H, W)` int64 and `pixel_values` `(B, C, H, W)`.

        All work after resizing is done in place in one allocation: on a CPU, touching memory pages for the first time
        costs more than all arithmetic. (On one thread, eight JPEGs took 0.43 of the time of Transformers' processor,
        and 1.05 with a new batch for each of normalising, padding and stacking.)
        """
        if size is not None:
            grouped, index = group_images_by_shape(images, disable_grouping=options["disable_grouping"])
            grouped = {shape: self.resize(stacked, size, resample) for shape, stacked in grouped.items()}
            images = reorder_images(grouped, index)
        padded = _padded_size(images, **options)
        dtypes = [torch.result_type(image, rescale_factor) if do_rescale else image.dtype for image in images]
        dtype = torch.float32 if do_normalize else functools.reduce(torch.promote_types, dtypes)
        pixel_values = images[0].new_empty(len(images), images[0].shape[0], padded.height, padded.width, dtype=dtype)
        pixel_mask = torch.zeros_like(pixel_values[:, 0], dtype=torch.int64)
        mean, std, do_rescale = self._fuse_mean_std_and_rescale_factor(
            do_normalize, image_mean, image_std, do_rescale, rescale_factor, device=images[0].device
        )
        for row, mask, image in zip(pixel_values, pixel_mask, images, strict=True):
            h, w = image.shape[-2:]
            row[:, h:] = 0
            row[:, :h, w:] = 0
            place = row[:, :h, :w].copy_(image)
            if do_normalize:
                normalize(place, mean, std, inplace=True)
            elif do_rescale:
                place.mul_(rescale_factor)
            mask[:h, :w] = 1
        return pixel_mask, pixel_values


class SamDetrImageProcessorPil(DetectionProcessingMixin, PilBackend):
    """Image processor of SAM-DETR and SAM-DETR++ with PIL's resizing, which the authors trained and evaluated with.

    The same options, defaults, labels and mask as `SamDetrImageProcessor`; pixels differ a little, by the resizing.
    """

    def _batch_pixels(
        self, images, size, resample, do_rescale, rescale_factor, do_normalize, image_mean, image_std, **options
    ) -> tuple[np.ndarray, np.ndarray]:
        """As of `SamDetrImageProcessor`."""
        processed = []
        for image in images:
            image = image if size is None else self.resize(image, size, resample)
            image = self.rescale(image, rescale_factor) if do_rescale else image
            processed.append(self.normalize(image, image_mean, image_std) if do_normalize else image)
        padded = _padded_size(processed, **options)
        processed, masks = self.pad(processed, pad_size=padded, return_mask=True)
        return np.stack(masks), np.stack(processed)


def best_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    top_k: int,
    target_sizes: Tensor | None = None,
    one_label_per_query: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top_k` highest of the `Q * K` sigmoid scores of each image, as tensors: it can be part of a program.

    Args:
        logits: `(B, Q, K)`, of any floating type; scores and boxes are computed in float32.
        pred_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
        top_k, target_sizes, one_label_per_query: as of `SamDetrImageProcessor.post_process_object_detection`.

    Returns:
        Scores `(B, D)`, descending, labels `(B, D)` and boxes `(B, D, 4)`, (x1, y1, x2, y2), in pixels of
        `target_sizes` or normalised without them; D is `top_k` or all there are.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1.")
    num_labels = logits.shape[-1]
    probabilities = logits.float().sigmoid()  # (B, Q, K)
    if one_label_per_query:
        scores, labels = probabilities.max(-1)  # (B, Q) each
        scores, queries = scores.topk(min(top_k, scores.shape[1]), dim=1)  # (B, D)
        labels = labels.gather(1, queries)
    else:
        flat = probabilities.flatten(1)  # (B, Q*K)
        scores, indices = flat.topk(min(top_k, flat.shape[1]), dim=1)  # (B, D)
        queries, labels = indices // num_labels, indices % num_labels

    boxes = center_to_corners(pred_boxes.float())
    boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))  # (B, D, 4)
    if target_sizes is not None:
        boxes = boxes * target_sizes.to(boxes).flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): W H W H
    return scores, labels, boxes


def _checked_sizes(target_sizes: Tensor | Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """`(B, 2)` heights and widths, or a ValueError."""
    try:
        if not isinstance(target_sizes, Tensor):
            target_sizes = torch.tensor([row.tolist() if hasattr(row, "tolist") else row for row in target_sizes])
        if target_sizes.shape == (batch_size, 2):
            return target_sizes
        shape = f"shape {tuple(target_sizes.shape)}"
    except (TypeError, ValueError, RuntimeError):
        shape = "rows that are no numbers, or of different lengths"
    remedy = f"give one (height, width) for each of {batch_size} images, such as [(480, 640)]"
    raise ValueError(f"target_sizes has {shape}: {remedy}.")


def resized_size(image_size: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Height and width to resize to in pixels, rounded as DETR's authors do, and at least one.

    `size` has `shortest_edge`, `longest_edge` or both, or `max_height` and `max_width`, which keep the aspect ratio; or
    `height` and `width`, which do not. Without these, or beyond `MOST_PIXELS`, a ValueError is raised.

    >>> resized_size((480, 640), SizeDict(shortest_edge=800, longest_edge=1333))
    (800, 1066)
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
        known = "shortest_edge and longest_edge, max_height and max_width, or height and width"
        raise ValueError(f"size={dict(size)} is not supported: give {known}.")
    height, width = max(new_size[0], 1), max(new_size[1], 1)
    if height * width > MOST_PIXELS:
        change = f"{image_size[0]}x{image_size[1]} (height x width, in pixels) becomes {height}x{width}"
        remedy = "give less, and with shortest_edge a longest_edge too"
        raise ValueError(f"A picture of {change} with size={dict(size)}: {remedy}.")
    return height, width


def _padded_size(images: Sequence[np.ndarray | Tensor], do_pad: bool, pad_size: SizeDict | None, **_) -> SizeDict:
    """Size of a batch in pixels: that of the largest picture, or `pad_size`; refuses what does not fit."""
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if not do_pad and len(sizes) > 1:
        remedy = "leave do_pad=True, or resize to one size with size={'height': ..., 'width': ...}"
        raise ValueError(f"Pictures of different sizes {sizes} (height, width) make no batch: {remedy}.")
    height, width = map(max, zip(*sizes, strict=True))
    if not do_pad or pad_size is None:
        return SizeDict(height=height, width=width)
    if not (pad_size.height and pad_size.width):
        raise ValueError(f"pad_size={dict(pad_size)} is not supported: give height and width.")
    if height > pad_size.height or width > pad_size.width:
        picture = f"A picture of {height}x{width} (height x width, in pixels, after resizing)"
        raise ValueError(f"{picture} does not fit into pad_size={dict(pad_size)}: resize to less, or pad to more.")
    return pad_size


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
        processor = self.image_processor
        is_path = isinstance(image, (str, os.PathLike))
        if isinstance(processor, DetectionProcessingMixin) and (is_path or is_valid_image(image)):
            image = open_picture(image, timeout) if is_path else processor.fetch_images(image)
            image = upright(image) if is_pil_image(image) else processor.process_image(image, do_convert_rgb=True)
            inputs = processor(images=[image], return_tensors="pt").to(self.dtype)
            size = image.size[::-1] if is_pil_image(image) else image.shape[-2:]
            inputs["target_size"] = torch.tensor([size], dtype=torch.int32)
        else:
            inputs = super().preprocess(image, timeout)
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
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for indices in by_shape.values():
            names = [name for name in pictures[indices[0]] if name != "target_size"]
            outputs = self.model(**{name: torch.cat([pictures[index][name] for index in indices]) for name in names})
            rows |= dict(zip(indices, zip(outputs.logits, outputs.pred_boxes, strict=True), strict=True))
        logits, boxes = map(torch.stack, zip(*(rows[index] for index in range(len(pictures))), strict=True))
        target_size = torch.cat([picture["target_size"] for picture in pictures])
        return ModelOutput(logits=logits, pred_boxes=boxes, target_size=target_size)

    def postprocess(self, model_outputs: ModelOutput, threshold: float | None = None) -> list[dict[str, Any]]:
        """Detections with a score above `threshold`: by default the one saved with the model, else 0.5."""
        if threshold is None:
            threshold = getattr(self.model.config, "detection_threshold", None) if self._is_sam_detr else None
        return super().postprocess(model_outputs, 0.5 if threshold is None else threshold)
