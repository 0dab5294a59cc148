"""The converter: any file, tensors and stored arguments give a model, or an error that says what is wrong."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import strategies as st

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.conversion import (
    config_from_checkpoint,
    convert_checkpoint,
    convert_state_dict,
    load_original_checkpoint,
    training_epochs,
)

from ..fuzzing import JSON, ends_well, fuzz, run_cases, tree
from ..original_shapes import original_shapes, variant_args, with_numbers, without_memory
from .test_conversion import SMALL, Malicious

SHAPES = original_shapes(multi_scale=True, smca=True, **SMALL)
TELLING = [name for name in SHAPES if not name.startswith("backbone")]


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def pickled(content) -> bytes:
    return pickle.dumps(content, protocol=2)


TENSORS = {
    "plain": lambda: torch.ones(2, 3),
    "endless": lambda: torch.ones(1, 1).expand(2**20, 2**20),
    "sparse": lambda: torch.ones(2, 3).to_sparse(),
    "nan": lambda: torch.full((2,), float("nan")),
    "integer": lambda: torch.ones(2, dtype=torch.int64),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "empty": lambda: torch.ones(0, 4),
    "meta": lambda: torch.empty(10**9, 10**9, device="meta"),
}


@fuzz(many=400)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Sparse", "ignore:.*sparse.*invariant")
def test_files(tmp_path, examples):
    file = tmp_path / "file.pth"
    trap = tmp_path / "ran"
    good = saved({"model": {"query_embed.weight": torch.ones(3, 4)}, "args": argparse.Namespace(dilation=True)})

    def check(case):
        kind, value, position = case
        if kind == "bytes":
            content = value
        elif kind == "flipped":
            content = bytearray(good)
            content[position % len(good) :][: len(value)] = value
            content[position % len(good) : position % len(good) + len(value)] = value
        elif kind == "cut":
            content = good[: position % len(good)]
        elif kind == "tensor":
            content = saved({"model": {"a": TENSORS[value]()}})
        elif kind == "trap":
            places = {"args": {"model": {}, "args": Malicious(trap)}, "model": Malicious(trap), "old": None}
            content = pickled({"args": Malicious(trap)}) if value == "old" else saved(places[value])
        else:
            content = saved(value)
        file.write_bytes(content)
        result = ends_well(lambda: load_original_checkpoint(file), "file.pth")
        assert not trap.exists()
        if result is not None:
            state_dict, _ = result
            assert sum(t.numel() * t.element_size() for t in state_dict.values()) <= len(content)
            ends_well(lambda: config_from_checkpoint(*result), "SAM-DETR", "checkpoint")

    position = st.integers(0, 10**6)
    contents = st.one_of(
        st.tuples(st.just("bytes"), st.binary(max_size=100), position),
        st.tuples(st.just("flipped"), st.binary(min_size=1, max_size=9), position),
        st.tuples(st.just("flipped"), st.binary(min_size=1, max_size=9), position),
        st.tuples(st.just("cut"), st.just(b""), position),
        st.tuples(st.just("tensor"), st.sampled_from(sorted(TENSORS)), position),
        st.tuples(st.just("trap"), st.sampled_from(["args", "model", "old"]), position),
        st.tuples(st.just("value"), JSON | JSON.map(lambda value: {"model": value, "args": value}), position),
        st.tuples(st.just("value"), JSON.map(lambda value: {"model": {}, "args": value}), position),
    )
    run_cases("converter, files", contents, check, examples)


@fuzz(few=4, many=200)
def test_shapes_and_arguments(examples):
    """What the tensors' shapes and the stored arguments say is taken, or refused; no tensor has memory here."""

    def check(case):
        renamed, shape, arguments = case
        shapes = dict(SHAPES)
        for name in renamed:
            if shape is None:
                del shapes[name]
            else:
                shapes[name] = shape
        args = {**vars(variant_args("r50_ms_smca_e12")), **arguments}
        try:
            state_dict = without_memory(shapes)
        except RuntimeError:
            return  # no tensor has so many numbers
        names = ("checkpoint", "Tensors", "has the shape", "weight", "stored argument", "`", "backbone", "level_embed")
        config = ends_well(lambda: config_from_checkpoint(state_dict, args), *names)
        if config is not None:
            assert isinstance(config, SamDetrConfig)
            ends_well(lambda: convert_state_dict(state_dict, config), "Tensors")
            ends_well(lambda: training_epochs(config, args), "epochs")

    shapes = st.none() | st.lists(st.sampled_from([0, 1, 3, 4, 7, 32, 91, 10**6]), max_size=4).map(tuple)
    arguments = st.dictionaries(
        st.sampled_from(["dropout", "enc_n_points", "nheads", "epochs", "focal_alpha", "aux_loss", "dilation"]), JSON,
        max_size=2,
    )  # fmt: skip
    names = st.lists(st.sampled_from(TELLING), max_size=2, unique=True)
    run_cases("converter, shapes and arguments", st.tuples(names, shapes, arguments), check, examples)


# what was found, one by one


@pytest.mark.parametrize("kind", ["endless", "sparse", "nan", "meta"])
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*sparse.*invariant")
def test_tensors_that_no_checkpoint_has(tmp_path, kind):
    torch.save({"model": {"query_embed.weight": TENSORS[kind]()}}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="file.pth .*(not dense|damaged|refused)") as error:
        load_original_checkpoint(tmp_path / "file.pth")
    assert len(str(error.value)) < 1000


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(10**6)}}, tmp_path / "file.pth")
    with (
        zipfile.ZipFile(tmp_path / "file.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert os.path.getsize(tmp_path / "packed.pth") < 10**4
    with pytest.raises(ValueError, match="packed.pth .*compressed entries"):
        load_original_checkpoint(tmp_path / "packed.pth")


def test_integers_in_the_place_of_weights_are_named():
    state_dict = without_memory(SHAPES)
    config = config_from_checkpoint(state_dict)
    name = "class_embed.0.bias"
    state_dict[name] = torch.zeros(SHAPES[name], dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match="not of floating type: class_embed.0.bias"):
        convert_state_dict(state_dict, config)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("query_embed.weight", (), r"query_embed.weight has the shape \(\)"),
        ("class_embed.0.weight", (91,), r"class_embed.0.weight has the shape \(91,\)"),
        ("class_embed.0.weight", (91, 0), "is at least 4 wide"),
        ("transformer.level_embed", (9, 32), "level_embed has 9 levels; a ResNet has 4 stages"),
    ],
)
def test_shapes_that_tell_nothing(name, shape, message):
    with pytest.raises(ValueError, match=message):
        config_from_checkpoint(without_memory({**SHAPES, name: shape}))


@pytest.mark.parametrize(("argument", "value"), [("dropout", "high"), ("nheads", [8]), ("enc_n_points", 0)])
def test_stored_arguments_that_no_model_has(argument, value):
    with pytest.raises(ValueError):
        config_from_checkpoint(without_memory(SHAPES), {argument: value})


def test_what_is_refused_writes_nothing(tmp_path):
    state_dict = {"class_embed.0.bias": torch.full((91,), float("inf"))}
    torch.save({"model": OrderedDict(state_dict), "args": [1]}, tmp_path / "file.pth")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="'args' of type list"):
        convert_checkpoint(tmp_path / "file.pth", tmp_path / "out")
    torch.save({"model": OrderedDict(state_dict)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="not finite: class_embed.0.bias"):
        convert_checkpoint(tmp_path / "file.pth", tmp_path / "out")
    assert tree(tmp_path).keys() == before.keys()


@pytest.mark.slow
def test_half_precision_is_converted(tmp_path):
    state_dict = {name: tensor.half() for name, tensor in with_numbers(SHAPES).items()}
    torch.save({"model": state_dict}, tmp_path / "file.pth")
    model, _ = convert_checkpoint(tmp_path / "file.pth", tmp_path / "out")
    assert model.num_parameters() > 0
