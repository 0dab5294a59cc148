"""The authors' checkpoints: all 12 variants recognised, every tensor in its place, nothing else let in."""

import argparse
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.conversion import (
    PUBLISHED_AP,
    config_from_checkpoint,
    convert_checkpoint,
    convert_state_dict,
    load_original_checkpoint,
    training_epochs,
    translate,
    variant_name,
)
from transformers_samdetr.presets import PRESETS

from ..original_shapes import VARIANTS, original_shapes, variant_args, variant_shapes, with_numbers, without_memory

PARITY = Path(__file__).parents[3] / "shared" / "parity"
SMALL = {"d": 32, "queries": 5, "layers": 1, "encoder_ffn": 32, "decoder_ffn": 32}
PRESET_OF = {
    "r50": "sam-detr-r50",
    "r50_smca": "sam-detr-r50-smca",
    "r50_dc5": "sam-detr-r50-dc5",
    "r50_dc5_smca": "sam-detr-r50-dc5-smca",
    "r50_ms": "sam-detr-pp-r50",
    "r50_ms_smca": "sam-detr-pp-r50-smca",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recognised(variant):
    state_dict, args = without_memory(variant_shapes(variant)), variant_args(variant)
    config = config_from_checkpoint(state_dict, args)
    model, epochs = variant.rsplit("_e")
    assert variant_name(config) == PRESET_OF[model]
    assert training_epochs(config, vars(args)) == int(epochs)
    assert config.input_projection_norm == ("ms" in variant or epochs == "12")

    # but for the dropout of the first paper, and the norm, it is the preset
    expected = SamDetrConfig.from_preset(PRESET_OF[model]).to_dict()
    different = {name for name, value in config.to_dict().items() if expected.get(name) != value}
    assert different <= {"input_projection_norm", "dropout", "attention_dropout", "activation_dropout"}
    assert config.dropout == config.attention_dropout == config.activation_dropout == args.dropout
    assert config.id2label[1] == "person" and config.id2label[90] == "toothbrush"

    converted = convert_state_dict(state_dict, config)
    with torch.device("meta"):
        target = SamDetrForObjectDetection(config)
    assert {name: t.shape for name, t in converted.items()} == {
        name: t.shape for name, t in target.state_dict().items()
    }


def test_schedule_without_stored_arguments():
    for variant in VARIANTS:
        config = config_from_checkpoint(without_memory(variant_shapes(variant)), dilation="dc5" in variant)
        expected = None if "ms" in variant else int(variant.rsplit("_e")[-1])
        assert training_epochs(config, None) == expected


@pytest.mark.skipif(not PARITY.is_dir(), reason="../shared/parity, the lists of the authors' tensors, is missing")
@pytest.mark.parametrize("name", ["r50_e12.odd", "r50_ms_smca_e12.odd", "r50_smca_e12.pad", "r50_dc5_e12.one"])
def test_specification_of_shapes_is_the_authors(name):
    listed = json.loads((PARITY / f"{name}.json").read_text())["state_dict"]
    assert variant_shapes(name.split(".")[0]) == {key: tuple(shape) for key, shape in listed.items()}


def test_dilation_cannot_be_seen_in_tensors():
    state_dict = without_memory(variant_shapes("r50_dc5_e12"))
    with pytest.raises(ValueError, match="--dilation or --no-dilation"):
        config_from_checkpoint(state_dict)
    assert config_from_checkpoint(state_dict, dilation=True).dilation
    assert not config_from_checkpoint(state_dict, dilation=False).dilation
    assert not config_from_checkpoint(state_dict, argparse.Namespace(dilation=True), dilation=False).dilation
    assert not config_from_checkpoint(without_memory(variant_shapes("r50_ms_e12"))).dilation


def test_numbers_arrive_where_they_belong():
    state_dict = with_numbers(original_shapes(**SMALL))
    converted = convert_state_dict(state_dict, config_from_checkpoint(state_dict, dilation=False))
    for part, name in enumerate("qkv"):
        for leaf in ("weight", "bias"):
            whole = state_dict[f"transformer.encoder.layers.0.self_attn.in_proj_{leaf}"]
            assert torch.equal(
                converted[f"model.encoder.layers.0.self_attn.{name}_proj.{leaf}"], whole[32 * part : 32 * (part + 1)]
            )
    assert torch.equal(converted["model.query_reference_boxes"], state_dict["query_embed.weight"])
    # each number once: nothing dropped but the second name of the box heads, nothing twice
    counted = sum(t.numel() for name, t in state_dict.items() if not name.startswith("transformer.decoder.bbox_embed"))
    assert sum(t.numel() for t in converted.values()) == counted
    assert len({t.untyped_storage().data_ptr() for t in converted.values()}) == len(converted)


def test_second_name_of_box_heads_wins():
    state_dict = with_numbers(original_shapes(**SMALL))
    state_dict["transformer.decoder.bbox_embed.0.layers.2.bias"] = torch.full((4,), 9.0)
    converted = convert_state_dict(state_dict, config_from_checkpoint(state_dict, dilation=False))
    assert torch.equal(converted["model.decoder.box_heads.0.layers.2.bias"], state_dict["bbox_embed.0.layers.2.bias"])


def test_translation():
    assert translate("backbone.0.body.layer4.0.downsample.1.running_var") == (
        "model.backbone.feature_extractor._backbone.layer4.0.downsample.1.running_var",
    )
    assert translate("transformer.decoder.layers.11.ca_kpos_sine_proj.layers.1.bias") == (
        "model.decoder.layers.11.cross_attn.k_position_proj.layers.1.bias",
    )
    assert translate("transformer.decoder.layers.0.point3.weight") == ()


def test_unknown_missing_and_misshapen_tensors_are_listed():
    state_dict = without_memory(variant_shapes("r50_e12"))
    config = config_from_checkpoint(state_dict, dilation=False)
    state_dict["teacher.weight"] = torch.empty(1)
    state_dict["transformer.level_embed"] = torch.empty(3, 256)  # known, but not in a single-scale model
    del state_dict["class_embed.3.bias"], state_dict["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    state_dict["bbox_embed.1.layers.2.weight"] = torch.empty(5, 256)
    with pytest.raises(ValueError) as error:
        convert_state_dict(state_dict, config)
    message = str(error.value)
    assert "2 unknown: teacher.weight, transformer.level_embed" in message
    assert "class_embed.3.bias" in message and "encoder.layers.0.self_attn.in_proj_weight" in message
    assert "bbox_embed.1.layers.2.weight" in message and "needs (4, 256), has (5, 256)" in message


@pytest.mark.parametrize("name", ["query_embed.weight", "class_embed.0.weight"])
def test_a_missing_tensor_of_the_architecture_is_named(name):
    state_dict = without_memory(variant_shapes("r50_e12"))
    del state_dict[name]
    with pytest.raises(ValueError, match=f"missing: {name}"):
        config_from_checkpoint(state_dict, dilation=False)


def test_another_keypoint_head_is_refused():
    shapes = variant_shapes("r50_e12") | {"transformer.decoder.layers.0.point2.6.weight": (24, 512)}
    with pytest.raises(ValueError, match="has 24 outputs; with 8 heads the authors' models have 16, or 32"):
        config_from_checkpoint(without_memory(shapes), dilation=False)


def test_checkpoint_to_folder(tmp_path):
    state_dict, args = (
        with_numbers(original_shapes(multi_scale=True, smca=True, **SMALL)),
        variant_args("r50_ms_smca_e50"),
    )
    torch.save({"model": OrderedDict(state_dict), "args": args, "epoch": 49, "optimizer": {}}, tmp_path / "file.pth")
    model, card = convert_checkpoint(tmp_path / "file.pth", tmp_path / "out")
    assert card.training_data == "COCO train2017" and "trained for 50 epochs" in card.source
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path / "out").eval()
    assert loaded.config.smca and loaded.config.num_feature_levels == 3
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    assert SamDetrImageProcessor.from_pretrained(tmp_path / "out").size == {"shortest_edge": 800, "longest_edge": 1333}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "modeling_sam_detr.py",
    } <= written


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["args", "model", "top"])
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused(tmp_path, place, is_zip):
    trap, file = Malicious(tmp_path / "ran"), tmp_path / "file.pth"
    content = trap if place == "top" else {"model": {"a": torch.zeros(1)}, "args": None} | {place: trap}
    if is_zip:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content if place == "top" else {"args": trap}))
    with pytest.raises(ValueError, match="was refused") as error:
        load_original_checkpoint(file)
    assert "weights_only=False" not in str(error.value)  # torch's own advice, and bad advice here
    assert not (tmp_path / "ran").exists()


def test_nothing_but_namespace_is_allowed(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "args": Path("x")}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="pathlib"):
        load_original_checkpoint(tmp_path / "file.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(dilation=True)}, tmp_path / "file.pth")
    state_dict, args = load_original_checkpoint(tmp_path / "file.pth")
    assert list(state_dict) == ["a"] and args == {"dilation": True}
    torch.save(state_dict, tmp_path / "bare.pth")
    assert load_original_checkpoint(tmp_path / "bare.pth")[1] is None


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_original_checkpoint(tmp_path / "file.pth")


def test_other_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_original_checkpoint(tmp_path / "nowhere.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_original_checkpoint(tmp_path / "file.pth")


def test_published_numbers_belong_to_presets():
    assert {name for name, _ in PUBLISHED_AP} <= set(PRESETS)


def test_script(tmp_path):
    state_dict = with_numbers(original_shapes(smca=True, norm=False, **SMALL))
    torch.save({"model": state_dict}, tmp_path / "file.pth")
    script = Path(__file__).parents[2] / "scripts" / "convert_original_checkpoint.py"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        command = [sys.executable, script, "--checkpoint", "file.pth", "--output_dir", "out", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    unclear = run()
    assert unclear.returncode == 2 and "--no-dilation" in unclear.stderr and "Traceback" not in unclear.stderr
    assert not (tmp_path / "out").exists()
    done = run("--dilation")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sam-detr-r50-dc5-smca" in done.stdout and "50 epochs" in done.stdout
    config = SamDetrConfig.from_pretrained(tmp_path / "out")
    assert config.dilation and not config.input_projection_norm and config.backbone_config.output_stride == 16
    assert "Licence\n\nnot stated" in (tmp_path / "out" / "README.md").read_text()
