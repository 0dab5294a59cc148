"""The machine that figures are measured on, without host names, and the environment of worker processes."""

import importlib.metadata
import os
import platform
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
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": _cpu_name(),
        **gpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
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
