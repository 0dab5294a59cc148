"""What is frozen stays frozen, whichever way a model comes to be."""

import json

import pytest
import torch
from accelerate import cpu_offload, init_empty_weights, load_checkpoint_and_dispatch
from transformers import AutoModelForObjectDetection

from tests.models import MULTI_SCALE, SMALL_BACKBONE, tiny_model
from transformers_samdetr import SamDetrForObjectDetection, SamDetrModel

RESNET = {"backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1], "layer_type": "basic",
                              "hidden_sizes": [8, 16, 24, 32], "embedding_size": 8, "out_indices": [4]}}  # fmt: skip
MODELS = {
    "timm": {"backbone_config": SMALL_BACKBONE},
    "transformers' resnet": RESNET,
    "several levels": MULTI_SCALE,
    "fixed boxes": {"backbone_config": SMALL_BACKBONE, "reference_boxes": "fixed"},
    "denoising": {"backbone_config": SMALL_BACKBONE, "num_denoising_groups": 2},
    "no aligner": {"backbone_config": SMALL_BACKBONE, "query_resampling": "none"},
}
models = pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)


def frozen(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@models
def test_a_new_model_freezes_what_its_configuration_does_not_train(fields):
    model = tiny_model(**fields)
    assert frozen(model) == set(model.frozen_parameters())
    backbone = [name for name in frozen(model) if ".feature_extractor." in name]
    assert backbone, "no early stage is frozen"
    boxes = {"model.query_reference_boxes"} if fields.get("reference_boxes") == "fixed" else set()
    assert frozen(model) - set(backbone) == boxes
    some = model.state_dict().keys() - frozen(model)
    assert any(".feature_extractor." in name and name.endswith("weight") for name in some)


LOADING = {
    "from_pretrained": lambda folder: SamDetrForObjectDetection.from_pretrained(folder),
    "auto class": lambda folder: AutoModelForObjectDetection.from_pretrained(folder),
    "with loading info": lambda folder: SamDetrForObjectDetection.from_pretrained(folder, output_loading_info=True)[0],
    "device map": lambda folder: SamDetrForObjectDetection.from_pretrained(folder, device_map={"": "cpu"}),
    "other dtype": lambda folder: SamDetrForObjectDetection.from_pretrained(folder, dtype=torch.bfloat16),
    "eager attention": lambda folder: SamDetrForObjectDetection.from_pretrained(folder, attn_implementation="eager"),
    "other classes": lambda folder: SamDetrForObjectDetection.from_pretrained(
        folder, num_labels=2, ignore_mismatched_sizes=True
    ),
}


@models
@pytest.mark.parametrize("way", LOADING)
def test_a_loaded_model_freezes_what_a_new_one_freezes(fields, way, tmp_path):
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path)
    assert frozen(LOADING[way](tmp_path)) == frozen(model)


def test_the_bare_model_and_shards_too(tmp_path):
    model = tiny_model(**MODELS["fixed boxes"])
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    bare = SamDetrModel.from_pretrained(tmp_path)
    assert {f"model.{name}" for name in frozen(bare)} == frozen(model)


def test_loading_after_unfreezing_and_unfreezing_after_loading(tmp_path):
    model = tiny_model(**MODELS["timm"])
    expected = frozen(model)
    model.freeze_backbone()
    assert frozen(model) > expected
    model.save_pretrained(tmp_path)
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path)
    assert frozen(loaded) == expected
    loaded.freeze_backbone()
    loaded.unfreeze_backbone()
    assert frozen(loaded) == expected


def test_an_optimizer_step_after_loading_leaves_frozen_parameters_alone(tmp_path):
    model = tiny_model(**MODELS["fixed boxes"])
    model.save_pretrained(tmp_path)
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path).train()
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    loaded(torch.randn(1, 3, 64, 64), labels=labels).loss.backward()
    torch.optim.AdamW(loaded.parameters(), lr=0.1, weight_decay=0.1).step()
    for name, tensor in loaded.state_dict().items():
        if name in loaded.frozen_parameters():
            assert torch.equal(tensor, before[name]), name


@models
def test_loading_keeps_all_that_a_module_holds(fields, tmp_path):
    """Modules of a loaded model hold the attributes and buffers of a new one's, and its parameters' flags."""
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path)
    loaded = dict(SamDetrForObjectDetection.from_pretrained(tmp_path).named_modules())
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            parts = value if isinstance(value, list | tuple) else [value]
            if (
                key != "name_or_path"
                and not key.startswith("_")
                and all(isinstance(part, bool | int | float | str) for part in parts)
            ):
                assert value == getattr(loaded[name], key), f"{name}.{key}"
        assert module._non_persistent_buffers_set == loaded[name]._non_persistent_buffers_set


@models
@pytest.mark.parametrize("include_buffers", [False, True])
def test_weights_loaded_into_an_empty_model(fields, include_buffers, tmp_path):
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path)
    with init_empty_weights(include_buffers=include_buffers):
        empty = SamDetrForObjectDetection(model.config)
    loaded = load_checkpoint_and_dispatch(empty, str(tmp_path / "model.safetensors"), device_map={"": "cpu"}).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    assert frozen(loaded) == frozen(model)


@models
def test_weights_kept_on_disk_or_on_another_device(fields, tmp_path):
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path / "model")
    pixels = torch.randn(1, 3, 64, 64)
    places = {"class_heads": "disk", **{f"model.{name}": "disk" for name, _ in model.model.named_children()}}
    places |= {f"model.{name}": "cpu" for name, _ in model.model.named_parameters(recurse=False)}
    places["model.encoder"] = "cpu"
    on_disk = SamDetrForObjectDetection.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    half = cpu_offload(tiny_model(**fields), execution_device=torch.device("cpu"))
    with torch.no_grad():
        expected = model(pixels).logits
        assert torch.equal(on_disk(pixels).logits, expected)
        assert torch.equal(half(pixels).logits, expected)


@models
def test_a_traced_model_detects_the_same_at_its_size(fields):
    model = tiny_model(**fields)

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values, pixel_mask):
            outputs = self.model(pixel_values, pixel_mask)
            return outputs.logits, outputs.pred_boxes

    pixels, others = torch.randn(2, 3, 64, 96), torch.randn(2, 3, 64, 96)
    mask = torch.ones(2, 64, 96, dtype=torch.int64)
    traced = torch.jit.trace(Detector(), (pixels, mask))  # which checks it with a second trace, without gradients
    with torch.no_grad():
        for batch in (pixels, others):
            logits, boxes = traced(batch, mask)
            expected = model(batch, mask)
            torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
            torch.testing.assert_close(boxes, expected.pred_boxes, atol=1e-5, rtol=0)
