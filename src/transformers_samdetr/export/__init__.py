"""Files that run without this package: ONNX, OpenVINO, `torch.export` programs, and AOTInductor's machine code."""

from .export_detector import FORMATS, PRECISIONS, Export, ExportError, export_detector
from .exported_detector import ExportedDetector
from .static_page import export_page

__all__ = ["FORMATS", "PRECISIONS", "Export", "ExportError", "ExportedDetector", "export_detector", "export_page"]
