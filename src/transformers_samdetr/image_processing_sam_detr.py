"""Pictures to pixels, mask and labels with Torchvision, on any device, all pictures of one size at a time."""

import functools

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
from .pictures import check_pixels, picture_to_array, sixteen_to_eight_bits


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
        check_pixels(image)
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

        if do_resize:
            grouped, index = group_images_by_shape(images, disable_grouping=disable_grouping)
            for shape, stacked in grouped.items():
                grouped[shape] = self.resize(stacked, size, resample)
            images = reorder_images(grouped, index)
        if not do_pad:
            self._check_equal_sizes(images)
            pad_size = None

        pixel_values, canvas = self._canvas(images, pad_size, do_rescale, rescale_factor, do_normalize)
        mean, std, do_rescale = self._fuse_mean_std_and_rescale_factor(
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            device=images[0].device,
        )
        for image, place in zip(images, canvas, strict=True):
            place.copy_(image)
            if do_normalize:
                self.normalize(place, mean, std, inplace=True)
            elif do_rescale:
                place.mul_(rescale_factor)

        data = {"pixel_mask": self._pixel_mask(images, pixel_values)} if do_pad else {}
        data["pixel_values"] = pixel_values
        batch = BatchFeature(data, tensor_type=return_tensors)
        if labels is not None:
            batch["labels"] = [BatchFeature(row, tensor_type=return_tensors) for row in labels]
        return batch

    @staticmethod
    def _canvas(
        images: list[torch.Tensor],
        pad_size: SizeDict | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The batch `(B, C, H, W)`, 0 in its padding and not yet filled elsewhere, and each picture's place in it.

        One allocation: on a CPU, pages of memory that are touched for the first time cost more than all arithmetic, and
        normalising, padding and stacking one after the other would touch those of four batches. (Interleaved with
        Transformers' processor on one thread, eight JPEGs took 0.43 of its time this way, and 1.05 before.)

        Raises:
            ValueError: a picture is larger than `pad_size`.
        """
        sizes = [tuple(image.shape[-2:]) for image in images]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        if pad_size is not None:
            if not (pad_size.height and pad_size.width):
                raise ValueError(f"pad_size={dict(pad_size)} is not supported: give height and width.")
            if height > pad_size.height or width > pad_size.width:
                raise ValueError(
                    f"A picture of {height}x{width} (height x width, in pixels, after resizing) does not fit into "
                    f"pad_size={dict(pad_size)}: resize to less with `size`, or pad to more."
                )
            height, width = pad_size.height, pad_size.width
        dtypes = [torch.result_type(image, rescale_factor) if do_rescale else image.dtype for image in images]
        dtype = torch.float32 if do_normalize else functools.reduce(torch.promote_types, dtypes)
        batch = images[0].new_empty(len(images), images[0].shape[0], height, width, dtype=dtype)
        canvas = []
        for row, (h, w) in zip(batch, sizes, strict=True):
            row[:, h:] = 0
            row[:, :h, w:] = 0
            canvas.append(row[:, :h, :w])
        return batch, canvas

    @staticmethod
    def _pixel_mask(images: list[torch.Tensor], pixel_values: torch.Tensor) -> torch.Tensor:
        """`(B, H, W)` int64, 1 on the pictures."""
        mask = torch.zeros_like(pixel_values[:, 0], dtype=torch.int64)
        for row, image in zip(mask, images, strict=True):
            row[: image.shape[-2], : image.shape[-1]] = 1
        return mask


__all__ = ["SamDetrImageProcessor"]
