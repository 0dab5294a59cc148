"""Pictures to pixels, mask and labels with PIL and NumPy, one picture after the other."""

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    AnnotationType,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    is_pil_image,
)
from transformers.utils import TensorType, is_torch_tensor

from .detection_processing import DetectionProcessingMixin, SamDetrImageProcessorKwargs, resized_size
from .pictures import check_pixels, picture_to_array, sixteen_to_eight_bits


class SamDetrImageProcessorPil(DetectionProcessingMixin, PilBackend):
    """Image processor of SAM-DETR and SAM-DETR++ with PIL's resizing, which the authors trained and evaluated with.

    The same options, defaults, labels and mask as `SamDetrImageProcessor`; pixels differ a little, by the resizing.
    """

    valid_kwargs = SamDetrImageProcessorKwargs

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One picture as a `(C, H, W)` array, upright, of at most eight bits where it had sixteen."""
        if is_pil_image(image):
            image = picture_to_array(image, to_rgb=do_convert_rgb)
            input_data_format = ChannelDimension.FIRST if image.ndim == 2 else ChannelDimension.LAST
            image = image[None] if image.ndim == 2 else image
        elif is_torch_tensor(image):
            image = image.detach().cpu()
        check_pixels(image)
        return super().process_image(sixteen_to_eight_bits(image), do_convert_rgb, input_data_format, **kwargs)

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: PILImageResampling | int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """`(C, H, W)` to the size that `detection_processing.resized_size` gives."""
        height, width = resized_size(tuple(image.shape[-2:]), size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def _preprocess(
        self,
        images: list[np.ndarray],
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
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        labels = None
        if annotations is not None:  # first, so that a mistake costs no pixel work
            resized_sizes = self._resized_sizes(images, do_resize, size)
            labels = self._labels(
                annotations, images, resized_sizes, do_convert_annotations, category_id_to_label, id2label
            )

        processed = []
        for image in images:
            if do_resize:
                image = self.resize(image, size, resample)
            if do_rescale:
                image = self.rescale(image, rescale_factor)
            if do_normalize:
                image = self.normalize(image, image_mean, image_std)
            processed.append(image)

        data = {}
        if do_pad:
            processed, masks = self.pad(processed, pad_size=pad_size, return_mask=True)
            data["pixel_mask"] = np.stack(masks)
        else:
            self._check_equal_sizes(processed)
        data["pixel_values"] = np.stack(processed)
        batch = BatchFeature(data, tensor_type=return_tensors)
        if labels is not None:
            batch["labels"] = [BatchFeature(row, tensor_type=return_tensors) for row in labels]
        return batch


__all__ = ["SamDetrImageProcessorPil"]
