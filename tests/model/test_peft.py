"""LoRA adapters of PEFT: all linear layers learn; adapters are saved, loaded and merged; class heads are kept whole."""

import pytest
import torch

from tests.models import SMALL_BACKBONE, targets, tiny_model
from transformers_samdetr import reference_operations

peft = pytest.importorskip("peft")

ALL_LINEAR = {"target_modules": "all-linear"}
OURS = {"target_modules": r".*(q_proj|k_proj|v_proj|o_proj|fc1|fc2|content_proj|keypoint_head.layers.\d)"}
RESNET = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [4]}
HEADS = {"one": ["class_heads"], "box heads too": ["class_heads", "box_heads.0", "box_heads.1"], "none": None}


def trained_model(seed: int = 0, backbone_config=SMALL_BACKBONE):
    """Box heads are not at zero, as after training: before them, adapters would get no gradient."""
    model = tiny_model(seed, backbone_config=backbone_config, num_denoising_groups=2)
    for module in model.modules():
        if type(module).__name__ == "ZeroLinear":
            torch.nn.init.normal_(module.weight, std=0.02)
    return model


@pytest.mark.parametrize("modules", [ALL_LINEAR, OURS], ids=["all", "named"])
@pytest.mark.parametrize("kept", HEADS.values(), ids=HEADS)
def test_adapters_learn_are_saved_loaded_and_merged(modules, kept, tmp_path):
    torch.manual_seed(0)
    base = trained_model()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, modules_to_save=kept, **modules)).train()
    pixels = torch.randn(2, 3, 64, 64)
    adapted(pixels, labels=targets(2, 1)).loss.backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("lora_B" in name for name in trained)
    if kept:
        assert any("class_heads.modules_to_save" in name for name in trained)
    for name, parameter in trained.items():
        if "lora_A" not in name:  # lora_B starts at zero, and with it the gradient of lora_A
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    adapted.eval()
    adapted.save_pretrained(tmp_path)
    fresh = trained_model(1)
    fresh.load_state_dict(state)
    with torch.no_grad():
        expected = adapted(pixels).logits
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(loaded(pixels).logits, expected, atol=1e-5, rtol=0)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(pixels).logits, expected, atol=1e-4, rtol=0)
    assert merged.state_dict().keys() == state.keys()


@pytest.mark.parametrize("convolutions", ["conv1", "conv2", "conv3"])
def test_adapters_of_a_resnet(convolutions):
    """LoRA adds to a convolution's output before the frozen norm, so that the two cannot be computed as one."""
    torch.manual_seed(0)
    model = trained_model(backbone_config=RESNET)
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = model.eval()(pixels).logits  # keeps folded weights
    config = peft.LoraConfig(r=2, target_modules=rf".*backbone.*layer3.*{convolutions}", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        expected = adapted(pixels).logits
        with reference_operations():
            torch.testing.assert_close(adapted(pixels).logits, expected, atol=1e-5, rtol=0)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(pixels).logits, expected, atol=1e-4, rtol=0)
    assert (before - expected).abs().max() > 1e-2
