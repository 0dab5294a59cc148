"""What finished runs have measured: a JSON file each, small enough to be committed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers_samdetr.training.run_state import comparable, differences

from .runs import Run

LEDGER = Path(__file__).with_name("ledger")


class LedgerMismatch(ValueError):
    """A finished run was another than what the same name asks for now."""


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
                + "\nRemove the file to run it again, or take the settings back."
            )
        return entry

    def write(self, path: Path, entry: Mapping[str, Any]) -> Path:
        """Writes an entry to its path, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path
