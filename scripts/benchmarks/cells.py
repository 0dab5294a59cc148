"""What the pages of figures are made of: tables, and numbers in them."""

from typing import Any

MEBIBYTE = 2**20


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first aligned right."""
    line = "|" + "|".join([" --- "] + [" ---: "] * (len(header) - 1)) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)])


def seconds(value: float | None) -> str:
    """Three digits, in s or ms."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def mebibytes(value: float | None) -> str:
    return "–" if value is None else f"{value / MEBIBYTE:,.0f} MiB"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def machine_text(machine: dict[str, Any], gap: str = "\n\n") -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = "{gpu}, {gpu_memory_gib} GiB, driver {driver}, CUDA {cuda}, cuDNN {cudnn}; " if "gpu" in machine else ""
    return (
        f"{gpu.format(**machine)}{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}; load average before the run {machine['load']}.{gap}{versions}."
    )
