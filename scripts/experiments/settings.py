"""What all runs of a comparison share at small scale: pictures, sizes of the architecture, and how to train."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.data.load import DetectionData, load_detection_data
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.training.recipes import TINY, Recipe

SEEDS = (0, 1, 2)

SMALL = {
    # without what sam-detr-tiny has from its start: these are variants here
    "smca": False,
    "num_denoising_groups": 0,
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Setting:
    """Pictures and training that runs have in common, so that they can be compared.

    Attributes:
        name: in the ledger and on the command line.
        title: in the report.
        recipe: of all runs; its `model_overrides` are what all architectures share.
        learning_rates: tried with the first seed; the other seeds take the best. One alone is not compared.
        scenes: numbers of digit scenes for training and evaluation, or None for a folder of `--data_dir`.
        folder: in `--data_dir`, of a real set.
        boxes_from: the setting in which a variant's `boxes_of` has learned its reference boxes (Table 5).
    """

    name: str
    title: str
    recipe: Recipe
    learning_rates: tuple[float, ...]
    scenes: tuple[int, int] | None = None
    folder: str | None = None
    boxes_from: str | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """Fields of the configuration that all architectures share."""
        return self.recipe.model_overrides

    def load_data(self, data_dir: Path | None) -> DetectionData:
        """The pictures.

        Args:
            data_dir: a folder that has the real sets as folders of their names; digit scenes need none.

        Raises:
            ValueError: a real set is asked for without `data_dir`, or is not in it.
        """
        if self.scenes is not None:
            scenes = build_digit_scenes(*self.scenes, size=self.recipe.image_size)
            return load_detection_data(_as_one_class(scenes), box_format="xywh")
        if data_dir is None:
            raise ValueError(f"{self.name} needs pictures: give the folder that has {self.folder!r} by --data_dir.")
        return load_detection_data(data_dir / self.folder)


def _as_one_class(scenes: DatasetDict) -> DatasetDict:
    """All digits as one class: matching and boxes are compared, and reading digits would take most of a short run."""

    def without_class(example: dict[str, Any]) -> dict[str, Any]:
        objects = example["objects"]
        return {"objects": {**objects, "category": [0] * len(objects["category"])}}

    return scenes.map(without_class, features=detection_features(["digit"]))


def _small_recipe(name: str, **fields: Any) -> Recipe:
    return replace(TINY, name=name, initial_boxes="model", trackers="none", log_steps=100, **fields)


def _at_128(name: str, **fields: Any) -> Recipe:
    """Small enough for a run of some minutes on one core."""
    overrides = {**SMALL, "num_queries": 30}
    return _small_recipe(name, model_overrides=overrides, image_size=128, **fields)


DIGITS = Setting(
    "digits",
    "digit scenes",
    _at_128("digits", epochs=12, augmentation="none"),
    learning_rates=(1e-3,),
    scenes=(1000, 150),
    boxes_from="cards-at-128",
)
"""Digit scenes, on which the ablations are run."""
OTHER_OBJECTS = Setting("cards-at-128", "small cards", _at_128("cards-at-128", epochs=24), (1e-3,), folder="cards")
"""Where Table 5's reference boxes of another set come from: fewer and larger objects."""


def _photographs(name: str, title: str, folder: str, epochs: int = 12) -> Setting:
    overrides = {**SMALL, "encoder_layers": 2, "encoder_ffn_dim": 512, "decoder_layers": 4, "num_queries": 50}
    recipe = _small_recipe(name, model_overrides=overrides, image_size=256, epochs=epochs)
    return Setting(name, title, recipe, learning_rates=(3e-4, 1e-3), folder=folder)


LONG = 48
"""Epochs of the longer schedule, four times as long as the short one, as in the paper."""
PHOTOGRAPHS = (
    _photographs("cards", "photographs of playing cards", "cards"),
    _photographs("bccd", "photographs of blood cells", "bccd"),
    _photographs("cards-long", "photographs of playing cards, four times as long", "cards", LONG),
    _photographs("bccd-long", "photographs of blood cells, four times as long", "bccd", LONG),
)

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in (DIGITS, OTHER_OBJECTS, *PHOTOGRAPHS)}
"""All settings by name."""
