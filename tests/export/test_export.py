"""Exported files compute what the model computes, for every variant, batch and size, and without this package."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.export import ExportedProgram

import transformers_samdetr
from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.commands import predict
from transformers_samdetr.export import ExportedDetector, ExportError, export_detector
from transformers_samdetr.export.export_detector import (
    DEFAULT_OPSET,
    OPSETS,
    describe,
    require_compiler,
    write_onnx,
    write_openvino,
    write_package,
    write_program,
)
from transformers_samdetr.export.exported_detector import BOX_TOLERANCE, compare
from transformers_samdetr.export.program import ExportableDetector, capture, example_inputs
from transformers_samdetr.image_processing_sam_detr import best_detections
from transformers_samdetr.operations import FrozenNorm2d
from transformers_samdetr.prediction import Detector, choose_threshold
from transformers_samdetr.presets import PRESETS

from ..models import MULTI_SCALE, SMALL_BACKBONE, VARIANTS, tiny_model
from .operator_lists import refused_operators

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX files need the export extra: onnx, onnxscript, onnxruntime",
)
SHAPES = ((1, 96, 128), (2, 130, 97), (5, 160, 195))
"""Batches of 1, 2 and 5, each of another size; in the larger ones most pictures are padded, in the last where places of
masks are whole numbers."""
QUICK = {
    **MULTI_SCALE,
    "backbone_config": {**SMALL_BACKBONE, "out_indices": [2, 3, 4]},
    "encoder_layers": 1,
    "decoder_layers": 1,
    "smca": True,
    "num_queries": 30,
}
SHALLOW = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 30}


def decided(model: SamDetrForObjectDetection) -> SamDetrForObjectDetection:
    """A random model, changed so that its norms do something, and boxes and labels differ from query to query."""
    for norm in (module for module in model.modules() if isinstance(module, FrozenNorm2d)):
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
        torch.nn.init.normal_(norm.running_mean, std=0.2)
    for head, boxes in zip(model.class_heads, model.model.decoder.box_heads, strict=True):
        torch.nn.init.normal_(head.weight, std=0.5)
        torch.nn.init.normal_(boxes.layers[-1].weight, std=0.2)
    return model.eval()


def boxes_off(exported: ExportedDetector, model: SamDetrForObjectDetection, shapes) -> int:
    """The number of boxes that differ by more than the tolerance and that a change of the pixels by 1e-6 does not move.

    RoIAlign jumps where a sample leaves the map: a box there differs between any two ways of rounding.
    """
    count = 0
    for shape in shapes:
        inputs = example_inputs(model.config.num_channels, *shape, seed=1)
        del inputs["target_sizes"]
        with torch.no_grad():
            boxes = model(**inputs).pred_boxes
            off = ((exported(**inputs).pred_boxes - boxes).abs() > BOX_TOLERANCE).any(-1)
            for seed in range(16 if off.any() else 0):
                noise = torch.randn(inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(seed))
                moved = model(inputs["pixel_values"] * (1 + 1e-6 * noise), inputs["pixel_mask"]).pred_boxes - boxes
                off &= (moved.abs() <= BOX_TOLERANCE).all(-1)
        count += int(off.sum())
    return count


def onnx_of(model: SamDetrForObjectDetection, path: Path) -> ExportedDetector:
    import onnx

    write_onnx(capture(ExportableDetector(model)), path, DEFAULT_OPSET, {})
    assert not refused_operators(onnx.load(path))
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        openvino.convert_model(path)  # raises for operators that it does not know
    return ExportedDetector(path, threads=1)


@pytest.fixture(scope="module")
def quick() -> tuple[SamDetrForObjectDetection, ExportedProgram]:
    """A small model and its program, with detections: tracing is what takes seconds."""
    model = decided(tiny_model(**QUICK))
    torch.nn.init.constant_(model.class_heads[-1].bias, 2.0)  # sure of what it sees
    return model, capture(ExportableDetector(model, top_k=20))


@pytest.fixture(scope="module")
def file(quick, tmp_path_factory) -> Path:
    """The program as ONNX."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    processor = SamDetrImageProcessor(size={"height": 96, "width": 96})
    quick[0].config.detection_threshold = 0.25
    write_onnx(quick[1], path, DEFAULT_OPSET, describe(quick[0], processor))
    return path


@needs_onnx
def test_onnx_finds_the_same_at_every_batch_and_size(quick, file):
    model, exported = quick[0], ExportedDetector(file, threads=1)
    difference = compare(exported, model, SHAPES, top_k=20)
    print(f"\n{difference}")
    assert difference.off == difference.labels == 0 and difference.count > 100, difference

    inputs = example_inputs()
    with torch.no_grad():
        outputs = model(inputs["pixel_values"], inputs["pixel_mask"])
    expected = SamDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=inputs["target_sizes"], top_k=20
    )
    found = exported(**inputs)
    for index, detections in enumerate(expected):
        torch.testing.assert_close(found["boxes"][index], detections["boxes"], atol=0.02, rtol=0)  # pixels
        assert (found["labels"][index] == detections["labels"]).all()


@needs_onnx
def test_what_an_onnx_file_says(file):
    import onnx

    proto = onnx.load(file)
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "pixel_values": ["batch", 3, "height", "width"],
        "pixel_mask": ["batch", "height", "width"],
        "target_sizes": ["batch", 2],
        "scores": ["batch", 20],
        "labels": ["batch", 20],
        "boxes": ["batch", 20, 4],
    }
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", DEFAULT_OPSET)]
    assert not refused_operators(proto)
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert metadata["id2label"] == {str(label): f"LABEL_{label}" for label in range(5)}
    assert metadata["image_processor"]["size"] == {"height": 96, "width": 96}
    assert metadata["image_processor"]["image_mean"] == list(SamDetrImageProcessor().image_mean)
    assert metadata["version"] == transformers_samdetr.__version__ and metadata["detection_threshold"] == 0.25
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()


@needs_onnx
def test_the_document_s_code_runs(file, tmp_path, monkeypatch, capsys):
    document = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "outputs").mkdir()
    shutil.copy(file, tmp_path / "outputs" / "digits.onnx")
    Image.new("RGB", (80, 60), (90, 120, 30)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "export.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("LABEL_")


def test_engines_operator_lists_refuse_sequences_and_other_domains():
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    nodes = [helper.make_node("SplitToSequence", ["x"], ["s"]), helper.make_node("Custom", ["x"], ["y"], domain="own")]
    graph = helper.make_graph(nodes, "graph", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 20)]
    assert refused_operators(helper.make_model(graph, opset_imports=opsets)) == {
        "all engines: domain own",
        "TensorRT: SplitToSequence",
        "TensorRT: Custom",
    }


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("mask_padding", [False, True], ids=["plain", "mask_padding"])
@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_of_every_variant(name, mask_padding, tmp_path):
    model = decided(tiny_model(**{**SHALLOW, **VARIANTS[name]}, mask_padding=mask_padding))
    difference = compare(onnx_of(model, tmp_path / "model.onnx"), model, SHAPES)
    print(f"\n{name}: {difference}")
    assert difference.off == difference.labels == 0, difference


@needs_onnx
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("preset", PRESETS)
def test_onnx_of_every_preset(preset, tmp_path):
    torch.manual_seed(0)
    model = decided(SamDetrForObjectDetection(SamDetrConfig.from_preset(preset)))
    exported, shapes = onnx_of(model, tmp_path / "model.onnx"), ((1, 256, 320), (2, 301, 224), (5, 160, 195))
    difference = compare(exported, model, shapes)
    print(f"\n{preset}: {difference}")
    assert difference.labels == 0 and difference.off <= 2, difference
    assert difference.off == 0 or boxes_off(exported, model, shapes) == 0, difference


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(opset, quick, tmp_path):
    model = quick[0]
    write_onnx(capture(ExportableDetector(model, top_k=20)), tmp_path / "model.onnx", opset, {})
    difference = compare(ExportedDetector(tmp_path / "model.onnx", threads=1), model, SHAPES, top_k=20)
    assert difference.off == difference.labels == 0, difference


WITHOUT_US = """
import sys
for name in ("transformers_samdetr", "transformers", "timm"):
    sys.modules[name] = None  # importing it is an error
import torch
folder = sys.argv[1]
if sys.argv[2] == "aot":
    import torch._inductor
    run = torch._inductor.aoti_load_package(folder + "/model.pt2")
else:
    run = torch.export.load(folder + "/model.pt2").module()
batches = torch.load(folder + "/batches.pt")
torch.save([run(**batch) for batch in batches], folder + "/found.pt")
"""


def run_without_us(folder: Path, format: str, model: SamDetrForObjectDetection):
    """Runs `model.pt2`, made with `top_k` 20, in a process that cannot import what it was made with, and compares."""
    batches = [example_inputs(3, *shape, seed=1) for shape in SHAPES]
    torch.save(batches, folder / "batches.pt")
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(folder), format]
    process = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"})
    assert process.returncode == 0, process.stderr
    for batch, found in zip(batches, torch.load(folder / "found.pt"), strict=True):
        sizes = batch.pop("target_sizes")
        with torch.no_grad():
            outputs = model(**batch)
        scores, labels, boxes = best_detections(outputs.logits, outputs.pred_boxes, 20, sizes)
        torch.testing.assert_close(found["scores"], scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(found["boxes"], boxes, atol=0.01, rtol=0)  # pixels
        assert (found["labels"] == labels).all()


@pytest.mark.slow
def test_a_program_runs_without_this_package(quick, tmp_path):
    model = quick[0]
    write_program(capture(ExportableDetector(model, top_k=20)), tmp_path / "model.pt2", {})
    run_without_us(tmp_path, "torch_export", model)


@pytest.mark.slow
def test_compiled_code_runs_without_this_package(quick, tmp_path):
    try:
        require_compiler()
    except ValueError as error:
        pytest.skip(str(error))
    model = quick[0]
    write_package(capture(ExportableDetector(model, top_k=20)), tmp_path / "model.pt2")
    run_without_us(tmp_path, "aot", model)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with a small random model that is sure of what it sees, and its image processor."""
    model = decided(tiny_model(**QUICK))
    torch.nn.init.constant_(model.class_heads[-1].bias, 2.0)
    model.save_pretrained(tmp_path / "saved")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@needs_onnx
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")
def test_openvino_finds_the_same_and_carries_its_description(quick, file, tmp_path):
    import openvino

    write_openvino(file, tmp_path / "model_openvino", describe(quick[0], None), half=False)
    exported = ExportedDetector(tmp_path / "model_openvino", threads=1)
    shapes = tuple((1, *size) for _, *size in SHAPES)  # see export_detector: positions in padding are not compared
    difference = compare(exported, quick[0], shapes, top_k=20)
    assert difference.off == difference.labels == 0, difference
    model = openvino.Core().read_model(tmp_path / "model_openvino" / "model.xml")
    assert json.loads(model.get_rt_info(["samdetr", "id2label"]).value)["0"] == "LABEL_0"
    with pytest.raises(FileNotFoundError, match="No exported file"):
        ExportedDetector(tmp_path)


@needs_onnx
def test_an_exported_file_is_a_detector(tmp_path, monkeypatch, capsys):
    """The same detections as with the model's folder, by ONNX Runtime."""
    model = decided(tiny_model(**QUICK))
    model.config.update({"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "汽车"}, "category_ids": [9, 4, 6, 2, 7]})
    model.config.detection_threshold = 0.4
    model.save_pretrained(tmp_path / "saved")
    SamDetrImageProcessor(size={"height": 96, "width": 128}).save_pretrained(tmp_path / "saved")
    export_detector(tmp_path / "saved", tmp_path / "model.onnx")
    images = [Image.effect_noise(size, 90).convert("RGB") for size in ((80, 60), (50, 90))]
    ours, theirs = Detector(tmp_path / "saved", "cpu"), Detector(tmp_path / "model.onnx")
    assert theirs.short_name == "model.onnx" and theirs.names == ours.names and theirs.category_ids == [9, 4, 6, 2, 7]
    assert choose_threshold(theirs.model.config).value == 0.4
    for expected, found in zip(ours.detect(images, 0.1), theirs.detect(images, 0.1), strict=True):
        assert len(expected["scores"]) and torch.equal(expected["labels"], found["labels"])
        torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-5, rtol=0)
        torch.testing.assert_close(found["boxes"], expected["boxes"], atol=0.02, rtol=0)  # pixels

    images[0].save(tmp_path / "one.png")
    command = ["samdetr-predict", "one.png", "--model", "model.onnx", "--output_dir", "found", "--threshold", "0.1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", command)
    predict.main()
    assert f"{len(ours.detect(images[:1], 0.1)[0]['scores'])} detections in 1 picture" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--explain"])
    with pytest.raises(SystemExit):
        predict.main()
    assert "give the folder that model.onnx was exported from" in capsys.readouterr().err

    about = json.loads((tmp_path / "model.onnx.json").read_text(encoding="utf-8"))
    (tmp_path / "model.onnx.json").write_text(json.dumps(about | {"top_k": 100}))
    with pytest.raises(ValueError, match="exported with --postprocess"):
        Detector(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.json").unlink()
    with pytest.raises(ValueError, match="model.onnx.json is missing"):
        Detector(tmp_path / "model.onnx")


@needs_onnx
@pytest.mark.slow
def test_a_file_that_is_off_is_not_left(saved, tmp_path, monkeypatch):
    def write_another(program, path, opset, metadata):
        write_onnx(capture(ExportableDetector(decided(tiny_model(seed=1, **QUICK)))), path, opset, metadata)

    monkeypatch.setattr(sys.modules[export_detector.__module__], "write_onnx", write_another)
    with pytest.raises(ExportError, match="outputs differ from the model's; it was deleted: 120 boxes differ"):
        export_detector(saved, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "torchscript"}, "format='torchscript' must be one of onnx, openvino, torch_export, aot"),
        ({"precision": "bfloat16"}, "precision='bfloat16' must be one of float32, float16, int8 for 'onnx'"),
        ({"opset": 9}, "opset=9 must be from 18 to 22"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"format": "aot"}, "output='model.onnx' must end in .pt2 for format='aot'"),
    ],
)
def test_settings_that_are_not_possible(settings, message):
    with pytest.raises(ExportError, match=message):
        export_detector("nothing is read", "model.onnx", **settings)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileExistsError, match="model.onnx exists: choose another output, or overwrite it"):
        export_detector("nothing is read", tmp_path / "model.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'needs onnx, onnxscript, onnxruntime: pip install "transformers-samdetr\[ex'
    ):
        export_detector("nothing is read", "model.onnx")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, there is no .*: install"):
        export_detector("nothing is read", "model.pt2", format="aot")
