"""`samdetr-train` and `scripts/train.py` parse, and nothing else."""

from dataclasses import replace

import pytest

from transformers_samdetr.commands.train import described_fields
from transformers_samdetr.commands.train import parse as parse_arguments
from transformers_samdetr.data import augment
from transformers_samdetr.training import RECIPES
from transformers_samdetr.training.recipes import AUGMENTATIONS


@pytest.fixture
def parse(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["train.py", "--output_dir", "out", *arguments])
        return parse_arguments()

    return run


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_reached_unchanged(parse, name):
    assert parse("--recipe", name)[1] == RECIPES[name]


def test_every_field_can_be_overridden(parse):
    arguments = {
        "--freeze_backbone": [],
        "--augmentation": ["flip"],
        "--batch_size": ["4"],
        "--image_size": ["160"],
        "--drop_at": ["0.5"],
    }
    arguments |= {"--model_overrides": ['{"dropout": 0.1}'], "--backbone_weights": ["efficientnet-lite0"]}
    _, recipe = parse(*(word for name, values in arguments.items() for word in (name, *values)))
    assert (
        recipe.freeze_backbone
        and recipe.augmentation == "flip"
        and recipe.batch_size == 4
        and recipe.image_size == 160
        and recipe.drop_at == 0.5
    )
    assert recipe.model_overrides == {"dropout": 0.1} and recipe.backbone_weights == "efficientnet-lite0"


def test_none_turns_a_field_off(parse):
    _, recipe = parse("--backbone_weights", "none", "--image_size", "none")
    assert recipe.backbone_weights is None and recipe.image_size is None


def test_a_wrong_value_is_refused_with_what_is_possible(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--schedule", "linear")
    assert "schedule='linear' is not possible: choose one of 'step', 'cosine'" in capsys.readouterr().err
    for field, wrong, kind in (
        ("learning_rate", "1e-3", "a number"),
        ("epochs", 1.5, "an int"),
        ("seed", None, "an int"),
    ):
        with pytest.raises(ValueError, match=f"{field}={wrong!r} is not possible: it must be {kind}"):
            replace(RECIPES["tiny"], **{field: wrong})
    with pytest.raises(SystemExit):
        parse("--recipe", "none")
    assert "sam-detr-r50" in capsys.readouterr().err


def test_every_field_is_described_and_constants_repeat_those_of_the_libraries():
    assert all(described_fields().values())
    assert AUGMENTATIONS == augment.AUGMENTATIONS
