"""One run of a small experiment, the ledger of finished runs, and the order in which a suite's runs are made."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers_samdetr.training.recipes import Recipe
from transformers_samdetr.training.resume import comparable, differences

from .definitions import SEEDS, SETTINGS, VARIANTS, Setting, Suite, Variant

FREE_FIELDS = ("log_steps", "trackers", "workers")
"""Fields of a recipe that do not change a run's numbers."""


@dataclass(frozen=True)
class Run:
    """A variant trained in a setting with a learning rate and a seed; several tables may show it.

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
        """Such as `digits/sam-detr-lr0.001-seed0`; also the name of its files."""
        return f"{self.setting}/{self.variant}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def parts(self) -> tuple[Setting, Variant]:
        return SETTINGS[self.setting], VARIANTS[self.variant]

    @property
    def needs(self) -> "Run | None":
        """The run whose reference boxes this one takes, which must be finished first; usually None."""
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
        """The setting's recipe with the fields of this run."""
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
        """Everything that its numbers depend on except data and software, for JSON."""
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


LEDGER = Path(__file__).with_name("ledger")


class LedgerMismatch(ValueError):
    """A finished run has other settings than the run of the same name now."""


class Ledger:
    """A folder with `SETTING/VARIANT-lrRATE-seedSEED.json` for each finished run.

    An entry holds `identity` (see `Run.identity`), `data` (fingerprint, pictures, classes), `software`, `machine`,
    `parameters`, `multiply_adds`, and `epochs`: the lines of the run's log with `cpu_seconds`, the processor time of
    the epoch's training.

    Args:
        folder: is made when the first entry is written.
    """

    def __init__(self, folder: Path | str = LEDGER):
        self.folder = Path(folder)

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def seeds(self, setting: str, variant: str) -> list[int]:
        """Those with a finished run at any learning rate, from the lowest up."""
        names = (path.stem for path in (self.folder / setting).glob(f"{variant}-lr*-seed*.json"))
        return sorted({int(name.rpartition("-seed")[2]) for name in names})

    def read(self, run: Run) -> dict[str, Any] | None:
        """The entry of a run, or None if it is not finished.

        Raises:
            LedgerMismatch: the entry is of a run with other settings; the message says which.
        """
        return self.read_path(self.path(run), run.identity())

    def read_path(self, path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The entry in a file, which must be of this identity; otherwise as `read`."""
        if not path.is_file():
            return None
        entry = json.loads(path.read_text(encoding="utf-8"))
        changes = differences(entry["identity"], comparable(identity, entry["identity"]))
        if changes:
            changes = [change.replace("in the checkpoint", "in the ledger") for change in changes]
            raise LedgerMismatch(
                f"{path} is of a run with other settings:\n  "
                + "\n  ".join(changes)
                + "\nRemove the file to run it again, or restore the settings."
            )
        return entry

    def write(self, path: Path, entry: Mapping[str, Any]) -> Path:
        """Writes an entry atomically: the file is complete or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path


def plan(
    suite: Suite, ledger: Ledger, seeds: Sequence[int] = SEEDS, variants: Sequence[str] | None = None
) -> list[Run]:
    """All runs of a suite, finished ones included, in the order in which to make them.

    Each learning rate is run with the first seed. The other seeds take the best rate, so they are planned once those
    runs are finished.

    Args:
        suite: gives rows and settings.
        ledger: for the best learning rates.
        seeds: the same for all variants, so that runs can be paired.
        variants: those to keep; all by default.

    Raises:
        ValueError: a variant is none of the suite's.
    """
    known = list(dict.fromkeys(row.variant for row in suite.rows))
    for name in variants or ():
        if name not in known:
            raise ValueError(f"{name!r} is no variant of the suite {suite.name!r}, which has {', '.join(known)}.")
    kept = [name for name in known if variants is None or name in variants]
    runs: dict[Run, None] = {}
    for seed in seeds:
        for setting in (SETTINGS[name] for name in suite.settings):
            for variant in kept:
                for run in _runs(setting, variant, seed, seeds[0], ledger):
                    runs.update(dict.fromkeys([run.needs] if run.needs else []))
                    runs[run] = None
    return list(runs)


def _runs(setting: Setting, variant: str, seed: int, first_seed: int, ledger: Ledger) -> Iterator[Run]:
    if seed == first_seed:
        yield from (Run(setting.name, variant, rate, seed) for rate in setting.learning_rates)
    else:
        rate = best_learning_rate(setting, variant, first_seed, ledger)
        if rate is not None:
            yield Run(setting.name, variant, rate, seed)


def best_learning_rate(setting: Setting, variant: str, seed: int, ledger: Ledger) -> float | None:
    """The rate with the highest AP after the last epoch with this seed; None until all rates are finished."""
    if len(setting.learning_rates) == 1:
        return setting.learning_rates[0]
    entries = [ledger.read(Run(setting.name, variant, rate, seed)) for rate in setting.learning_rates]
    if None in entries:
        return None
    last = [last_ap(entry) for entry in entries]
    return setting.learning_rates[last.index(max(last))]


def last_ap(entry: dict[str, Any], metric: str = "AP") -> float:
    """The metric after the last epoch, in percent."""
    return entry["epochs"][-1][metric]
