"""Eight photographs learned by heart, and what the function says about it."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.overfit import OVERFIT, VARIANTS, Overfit, choose_photographs, overfit
from transformers_samdetr.data import load_detection_data
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.presets import PRESETS

from ..models import SMALL_BACKBONE, TINY


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
    with pytest.raises(ValueError, match=f"count=20 is not possible: {len(fits)} pictures have 1 to 3 objects"):
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
