"""The machine that figures are measured on, without host names, and the environment of worker processes."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "transformers", "timm", "scipy", "numpy", "pillow", "transformers-samdetr")

SCRIPTS = Path(__file__).parents[1]


def worker_environment(**variables: str) -> dict[str, str]:
    """This process's environment variables with `variables`, and with `scripts/` on Python's path."""
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}


def describe_machine() -> dict[str, Any]:
    """CPU, GPU where PyTorch sees one, cores, memory, system, load in the last minute, and versions."""
    return {
        "cpu": _cpu_name(),
        **_gpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # such as ours, run from its folder
        return getattr(sys.modules.get(package.replace("-", "_")), "__version__", "of unknown version")


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        found = []
    memory = torch.cuda.get_device_properties(0).total_memory
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_memory_gib": round(memory / 2**30),
        "driver": found[0] if found else "unknown",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def _cpu_name() -> str:
    """Family and model tell CPUs apart that a virtual machine gives the same name; so do their instructions."""
    entries = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            entries.setdefault(name.strip(), value.strip())
    flags = entries.get("flags", "").split()
    shown = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = entries.get("model name", platform.processor())
    numbers = f"family {entries.get('cpu family', '?')} model {entries.get('model', '?')}"
    return f"{name} ({numbers}; {', '.join(shown)})"
