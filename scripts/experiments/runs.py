"""One run of a small experiment: a variant in a setting with a seed and a learning rate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers_samdetr.training.recipes import Recipe

from .settings import SETTINGS, Setting
from .variants import VARIANTS, Variant

FREE_FIELDS = ("log_steps", "trackers", "workers")
"""Fields of a recipe that a run's numbers do not depend on."""


@dataclass(frozen=True)
class Run:
    """What is trained and measured once, whichever tables show it.

    Attributes:
        setting: a name in `SETTINGS`.
        variant: a name in `VARIANTS`.
        learning_rate: of all but the backbone; one of the setting's.
        seed: of weights, order of pictures, augmentation and noise.
    """

    setting: str
    variant: str
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        for name, known in (("setting", SETTINGS), ("variant", VARIANTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(known)}.")

    @property
    def name(self) -> str:
        """`digits/sam-detr-lr0.001-seed0`, of its files too."""
        return f"{self.setting}/{self.variant}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def parts(self) -> tuple[Setting, Variant]:
        return SETTINGS[self.setting], VARIANTS[self.variant]

    @property
    def needs(self) -> "Run | None":
        """The run that must be finished before this one: what its reference boxes are taken from."""
        setting, variant = self.parts
        if variant.boxes_of is None:
            return None
        if setting.boxes_from is None:
            raise ValueError(f"{variant.name} has no set to take boxes from in the setting {setting.name!r}.")
        rate = SETTINGS[setting.boxes_from].learning_rates[0]
        return Run(setting.boxes_from, variant.boxes_of, rate, self.seed)

    @property
    def gives_boxes(self) -> bool:
        """Whether other runs take their reference boxes from it."""
        return any(setting.boxes_from == self.setting for setting in SETTINGS.values())

    def recipe(self) -> Recipe:
        """The setting's recipe with what is this run's own."""
        setting, variant = self.parts
        recipe = setting.recipe
        # the backbone keeps its share of the learning rate
        share = recipe.backbone_learning_rate / recipe.learning_rate
        return replace(
            recipe,
            name=variant.name,
            model_overrides=architecture(setting, variant),
            initial_boxes=variant.initial_boxes,
            epochs=int(recipe.epochs * variant.times_epochs),
            learning_rate=self.learning_rate,
            backbone_learning_rate=self.learning_rate * share,
            seed=self.seed,
        )

    def identity(self) -> dict[str, Any]:
        """All that its numbers depend on but data and software; plain, ready for JSON."""
        _, variant = self.parts
        recipe = {name: value for name, value in asdict(self.recipe()).items() if name not in FREE_FIELDS}
        return {
            "setting": self.setting,
            "variant": self.variant,
            "peer": variant.peer,
            "boxes_of": variant.boxes_of,
            "seed": self.seed,
            "recipe": recipe,
        }


def architecture(setting: Setting, variant: Variant) -> Mapping[str, Any]:
    """The configuration's fields beyond the preset's: the setting's, then the variant's."""
    return {**setting.fields, **variant.fields}
