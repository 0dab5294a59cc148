"""Transformers' own tests of models, run on ours: see `transformers_suite`."""

import inspect
import unittest

import torch
from transformers import TimmBackboneConfig
from transformers.testing_utils import torch_device

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor, SamDetrModel

from ..transformers_suite.detection import DetectionModelCase, DetectionModelTester, tiny_resnet


def tiny_config(**overrides) -> SamDetrConfig:
    fields = {
        "backbone_config": tiny_resnet([4]),
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "num_queries": 6,
        "num_keypoints": 4,
        "roi_size": 3,
        "num_labels": 3,
    }
    return SamDetrConfig(**{**fields, **overrides})


class SamDetrModelCase(DetectionModelCase):
    all_model_classes = (SamDetrModel, SamDetrForObjectDetection)
    pipeline_model_mapping = {
        "image-feature-extraction": SamDetrModel,
        "object-detection": SamDetrForObjectDetection,
    }
    image_processor_class = SamDetrImageProcessor
    test_can_init_all_missing_weights_before_2023 = True  # they look for the year in the license header

    # the tensors of each layer, without the batch
    attention_shapes: dict[str, list[tuple[int, ...]]]

    def check_layers(self, outputs, expected: dict[str, list[tuple[int, ...]]]):
        for name, shapes in expected.items():
            self.assertEqual([tuple(layer.shape[1:]) for layer in outputs[name]], shapes, name)

    def test_attention_outputs(self):
        """As Transformers' test, which counts five outputs: a detector has boxes, too."""
        recorded = ["decoder_hidden_states", "decoder_attentions", "cross_attentions"]
        recorded += ["encoder_hidden_states", "encoder_attentions"]
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class._from_config(config, attn_implementation="eager").to(torch_device).eval()
            with torch.no_grad():
                plain = model(**inputs)
                asked = model(**inputs, output_attentions=True)
                everything = model(**inputs, output_attentions=True, output_hidden_states=True)
                model.config.output_attentions = True
                configured = model(**inputs)
            self.check_layers(asked, self.attention_shapes)
            self.check_layers(configured, self.attention_shapes)
            self.assertEqual(list(everything), [*plain, *recorded])
            self.assertEqual(list(asked), [*plain, *(name for name in recorded if "attentions" in name)])

    def test_retain_grad_hidden_states_attentions(self):
        """As Transformers' test, for the second decoder state: the first are the initial queries, which are zeros."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = SamDetrModel._from_config(config, attn_implementation="eager").to(torch_device)
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
        names = [name for name in outputs if "attentions" in name or name.endswith("coder_hidden_states")]
        tensors = {name: outputs[name][name == "decoder_hidden_states"] for name in names}
        self.assertEqual(len(tensors), 5)
        for tensor in tensors.values():
            tensor.retain_grad()
        outputs[0].flatten()[0].backward()
        for name, tensor in tensors.items():
            self.assertIsNotNone(tensor.grad, name)

    def test_can_capture_specific_layers_hidden_states(self):
        """As Transformers' test, which knows `hidden_states` alone and would skip an encoder with a decoder."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config).to(torch_device).eval()
            with torch.no_grad():
                complete, part = (model(**inputs, output_hidden_states=asked) for asked in (True, [0, 2]))
            for name in ("encoder_hidden_states", "decoder_hidden_states"):
                self.assertEqual([state is None for state in part[name]], [False, True, False], name)
                for index in (0, 2):
                    torch.testing.assert_close(part[name][index], complete[name][index])

    def test_enable_input_require_grads_with_gradient_checkpointing(self):
        """As Transformers' test, whose inputs are embeddings: below a detector lies a backbone, which may be frozen."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = SamDetrForObjectDetection(config).to(torch_device).train()
        model.freeze_backbone()
        for reentrant in (False, True):
            model.zero_grad()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model(**inputs, labels=self.model_tester.labels()).loss.backward()
            missing = [
                name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
            ]
            self.assertEqual(missing, [])

    def refuses_input_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertRaises(NotImplementedError, model.get_input_embeddings)
            self.assertIsNone(model.get_output_embeddings())
            self.assertNotIn("inputs_embeds", inspect.signature(model.forward).parameters)

    # SAM-DETR reads pictures: it has no table of embeddings to exchange, to resize or to pass by
    test_model_get_set_embeddings = refuses_input_embeddings
    test_resize_tokens_embeddings = refuses_input_embeddings
    test_inputs_embeds = refuses_input_embeddings
    test_inputs_embeds_matches_input_ids = refuses_input_embeddings


class SamDetrModelTest(SamDetrModelCase, unittest.TestCase):
    attention_shapes = {
        "encoder_attentions": [(4, 4, 4)] * 2,
        "decoder_attentions": [(4, 6, 6)] * 2,
        "cross_attentions": [(4, 6, 4)] * 2,
    }

    def setUp(self):
        self.model_tester = DetectionModelTester(self, tiny_config(), encoder_seq_length=4)


class SamDetrMultiScaleModelTest(SamDetrModelCase, unittest.TestCase):
    """SAM-DETR++ with SMCA and denoising, on a backbone of timm."""

    attention_shapes = {
        "encoder_attentions": [(84, 4, 3, 4)] * 2,  # maps of 8 x 8, 4 x 4 and 2 x 2; 3 levels, 4 points each
        "decoder_attentions": [(4, 6, 6)] * 2,
        "cross_attentions": [(4, 6, 4), (4, 6, 16)],  # from coarse to fine
    }

    def setUp(self):
        backbone = TimmBackboneConfig(backbone="test_resnet.r160_in1k", out_indices=[2, 3, 4])
        config = tiny_config(backbone_config=backbone, num_feature_levels=3, smca=True, num_denoising_groups=2)
        self.model_tester = DetectionModelTester(self, config, encoder_seq_length=84)
