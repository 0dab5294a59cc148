"""What a detector brings to Transformers' common model tests: tiny inputs, labels and a case without overrides."""

import tempfile
from importlib import import_module

import torch
from PIL import Image
from transformers import ResNetConfig, pipeline
from transformers.testing_utils import torch_device

from . import load

common = load("test_modeling_common")
pipelines = load("test_pipeline_mixin")
# base models have no loss: the tests of training know them by this list, which registered models do not enter
common.MODEL_MAPPING_NAMES = {**common.MODEL_MAPPING_NAMES, "sam_detr": "SamDetrModel"}


def tiny_resnet(out_indices: list[int]) -> ResNetConfig:
    return ResNetConfig(
        embeddings_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], hidden_act="relu", out_indices=out_indices
    )


class DetectionModelTester:
    """Inputs of two pictures of 64 x 64, each with three objects of three classes.

    Args:
        parent: the test case.
        config: the configuration of a tiny model.
        encoder_seq_length: the number of feature map positions that the encoder reads.
    """

    batch_size = 2
    num_channels = 3
    image_size = 64
    num_targets = 3
    is_training = True

    def __init__(self, parent, config, encoder_seq_length: int = 4):
        self.parent = parent
        self.config = config
        # read by the common tests
        self.base_model_class = parent.all_model_classes[0]
        self.hidden_size = config.d_model
        self.num_hidden_layers = config.encoder_layers
        self.num_attention_heads = config.encoder_attention_heads
        self.encoder_seq_length = encoder_seq_length
        self.decoder_seq_length = config.num_queries

    def get_config(self):
        return type(self.config)(**self.config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        size = [self.batch_size, self.image_size, self.image_size]
        pixel_values = common.floats_tensor([size[0], self.num_channels, *size[1:]])
        return self.get_config(), {"pixel_values": pixel_values, "pixel_mask": torch.ones(size, device=torch_device)}

    def labels(self) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.4, 0.5, 0.2], [0.7, 0.6, 0.1, 0.3]])
        one = {"class_labels": torch.tensor([0, 2, 1]).to(torch_device), "boxes": boxes.to(torch_device)}
        return [dict(one) for _ in range(self.batch_size)]


class DetectionModelCase(common.ModelTesterMixin, pipelines.PipelineTesterMixin):
    """The common tests, with labels for models `...ForObjectDetection` and pipelines that need no Hub.

    Of the pipeline tests only those of the tasks in `pipeline_model_mapping` are kept: theirs would skip the other 42.
    """

    is_encoder_decoder = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        kept = {f"test_pipeline_{task.replace('-', '_')}" for task in cls.pipeline_model_mapping or ()}
        for name in dir(cls):
            if name.startswith("test_pipeline_") and name.removesuffix("_fp16") not in kept:
                setattr(cls, name, None)  # test loaders pass over what they cannot call

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class.__name__.endswith("ForObjectDetection"):
            inputs["labels"] = self.model_tester.labels()
        return inputs

    def run_task_tests(self, task, dtype="float32"):
        """The pipeline of a tiny model from its files on disk; Transformers' tests take one from the Hub."""
        if task in pipelines.task_to_pipeline_and_spec_mapping:
            path, hub_spec = pipelines.task_to_pipeline_and_spec_mapping[task]
            module, _, name = path.rpartition(".")
            pipelines.compare_pipeline_args_to_hub_spec(getattr(import_module(module), name), hub_spec)
        model_class = self.pipeline_model_mapping[task]
        image_processor = self.image_processor_class(size={"shortest_edge": 64, "longest_edge": 96})
        with tempfile.TemporaryDirectory() as folder:
            model_class(self.model_tester.get_config()).save_pretrained(folder)
            image_processor.save_pretrained(folder)
            run = pipeline(task, model=folder, dtype=dtype, device=torch_device)
        # pipelines cannot take apart a batch with auxiliary outputs, which are a list of layers, not of images
        run.model.config.auxiliary_loss = False
        self.assertIs(type(run.model), model_class)
        self.assertEqual(run.model.dtype, getattr(torch, dtype))
        wide, tall = (Image.effect_noise(size, 50).convert("RGB") for size in ((60, 40), (40, 70)))
        options = {"threshold": 0.0} if task == "object-detection" else {}
        # pipelines batch what has one size; of three pictures in batches of two the last batch is unfinished
        for pictures, batch_size in (([wide, tall], 1), ([wide] * 3, 2)):
            for picture, result in zip(pictures, run(pictures, batch_size=batch_size, **options), strict=True):
                getattr(self, f"check_{task.replace('-', '_')}")(picture, result)

    def check_object_detection(self, picture: Image.Image, found: list[dict]):
        self.assertGreater(len(found), 0)
        for one in found:
            self.assertEqual(one.keys(), {"score", "label", "box"})
            self.assertTrue(0 <= one["score"] <= 1, one)
            self.assertIn(one["label"], self.model_tester.config.label2id)
            self.assertEqual(one["box"].keys(), {"xmin", "ymin", "xmax", "ymax"})
            self.assertTrue(all(isinstance(edge, int) for edge in one["box"].values()), one)
            # predicted sizes are at most the picture's, around a center within it
            self.assertTrue(-picture.width <= one["box"]["xmin"] <= one["box"]["xmax"] <= 2 * picture.width, one)

    def check_image_feature_extraction(self, picture: Image.Image, features: list):
        states = torch.tensor(features)
        shape = (1, self.model_tester.decoder_seq_length, self.model_tester.hidden_size)
        self.assertEqual(tuple(states.shape), shape)
        self.assertTrue(states.isfinite().all())
