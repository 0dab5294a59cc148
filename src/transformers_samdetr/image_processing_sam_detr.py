"""Pictures to pixels, mask and labels with Torchvision, on any device, all pictures of one size at a time."""

import numpy as np
import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import (
    AnnotationType,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    is_pil_image,
)
from transformers.utils import TensorType

from .detection_processing import DetectionProcessingMixin, SamDetrImageProcessorKwargs, resized_size
from .pictures import picture_to_array, sixteen_to_eight_bits


class SamDetrImageProcessor(DetectionProcessingMixin, TorchvisionBackend):
    """Image processor of SAM-DETR and SAM-DETR++; the one to use where Torchvision is installed.

    By default the shortest side becomes 800 pixels, unless the longest then passes 1333; values are divided by 255 and
    normalised by ImageNet's mean and deviation; the pictures of a batch are padded at the bottom and right.

    Label boxes are normalised by the picture without its padding, as the model predicts them and unlike the labels of
    Transformers' DETR processors: a picture has the same labels in every batch.
    """

    valid_kwargs = SamDetrImageProcessorKwargs

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """One picture as a `(C, H, W)` tensor on `device`, upright, of at most eight bits where it had sixteen."""
        if is_pil_image(image):
            image = picture_to_array(image, to_rgb=do_convert_rgb)
            input_data_format = ChannelDimension.LAST
        image = sixteen_to_eight_bits(image)
        if isinstance(image, np.ndarray) and not image.dtype.isnative:
            image = image.astype(image.dtype.newbyteorder("="))  # torch reads the machine's byte order only
        return super().process_image(image, do_convert_rgb, input_data_format, device, **kwargs)

    def resize(
        self,
        image: torch.Tensor,
        size: SizeDict,
        resample: PILImageResampling | int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """`(..., C, H, W)` to the size that `detection_processing.resized_size` gives, with antialiasing."""
        height, width = resized_size(tuple(image.shape[-2:]), size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        annotations: AnnotationType | list[AnnotationType] | None,
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
        do_convert_annotations: bool,
        category_id_to_label: dict[int, int] | None,
        id2label: dict[int, str] | None,
        disable_grouping: bool | None,
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        labels = None
        if annotations is not None:  # first, so that a mistake costs no pixel work
            resized_sizes = self._resized_sizes(images, do_resize, size)
            labels = self._labels(
                annotations, images, resized_sizes, do_convert_annotations, category_id_to_label, id2label
            )
            device = images[0].device
            labels = [{key: torch.as_tensor(value, device=device) for key, value in row.items()} for row in labels]

        grouped, index = group_images_by_shape(images, disable_grouping=disable_grouping)
        for shape, stacked in grouped.items():
            if do_resize:
                stacked = self.resize(stacked, size, resample)
            grouped[shape] = self.rescale_and_normalize(
                stacked, do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        images = reorder_images(grouped, index)

        data = {}
        if do_pad:
            images, masks = self.pad(images, pad_size=pad_size, return_mask=True, disable_grouping=disable_grouping)
            data["pixel_mask"] = torch.stack(masks)
        else:
            self._check_equal_sizes(images)
        data["pixel_values"] = torch.stack(images)
        batch = BatchFeature(data, tensor_type=return_tensors)
        if labels is not None:
            batch["labels"] = [BatchFeature(row, tensor_type=return_tensors) for row in labels]
        return batch


__all__ = ["SamDetrImageProcessor"]
