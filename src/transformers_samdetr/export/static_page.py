"""A page that detects in the browser alone: one folder for any file server."""

import hashlib
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from ..image_processing_sam_detr import SamDetrImageProcessor
from ..visualization.web_page import write_page
from .export_detector import Export, ExportError, export_detector

RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_ADDRESS = f"https://cdn.jsdelivr.net/npm/{RUNTIME}/dist"
RUNTIME_FILES = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""With the SHA-256 of each; no other content is taken."""


def export_page(
    model: str | os.PathLike, output: str | os.PathLike, runtime: str | os.PathLike | None = None, **options: Any
) -> Export:
    """Writes index.html, the model as ONNX with its post-processing, and ONNX Runtime for browsers.

    Args:
        model, options: as of `export_detector`.
        output: the folder to write.
        runtime: the folder `dist` of the npm package `RUNTIME`, by default downloaded.

    Raises:
        ExportError, FileExistsError: as of `export_detector`; ONNX Runtime's files cannot be read.
    """
    output, resample = Path(output), SamDetrImageProcessor.from_pretrained(model).resample
    if resample != 2:
        raise ExportError(f"resample={resample} of the image processor must be 2, bilinear, for a page.")
    address, files = RUNTIME_ADDRESS if runtime is None else Path(runtime).absolute().as_uri(), {}
    for name, digest in RUNTIME_FILES.items():
        try:
            with urllib.request.urlopen(f"{address}/{name}", timeout=60) as answer:
                files[name] = answer.read()
        except OSError as error:
            remedy = f"give the folder dist of npm's {RUNTIME} as runtime"
            raise ExportError(f"{address}/{name} cannot be read ({error}): {remedy}.") from error
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ExportError(f"{address}/{name} must be that of {RUNTIME}: its SHA-256 is another.")
    export = export_detector(model, output / "model.onnx", postprocess=True, **options)
    shutil.copytree(Path(__file__).with_name("web"), output, dirs_exist_ok=True)
    write_page(output / "index.html", __package__, "web/index.html", {"title": Path(model).name})
    for name, content in files.items():
        (output / name).write_bytes(content)
    return Export(output, export.difference)
