"""Transformers' own tests of image processors, run on ours: see `transformers_suite`."""

import tempfile
import unittest

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import AnnotationFormat

from transformers_samdetr.configuration_sam_detr import SamDetrConfig
from transformers_samdetr.image_processing_sam_detr import SamDetrImageProcessor, SamDetrImageProcessorPil

from ..transformers_suite import load

BACKENDS = {"torchvision": SamDetrImageProcessor, "pil": SamDetrImageProcessorPil}


def photograph() -> Image.Image:
    """480 x 640, smooth enough for the resizing of two libraries to agree as it does on photographs."""
    coarse = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)


common = load("test_image_processing_common")
common.load_test_image = lambda url: photograph()  # theirs downloads COCO's picture of two cats

# the package does the same when it is imported
AutoImageProcessor.register(SamDetrConfig, image_processor_classes=BACKENDS, exist_ok=True)


class SamDetrImageProcessingTester(common.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"shortest_edge": 18, "longest_edge": 1333})
        kwargs.setdefault("image_mean", [0.5, 0.5, 0.5])
        kwargs.setdefault("image_std", [0.5, 0.5, 0.5])
        kwargs.setdefault("do_pad", True)
        kwargs.setdefault("do_convert_annotations", False)
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return dict(BACKENDS)


class SamDetrImageProcessingTest(common.AnnotationFormatTestMixin, common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = SamDetrImageProcessingTester
    test_cast_dtype = torch.float16

    def processors(self, **options):
        return [cls(**self.image_processor_dict, **options) for cls in self.image_processing_classes.values()]

    def test_processor_can_use_legacy_annotation_format(self):
        """As Transformers' test, whose fixtures its source distribution leaves out; panoptic: see the skip below."""
        objects = [
            {
                "bbox": [10.5, 20, 300, 200],
                "category_id": 17,
                "area": 3000.5,
                "iscrowd": 0,
                "id": 1,
                "segmentation": [],
            },
            {"bbox": [0, 0, 640, 480], "category_id": 63, "area": 12345.0, "iscrowd": 1, "id": 2},
        ]
        inputs = {"images": photograph(), "annotations": {"image_id": 39769, "annotations": objects}}
        for given in ("coco_detection", AnnotationFormat.COCO_DETECTION):
            for first in self.processors(format=given):
                with (
                    self.subTest(format=given, processor=type(first).__name__),
                    tempfile.TemporaryDirectory() as folder,
                ):
                    first.save_pretrained(folder)
                    second = type(first).from_pretrained(folder)
                    self.assertIn("format", first.to_dict())
                    self.assertEqual(second.to_dict(), first.to_dict())
                    one, other = first(**inputs, return_tensors="pt"), second(**inputs, return_tensors="pt")
                    self.assertTrue(torch.equal(one["pixel_values"], other["pixel_values"]))
                    self.assertEqual(one["labels"][0].keys(), other["labels"][0].keys())
                    for key, value in one["labels"][0].items():
                        self.assertTrue(torch.equal(value, other["labels"][0][key]), key)

    @unittest.skip("SAM-DETR detects boxes: COCO panoptic annotations are refused (test_image_processing_sam_detr.py)")
    def test_processor_can_use_legacy_annotation_format_panoptic(self):
        pass

    @unittest.skip("the package needs timm, which needs torchvision, so there is no installation without it")
    def test_pil_can_run_without_torchvision(self):
        pass

    def test_attributes(self):
        for name in ("image_mean", "image_std", "do_normalize", "do_resize", "size", "do_pad", "do_rescale", "format"):
            for processor in self.processors():
                self.assertTrue(hasattr(processor, name), name)

    def test_from_dict_with_kwargs(self):
        for cls in self.image_processing_classes.values():
            processor = cls.from_dict(self.image_processor_dict, size=42, do_pad=False)
            self.assertEqual(processor.size, {"shortest_edge": 42})
            self.assertFalse(processor.do_pad)
