import re
from pathlib import Path

import pytest

from experiments.published import PUBLISHED
from transformers_samdetr import SamDetrConfig
from transformers_samdetr.presets import PRESETS
from transformers_samdetr.training.recipes import PAPER_RECIPES, Recipe
from transformers_samdetr.training.trainer import make_optimizer, make_schedule

from ..models import tiny_model

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"


def test_every_recipe_has_published_figures():
    assert PAPER_RECIPES.keys() == PUBLISHED.keys()


@pytest.mark.parametrize(("table", "epochs"), [("TABLE 1\n", "12"), ("TABLE 2\n", "50")])
def test_every_row_of_the_papers_tables_is_a_recipe(table, epochs):
    if not (SHARED / "paper.txt").is_file():
        pytest.skip("the paper's text is not beside the repository")
    text = (
        (SHARED / "paper.txt")
        .read_text(encoding="utf-8")
        .split(table)[1]
        .split("‡’ denotes" if epochs == "12" else "‡ denotes")[0]
    )
    rows = [
        re.sub(r"\t✓", "", line)
        for line in text.splitlines()
        if re.match(r"(SAM-)?DETR\S*( w/ \S+( \+ DN)?)? (\(Ours\)|\[5\] ‡)", line)
    ]
    rows = [line for line in rows if re.search(rf"\t{epochs}\t", line)]
    names = {}
    for row in rows:
        name = row.split("\t")[0].replace("SAM-DETR++", "sam-detr-pp").replace(" w/ ", "-").replace(" + ", "-")
        names[re.sub(r" \(Ours\)| \[5\] ‡", "", name).lower().replace("smca+dn", "smca-dn") + f"-{epochs}e"] = row
    of_tables = {name for name in PAPER_RECIPES if PUBLISHED[name].source == table.strip().capitalize()}
    assert of_tables == names.keys()
    for name, row in names.items():
        numbers = [float(value) for value in re.findall(r"[\d.]+", row.split(f"\t{epochs}\t")[1])]
        published = PUBLISHED[name]
        found = [published.gflops, published.AP, published.AP50, published.AP75, published.APs, published.APm]
        assert numbers[1:] == [*found, published.APl], name
        assert PAPER_RECIPES[name].epochs == int(epochs)


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_recipes_are_the_papers(name):
    recipe = PAPER_RECIPES[name]
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay) == (1e-4, 1e-5, 1e-4)
    assert recipe.clip_norm == 0.1 and recipe.augmentation == "paper" and recipe.schedule == "step"
    assert recipe.batch_size == (8 if "dc5" in name else 16)
    assert recipe.model in PRESETS
    config = SamDetrConfig.from_preset(recipe.model, **recipe.model_overrides)
    assert config.smca == ("smca" in name) and bool(config.num_denoising_groups) == ("-dn" in name)
    assert config.dilation == ("dc5" in name) and (config.num_feature_levels == 3) == ("-pp-" in name)
    assert (config.query_resampling == "none") == name.startswith("detr-")
    single_50 = "-pp-" not in name and (recipe.epochs == 50 or name.startswith("detr"))
    assert config.input_projection_norm is not single_50


@pytest.mark.parametrize(("epochs", "last"), [(12, 10), (50, 40)])
def test_the_rate_drops_after_the_papers_epoch(epochs, last):
    recipe = PAPER_RECIPES["sam-detr-pp-r50-12e" if epochs == 12 else "sam-detr-pp-r50-50e"]
    steps = 7  # of an epoch
    optimizer = make_optimizer(tiny_model(), recipe)
    schedule = make_schedule(optimizer, recipe, steps * epochs)
    rates = []
    for _ in range(steps * epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx([1e-4, 1e-5])] * (steps * last) + [pytest.approx([1e-5, 1e-6])] * (
        steps * (epochs - last)
    )


def test_warm_up_then_cosine():
    recipe = Recipe(warmup=0.2, schedule="cosine", learning_rate=1.0, backbone_learning_rate=0.1)
    optimizer = make_optimizer(tiny_model(), recipe)
    schedule = make_schedule(optimizer, recipe, 50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == pytest.approx(1.0) and rates[30] == pytest.approx(0.5) and rates[-1] < 0.01
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_parameter_groups():
    model = tiny_model()
    optimizer = make_optimizer(model, Recipe(learning_rate=1.0, backbone_learning_rate=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, rate in rates.items():
        assert rate == (0.1 if "feature_extractor" in name else 1.0), name
        assert not re.search(r"feature_extractor\._backbone\.(conv1|layer1)\.", name)
    assert any("input_projections" in name for name in rates) and min(rates.values()) == 0.1


def test_a_step_that_a_scaler_may_leave_out_is_not_fused():
    """A scaler calls a fused step in any case, and Accelerate would count each as made."""
    for precision, fused in (("no", True), ("bf16", True), ("fp16", False)):
        optimizer = make_optimizer(tiny_model(), Recipe(mixed_precision=precision))
        assert bool(optimizer.defaults["fused"]) == fused
        assert getattr(optimizer, "_step_supports_amp_scaling", False) == fused
