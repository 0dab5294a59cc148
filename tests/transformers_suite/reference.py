"""The common tests on Transformers' Conditional DETR, without overrides: what is to be expected of a detector.

pytest collects it only when asked: `pytest -m '' tests/transformers_suite/reference.py`.
"""

import unittest

from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ConditionalDetrImageProcessor,
    ConditionalDetrModel,
)

from .detection import DetectionModelCase, DetectionModelTester, tiny_resnet


class ConditionalDetrModelTest(DetectionModelCase, unittest.TestCase):
    all_model_classes = (ConditionalDetrModel, ConditionalDetrForObjectDetection)
    pipeline_model_mapping = {
        "image-feature-extraction": ConditionalDetrModel,
        "object-detection": ConditionalDetrForObjectDetection,
    }

    image_processor_class = ConditionalDetrImageProcessor

    def setUp(self):
        config = ConditionalDetrConfig(
            backbone_config=tiny_resnet([4]),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            dropout=0.1,
            attention_dropout=0.1,
            num_queries=6,
            num_labels=3,
        )
        self.model_tester = DetectionModelTester(self, config)
