"""Eight photographs learned by heart, from a random backbone whose frozen norms have the photographs' statistics."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.overfit import OVERFIT, VARIANTS, Overfit, choose_photographs, overfit, set_norm_statistics
from transformers_samdetr.data import load_detection_data
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.operations import is_frozen_batch_norm
from transformers_samdetr.presets import PRESETS

from ..models import SMALL_BACKBONE, TINY, tiny_model


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_every_norm_normalises_this_batch(backbone):
    model = tiny_model(
        backbone_config={"model_type": "timm_backbone", "backbone": backbone, "out_indices": [4]}
    ).train()
    torch.manual_seed(3)
    pixels = torch.randn(4, 3, 96, 96) + 2
    set_norm_statistics(model, pixels)
    extractor = model.model.backbone.feature_extractor
    assert model.training and not any(module._forward_pre_hooks for module in extractor.modules())
    norms = [module for module in extractor.modules() if is_frozen_batch_norm(module)]
    seen = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, inputs: seen.__setitem__(norm, inputs[0].detach()))
    model.eval()
    extractor(pixels)
    assert len(seen) == len(norms) > 3
    for norm, x in seen.items():
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3), correction=0), atol=1e-4, rtol=1e-3)
    # and so the kernels of training and inference, which have them folded into convolutions, compute the same
    exact = extractor(pixels).feature_maps[-1]
    with torch.no_grad():
        folded = extractor(pixels).feature_maps[-1]
    torch.testing.assert_close(folded, exact, atol=1e-4, rtol=1e-3)


def test_pictures_become_less_alike():
    model = tiny_model(backbone_config={"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [4]})
    torch.manual_seed(4)
    pixels = torch.randn(4, 3, 64, 64) * torch.linspace(0.2, 2, 4)[:, None, None, None]

    @torch.no_grad()
    def alike() -> float:
        features = model.model.backbone.feature_extractor(pixels).feature_maps[-1].flatten(1)
        cosines = torch.corrcoef(features)
        return ((cosines.sum() - 4) / 12).item()

    before = alike()
    set_norm_statistics(model, pixels)
    assert alike() < before - 0.2


@pytest.fixture(scope="module")
def scenes():
    return load_detection_data(build_digit_scenes(num_train=30, num_eval=1, size=96, seed=3))


def test_the_variants_are_the_papers_models():
    assert set(VARIANTS) == {"single-scale", "smca", "dc5", "multi-scale", "dn"}
    models = [fields["model"] for fields in VARIANTS.values()]
    assert len(set(models)) == 5 and all(model in PRESETS for model in models)
    assert OVERFIT.backbone_weights is None and OVERFIT.augmentation == "none" and OVERFIT.image_size <= 224


def test_photographs_are_the_first_that_fit(scenes):
    chosen = choose_photographs(scenes.train, count=4, most=3, smallest=0.2)
    fits = []
    for row in range(len(scenes.train)):
        boxes = scenes.train[row]["objects"]["bbox"]
        if 0 < len(boxes) <= 3 and all(min(w, h) / 96 >= 0.2 for _, _, w, h in boxes):
            fits.append(scenes.train[row]["image_id"])
    assert list(chosen["image_id"]) == fits[:4] != list(scenes.train["image_id"])[:4]
    with pytest.raises(ValueError, match=f"count=20 is too many: {len(fits)} images have 1 to 3 objects"):
        choose_photographs(scenes.train, count=20, most=3, smallest=0.2)


def small_run(variant: str, scenes, folder: Path) -> Overfit:
    """Two epochs of one step each."""
    overrides = {name: value for name, value in TINY.items() if name != "num_labels"}
    overrides |= {"backbone_config": {**SMALL_BACKBONE, "out_indices": [2, 3, 4] if variant == "dn" else [4]}}
    recipe = replace(OVERFIT, model_overrides=overrides, image_size=64, epochs=2)
    return overfit(variant, scenes, folder, seed=1, recipe=recipe, passes=1)


def test_a_run_says_what_it_did(scenes, tmp_path):
    result = small_run("dn", scenes, tmp_path)
    assert result.steps == [1, 2] and len(result.AP) == 2 and result.reached_after is None
    assert (result.variant, result.seed, len(result.photographs)) == ("dn", 1, 8)
    assert 8 <= result.objects <= 40 and result.parameters > 0 and result.cpu_seconds > 0
    assert Overfit(**result.to_dict()) == result


@pytest.mark.slow
def test_a_run_ends_when_the_photographs_are_learned(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.overfit.ENOUGH", 0.0)
    result = small_run("single-scale", scenes, tmp_path)
    assert result.steps == [1] and result.reached_after == 1


def test_reaching_is_the_first_time():
    result = Overfit("dn", 0, [1], 1, 1, [10, 20, 30, 40], [50.0, 95.0, 94.0, 99.0], 1.0)
    assert result.reached_after == 20


def test_an_unknown_variant_is_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="no variant 'r101'. Choose one of: single-scale"):
        overfit("r101", scenes, tmp_path)
