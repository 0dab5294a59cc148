"""Files that run without this package: ONNX, OpenVINO, `torch.export` programs, and AOTInductor's machine code."""

from .export_detector import FORMATS, PRECISIONS, Export, ExportError, export_detector
from .exported_detector import ExportedDetector

__all__ = ["FORMATS", "PRECISIONS", "Export", "ExportError", "ExportedDetector", "export_detector"]
