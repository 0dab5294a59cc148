"""What figures share: panels with a picture, windows on it, boxes, salient points, heat."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from .observation import Observation

MARKS = tuple(zip("os^vDPX*", "#56B4E9 #E69F00 #009E73 #F0E442 #D55E00 #CC79A7 #0072B2 #FFFFFF".split(), strict=True))
"""Shape and colour of each salient point: told apart by either, with every kind of colour vision."""
BOX_COLOR = "#FFFFFF"
HEAT = "inferno"
INK = "#222222"
LEGEND = {"frameon": False, "fontsize": 8.5, "handlelength": 1.0, "handletextpad": 0.4, "columnspacing": 1.2}
PANEL = 2.3
"""Width of a picture's panel, in inches."""
SHAPES = 0.5, 1.3
"""Least and largest height of a panel, of its width; longer pictures have space beside them, so that titles fit."""
TITLE = 0.3
"""Height of a panel's title, in inches."""
LARGEST = 900
"""Pixels of a picture's longer side in a panel; more would not be seen."""


def picture_grid(image: Image.Image, rows: int, columns: int, foot: float = 0.1, side: float = 0.1) -> Figure:
    """A figure whose panels, `figure.subplots(rows, columns)`, have the picture's shape.

    Args:
        image: whose shape counts, within `SHAPES`.
        rows, columns: of panels.
        foot, side: inches in all for what stands below and beside the panels.
    """
    height = PANEL * panel_shape(*image.size) + TITLE
    return Figure(figsize=(PANEL * columns + side, height * rows + foot), layout="compressed")


def panel_shape(width: float, height: float) -> float:
    """Height of the panel of a picture or a part of one, of the panel's width."""
    return min(SHAPES[1], max(SHAPES[0], height / width))


def show_picture(axes: Axes, image: Image.Image, window: Sequence[float] | None = None, title: str = "") -> None:
    """Puts a picture in a panel, whose coordinates are its pixels from the outer edge on.

    Args:
        window: x1, y1, x2, y2 of the part to show, or None for all of it.
    """
    _show(axes, np.asarray(image.convert("RGB") if max(image.size) <= LARGEST else _smaller(image)), image.size)
    x1, y1, x2, y2 = (0, 0, *image.size) if window is None else window
    shape = panel_shape(x2 - x1, y2 - y1)
    beside, above = max(0.0, (y2 - y1) / shape - (x2 - x1)) / 2, max(0.0, (x2 - x1) * shape - (y2 - y1)) / 2
    axes.set(xlim=(x1 - beside, x2 + beside), ylim=(y2 + above, y1 - above), xticks=[], yticks=[], facecolor="#EEEEEE")
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=8.5, color=INK, pad=3)


def show_heat(
    axes: Axes, image: Image.Image, values: np.ndarray, title: str = "", highest: float | None = None
) -> None:
    """A picture in dark grey, and on it, glowing, the values of a map that covers it.

    Args:
        values: `(H, W)`, at least 0.
        highest: what glows brightest; by default the largest value.
    """
    highest = float(values.max()) if highest is None else highest
    small = _smaller(image)
    share = Image.fromarray((values / max(highest, 1e-12)).clip(0, 1).astype(np.float32), mode="F")
    share = np.asarray(share.resize(small.size, Image.Resampling.BICUBIC)).clip(0, 1)
    grey = np.asarray(small.convert("L"), dtype=np.float32)[..., None] / 255 * 0.55
    opacity = share[..., None] ** 0.6
    glow = colormaps[HEAT](0.25 + 0.75 * share)[..., :3]
    show_picture(axes, image, title=title)
    axes.images[-1].remove()
    _show(axes, grey * (1 - opacity) + glow * opacity, image.size)


def draw_box(axes: Axes, box: Sequence[float], color=BOX_COLOR, width: float = 1.4, style="-") -> None:
    """A box of x1, y1, x2, y2 in pixels, with an edge on both sides, light for dark colours and dark for light ones."""
    x1, y1, x2, y2 = box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=style)
    edge = "white" if np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) < 0.35 else "black"
    patch.set_path_effects([Stroke(linewidth=width + 1.6, foreground=edge, alpha=0.8), Normal()])
    axes.add_patch(patch)


def draw_points(axes: Axes, points: np.ndarray, chosen: Sequence[int] | None = None, size: float = 46) -> None:
    """Salient points `(P, 2)` in pixels, each with its mark; of `chosen` alone, if given."""
    for index in range(len(points)) if chosen is None else chosen:
        shape, color = MARKS[index % len(MARKS)]
        style = {"marker": shape, "zorder": 5, "clip_on": True}
        axes.scatter(*points[index], s=size * 1.9, color="white", linewidths=0, alpha=0.85, **style)
        axes.scatter(*points[index], s=size, color=color, edgecolors="black", linewidths=0.9, **style)


def mark_title(axes: Axes, index: int, title: str) -> None:
    """A title with the mark of a salient point in front."""
    shape, color = MARKS[index % len(MARKS)]
    axes.set_title(f"     {title}", loc="left", fontsize=8.5, color=INK, pad=3)
    beside = ScaledTranslation(5 / 72, 7 / 72, axes.figure.dpi_scale_trans)
    style = {"marker": shape, "color": color, "markeredgecolor": "black", "markersize": 6.5, "clip_on": False}
    axes.plot([0], [1], transform=axes.transAxes + beside, **style)


def mark_legend(figure: Figure, observation: Observation) -> None:
    """Which head has which mark, below all panels at the right; nothing without salient points."""
    if not observation.has_points:
        return
    heads = range(observation.config.decoder_attention_heads)
    of_point: dict[int, list[str]] = {}
    for head in heads:
        of_point.setdefault(observation.point_of_head(head), []).append(str(head + 1))
    style = {"markeredgecolor": "black", "markersize": 6.5, "linestyle": "none"}
    marks = [MARKS[point % len(MARKS)] for point in of_point]
    lines = [Line2D([], [], marker=shape, color=color, **style) for shape, color in marks]
    names = [", ".join(heads) for heads in of_point.values()]
    names[0] = f"salient point of head {names[0]}"
    figure.legend(lines, names, loc="outside lower right", ncols=len(lines), **LEGEND)


def window_around(boxes: np.ndarray, size: tuple[int, int], margin: float = 0.35, least: float = 0.3) -> np.ndarray:
    """x1, y1, x2, y2 of a part of the picture, in its own shape, that shows all the boxes with a margin.

    Args:
        boxes: `(N, 4)`, x1, y1, x2, y2 in pixels.
        size: width and height of the picture.
        margin: on each side, of the boxes' own extent.
        least: the part's width and height at least, of the picture's.

    >>> window_around(np.array([[0.0, 0, 10, 10]]), (100, 50), margin=0.5).round().tolist()
    [0.0, 0.0, 40.0, 20.0]
    """
    whole = np.array(size, dtype=float)
    low, high = boxes[:, :2].min(0).clip(0, whole), boxes[:, 2:].max(0).clip(0, whole)
    share = min(1.0, max(least, *((1 + 2 * margin) * (high - low) / whole)))
    start = ((low + high) / 2 - share * whole / 2).clip(0, whole * (1 - share))
    return np.concatenate([start, start + share * whole])


def spread(weights: np.ndarray) -> float:
    """On how many places weights lie, as many as an even spread over so many would: the exponential of their entropy.

    >>> spread(np.array([[0.25, 0.25], [0.25, 0.25]])), spread(np.array([0.0, 1.0]))
    (4.0, 1.0)
    """
    shares = weights[weights > 0] / weights.sum()
    return round(math.exp(-(shares * np.log(shares)).sum()), 6)


def figure_to_picture(figure: Figure, dots_per_inch: int = 130) -> Image.Image:
    """The figure as an RGB picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, bbox_inches="tight", pad_inches=0.08)
    return Image.open(buffer).convert("RGB")


def _smaller(image: Image.Image) -> Image.Image:
    scale = min(1.0, LARGEST / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _show(axes: Axes, pixels: np.ndarray, size: tuple[int, int]) -> None:
    axes.imshow(pixels, extent=(0, size[0], size[1], 0), interpolation="antialiased", aspect="equal")
