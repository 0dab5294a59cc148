"""The notebooks of examples/ run from the first cell to the last, and are stored without what they show."""

import os
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.digit_scenes import DIGIT_NAMES

from ..models import TINY

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
SMALL = {
    "detect_and_explain": 'MODEL, THRESHOLD, COUNT = "outputs/digits", 0.1, 2',
    "fine_tune": 'FOLDER, OUTPUT, PICTURES, EPOCHS, IMAGE_SIZE = "folder", "outputs/own", 20, 1, 64',
}
"""What the tests put after the cell with the parameters."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_as_nobody_has_run_it(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    for number, cell in enumerate(code):
        compile(cell.source, f"{path.name} {number}", "exec")
        assert max(map(len, cell.source.splitlines())) <= 120


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A folder with a model in `outputs/digits` that is sure of what it sees."""
    torch.manual_seed(0)
    names = dict(enumerate(DIGIT_NAMES))
    fields = {name: value for name, value in TINY.items() if name != "num_labels"}
    model = SamDetrForObjectDetection(
        SamDetrConfig(**fields, smca=True, id2label=names, label2id={name: label for label, name in names.items()})
    )
    torch.nn.init.constant_(model.class_heads[-1].bias, 1.0)
    model.save_pretrained(tmp_path / "outputs" / "digits")
    SamDetrImageProcessor(size={"height": 128, "width": 128}).save_pretrained(tmp_path / "outputs" / "digits")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, workplace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    position = next(index for index, cell in enumerate(notebook.cells) if cell.metadata.get("tags") == ["parameters"])
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(SMALL[path.stem]))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(workplace)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, path.stem
    assert not any(output.output_type == "error" for output in outputs)
