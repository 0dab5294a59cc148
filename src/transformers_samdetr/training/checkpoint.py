"""Files and folders that are complete or absent, whenever the process is killed; imports no PyTorch.

A checkpoint is written in a folder beside the others, synced, hashed and renamed; the oldest is deleted last.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"
"""Size and SHA-256 of every other file of the folder; written last."""
PARTIAL, DELETED = ".partial-", ".deleted-"
"""What names begin with while a checkpoint is written or deleted; a killed run may leave such folders behind."""

logger = logging.getLogger(__name__)


@contextmanager
def replace_files(folder: Path) -> Iterator[Path]:
    """An empty folder to write in, whose files then replace those in `folder`, which stays as it was if this fails."""
    partial = folder / ".partial-model"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_model(folder: str | Path) -> Path | None:
    """A folder with `config.json` and weights, or None.

    Args:
        folder: itself a model's, or the output of a run that has not saved one yet, whose newest checkpoint is found.
    """
    folder = Path(folder)
    for path in [folder, *list_checkpoints(folder / "checkpoints"), *list_checkpoints(folder)]:
        if (path / "config.json").is_file() and any(path.glob("model*.safetensors")):
            return path
    return None


class CheckpointError(OSError):
    """A checkpoint could not be written, or is not what was written; the message names the file."""


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint comes after, which are in its name."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, good or not, the newest first; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if re.fullmatch(r"step-\d{9,}", path.name)), reverse=True)


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Makes an empty folder in which to write before `commit_checkpoint`; clears what a killed run left behind."""
    partial = folder / f"{PARTIAL}step-{step:09d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.iterdir():
            if leftover.name.startswith((PARTIAL, DELETED)):
                shutil.rmtree(leftover)
        partial.mkdir()
    except OSError as error:
        raise write_error(folder, error) from error
    return partial


def commit_checkpoint(partial: Path) -> Path:
    """Syncs what `begin_checkpoint`'s folder holds, adds the manifest, and gives the folder its name.

    A checkpoint of the same step is replaced; between the two renames it is absent, and an older one still there. No
    checkpoint has changed after a CheckpointError.
    """
    final = partial.with_name(partial.name.removeprefix(PARTIAL))
    try:
        files = {}
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            _sync(path)
            files[path.relative_to(partial).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        manifest = partial / MANIFEST
        manifest.write_text(json.dumps({"digest": _digest(files), "files": files}, indent=1), encoding="utf-8")
        for path in [manifest, *(path for path in partial.rglob("*") if path.is_dir()), partial]:
            _sync(path)
        if final.exists():
            final.rename(final.with_name(f"{DELETED}{final.name}"))
        partial.rename(final)
        _sync(final.parent)
    except OSError as error:
        raise write_error(partial, error) from error
    return final


def write_error(partial: Path, error: Exception, file: Path | None = None) -> CheckpointError:
    """What to raise for an error while files were written into `partial`: of `file`, or else of the newest of them."""
    name = file or getattr(error, "filename", None)
    if name is None and partial.is_dir():  # PyTorch's writer does not say which file it was
        written = [path for path in partial.rglob("*") if path.is_file()]
        name = max(written, key=lambda path: path.stat().st_mtime_ns, default=partial)
    folder = partial.parent if partial.name.startswith(PARTIAL) else partial
    good = next((path for path in list_checkpoints(folder) if not first_fault(path)), None)
    left = f"The last good checkpoint is {good}" if good else "There is no earlier one"
    remedy = "Make room or give another folder, then resume"
    return CheckpointError(f"A checkpoint could not be written. {name or partial}: {error}. {left}. {remedy}.")


def verify_checkpoint(checkpoint: Path) -> None:
    """Reads every file of a checkpoint; a CheckpointError names the one that is not as the manifest has it."""
    if fault := first_fault(checkpoint):
        raise CheckpointError(f"{fault}. Resume from another checkpoint, or with 'auto' from the last good one.")


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; bad ones are named in a warning and passed over.

    None without any. If none is good this is a CheckpointError: a new run must not start in their place unasked.
    """
    faults = []
    for checkpoint in list_checkpoints(folder):
        fault = first_fault(checkpoint)
        if not fault:
            return checkpoint
        logger.warning("%s. It is passed over for an older checkpoint.", fault)
        faults.append(fault)
    if faults:
        raise CheckpointError(f"No checkpoint in {folder} is good: " + "; ".join(faults))
    return None


def delete_old_checkpoints(folder: Path, keep: int, best: int | None = None) -> None:
    """Deletes all but the newest `keep` checkpoints and the one of step `best`."""
    for checkpoint in list_checkpoints(folder)[keep:]:
        if step_of(checkpoint) == best:
            continue
        try:
            # renamed first, so that one that a killed run has half deleted is not taken for a torn one
            shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{DELETED}{checkpoint.name}")))
        except OSError as error:
            raise CheckpointError(f"An old checkpoint could not be deleted. {error.filename}: {error}") from error


def first_fault(checkpoint: Path) -> str | None:
    """What is wrong with the first bad file, or None."""
    path = manifest = checkpoint / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content["digest"] != _digest(content["files"]):
            return f"{manifest} was edited: its entries do not give its digest"
        for name, entry in content["files"].items():
            path = checkpoint / name
            size = path.stat().st_size
            if size != entry["size"]:
                return f"{path} has {size} bytes instead of {entry['size']}"
            if _sha256(path) != entry["sha256"]:
                return f"{path} was changed: its SHA-256 is not the manifest's"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError) as error:
        return f"{manifest} is torn or edited: {error!r}"
    return None


def _digest(files: dict) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Has the file's content, or the folder's list of names, on the disk before it returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
