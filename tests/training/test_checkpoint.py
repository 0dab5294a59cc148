"""Checkpoint folders: complete or absent, whatever goes wrong while they are written, kept or read."""

import contextlib
import json
import os
import resource
import shutil
import subprocess

import pytest

from transformers_samdetr.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    begin_checkpoint,
    commit_checkpoint,
    delete_old_checkpoints,
    find_model,
    latest_checkpoint,
    list_checkpoints,
    verify_checkpoint,
    write_error,
)


def write(folder, step, size=4096):
    """A checkpoint of two files, one of them in a folder of its own."""
    partial = begin_checkpoint(folder, step)
    try:
        (partial / "shards").mkdir()
        (partial / "model.safetensors").write_bytes(os.urandom(size))
        (partial / "shards" / "0.distcp").write_bytes(os.urandom(size))
    except OSError as error:
        raise write_error(partial, error) from error
    return commit_checkpoint(partial)


def steps(folder):
    return [int(path.name[5:]) for path in list_checkpoints(folder)]


def test_a_checkpoint_is_verified_and_found(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None
    for step in (5, 10):
        verify_checkpoint(write(tmp_path, step))
    assert latest_checkpoint(tmp_path).name == "step-000000010"
    manifest = json.loads((tmp_path / "step-000000010" / MANIFEST).read_text())
    assert set(manifest["files"]) == {"model.safetensors", "shards/0.distcp"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step)
        delete_old_checkpoints(tmp_path, keep=2, best=2)
    assert steps(tmp_path) == [5, 4, 2]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_an_entry(path):
    manifest = json.loads(path.read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", flip_a_bit),
        ("shards/0.distcp", lambda path: path.unlink()),
        (MANIFEST, cut),
        (MANIFEST, edit_an_entry),
        (MANIFEST, lambda path: path.unlink()),
    ],
    ids=["cut", "bit flipped", "file lost", "manifest cut", "manifest edited", "manifest lost"],
)
def test_a_torn_or_edited_checkpoint_is_named_and_passed_over(tmp_path, caplog, file, damage):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    damage(bad / file)
    with pytest.raises(CheckpointError, match=str(bad / file)):
        verify_checkpoint(bad)
    assert latest_checkpoint(tmp_path) == good
    assert str(bad / file) in caplog.text
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match=str(bad / file)):  # not a fresh start in its place
        latest_checkpoint(tmp_path)


def test_what_a_killed_run_leaves_is_not_a_checkpoint_and_goes(tmp_path):
    write(tmp_path, 1)
    partial = begin_checkpoint(tmp_path, 2)
    (partial / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".deleted-step-000000000").mkdir()
    assert steps(tmp_path) == [1] and latest_checkpoint(tmp_path).name == "step-000000001"
    write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]


def test_a_bad_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 1)
    cut(write(tmp_path, 2) / "model.safetensors")
    write(tmp_path, 2)
    assert latest_checkpoint(tmp_path).name == "step-000000002"


@contextlib.contextmanager
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk; test_a_file_that_grows_too_large stands in for it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path) as folder:
        good = write(folder, 1)
        with pytest.raises(CheckpointError, match=f"model.safetensors.*No space left.*last good.*{good.name}"):
            write(folder, 2, size=2**20)
        assert latest_checkpoint(folder) == good
        assert write(folder, 2)  # the half one gives its space back


def test_a_file_that_grows_too_large(tmp_path):
    good = write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(CheckpointError, match=f"model.safetensors.*File too large.*last good.*{good.name}"):
            write(tmp_path, 2, size=2**21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert latest_checkpoint(tmp_path) == good


@contextlib.contextmanager
def read_only(folder):
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], capture_output=True).returncode:
        pytest.skip("root writes into any folder, and may not mount one read-only here")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "checkpoints"
    good = write(folder, 1)
    with read_only(folder):
        with pytest.raises(CheckpointError, match=f"{folder}.*last good checkpoint is {good}"):
            write(folder, 2)
        with pytest.raises(CheckpointError, match=f"could not be deleted.*{good}"):
            delete_old_checkpoints(folder, keep=0)
        assert latest_checkpoint(folder) == good
    assert write(folder, 2)


@pytest.mark.parametrize("call", ["_sync", "_sha256"])
def test_an_error_while_committing_leaves_nothing(tmp_path, monkeypatch, call):
    good = write(tmp_path, 1)

    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(f"transformers_samdetr.training.checkpoint.{call}", fail)
    with pytest.raises(CheckpointError, match="model.safetensors.*Input/output error"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path) == good and steps(tmp_path) == [1]


def test_a_model_is_found_in_an_output_folder_or_its_newest_checkpoint(tmp_path):
    assert find_model(tmp_path) is None
    for step in (1, 2, 3):
        write(tmp_path / "checkpoints", step)
    assert find_model(tmp_path) is None
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step-{step:09d}" / "config.json").write_text("{}")
    found = find_model(tmp_path)
    assert found is not None and found.name.endswith("2") and find_model(tmp_path / "checkpoints") == found
    (tmp_path / "config.json").write_text("{}")
    assert find_model(tmp_path) == found  # without weights it is no model
    (tmp_path / "model.safetensors").touch()
    assert find_model(tmp_path) == tmp_path
