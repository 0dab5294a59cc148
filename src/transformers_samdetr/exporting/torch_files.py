"""A program as a file that PyTorch alone runs, interpreted or compiled."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.export import ExportedProgram


def write_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]):
    """For `torch.export.load(path).module()`; `metadata` are files that it carries along."""
    torch.export.save(program, path, extra_files={f"{name}.json": text for name, text in metadata.items()})


def write_package(program: ExportedProgram, path: Path):
    """For `torch._inductor.aoti_load_package(path)`: machine code for this kind of processor, by AOTInductor."""
    import torch._inductor  # which takes a second

    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def require_compiler():
    """Raises:
    ValueError: there is no C++ compiler for AOTInductor.
    """
    compiler = os.environ.get("CXX", "g++")
    if not (shutil.which(compiler) or shutil.which("clang++")):
        raise ValueError(f"format='aot' needs a C++ compiler, there is no {compiler}: install g++, or name one in CXX.")
