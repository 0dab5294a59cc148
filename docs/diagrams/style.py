"""What all diagrams share: colours, type, boxes with text, arrows, and files that are the same at every run."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

INK, SOFT, LINE = "#1f2933", "#5b6770", "#9aa5ae"
BLUE, ORANGE, GREEN, GREY = "#e3ebfa", "#fdebd8", "#e2f2e6", "#eef1f4"
BLUE_EDGE, ORANGE_EDGE, GREEN_EDGE = "#4063b5", "#c46a12", "#2f8a4a"
HEADS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
"""Okabe and Ito's colours, which colour-blind readers tell apart."""

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "mathtext.fontset": "dejavusans",
        "svg.fonttype": "path",
        "svg.hashsalt": "transformers_samdetr",
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.linewidth": 0.8,
    }
)


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one axes in which a unit is an inch, x to the right and y upwards."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes for a picture, at a place in inches."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h))
    axes.set(xticks=[], yticks=[])
    return axes


def block(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str, edge: str, size: float = 9
) -> None:
    """A rounded box around (x, y) with a text in it."""
    box = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        fc=fill,
        ec=edge,
        lw=1,
    )
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", fontsize=size, linespacing=1.35)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = SOFT, bend: float = 0.0
) -> None:
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=10,
            lw=1.2,
            color=color,
            connectionstyle=style,
            shrinkA=0,
            shrinkB=0,
        )
    )


def note(axes: Axes, x: float, y: float, text: str, size: float = 8, **options) -> None:
    axes.text(
        x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "color": SOFT, "linespacing": 1.35, **options}
    )


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)
