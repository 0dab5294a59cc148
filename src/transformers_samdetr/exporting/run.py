"""Runs exported files, whatever their format, with tensors in and out."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..outputs import SamDetrObjectDetectionOutput
from .onnx_file import require_onnx

Runner = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class ExportedDetector(nn.Module):
    """An exported file in place of the model it was made of, on the CPU.

    Args:
        path: what `export_model` has written.
        threads: of ONNX Runtime; by default as many as there are cores. The other formats run on PyTorch's.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: it is an ONNX file, and onnxruntime is missing.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0))  # of a device, for those who ask a model where it is
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No such file: {path}")
        self.run: Runner = _onnx_session(path, threads) if not zipfile.is_zipfile(path) else _torch_program(path)

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, target_sizes: Tensor | None = None
    ) -> SamDetrObjectDetectionOutput | dict[str, Tensor]:
        """What the model returns, as far as the file has it, or its detections; see `ExportableDetector.forward`."""
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.int64)
        inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "target_sizes": target_sizes}
        outputs = self.run({name: value for name, value in inputs.items() if value is not None})
        return SamDetrObjectDetectionOutput(**outputs) if "logits" in outputs else outputs


def _onnx_session(path: Path, threads: int | None) -> Runner:
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads rest between two calls
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


def _torch_program(path: Path) -> Runner:
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    if is_compiled:
        module = torch._inductor.aoti_load_package(str(path))
    else:
        module = torch.export.load(path).module()
    return lambda inputs: module(**inputs)
