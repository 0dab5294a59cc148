"""Files that run without this package: ONNX, `torch.export` programs, and AOTInductor's machine code."""

from .export import FORMATS, PRECISIONS, Export, ExportError, export_detector
from .run import ExportedDetector

__all__ = ["FORMATS", "PRECISIONS", "Export", "ExportError", "ExportedDetector", "export_detector"]
