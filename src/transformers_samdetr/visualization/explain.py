"""What a model looked at, as figures (the paper's Fig. 5 and more). Needs the extra `explain`.

found = find_best(observation := observe(model, processor, image), detections, count=3)
explanation_figure(observation, found).savefig("why.png", dpi=150)
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFont
from torchvision.ops import box_iou

try:
    from matplotlib import colormaps, font_manager, rcParams
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.transforms import ScaledTranslation
except ImportError as error:
    raise ImportError("Figures are drawn by matplotlib: pip install 'transformers-samdetr[explain]'") from error

from .fonts import font_path
from .observation import ExplainedDetection, Observation, find_best, observe, same_object

MARKS = tuple(zip("os^vDPX*", "#56B4E9 #E69F00 #009E73 #F0E442 #D55E00 #CC79A7 #0072B2 #FFFFFF".split(), strict=True))
"""Shape and colour of each salient point: told apart by either, with every kind of colour vision."""
BOX_COLOR, INK = "#FFFFFF", "#222222"
ATTENTION_COLORS, SIMILARITY_COLORS, LAYER_COLORS = "inferno", "cividis", "viridis"
LEGEND = {"frameon": False, "fontsize": 8.5, "handlelength": 1.0, "handletextpad": 0.4, "columnspacing": 1.2}
TITLE_STYLE = {"loc": "left", "fontsize": 8.5, "color": INK, "pad": 3}
MARK_STYLE = {"markeredgecolor": "black", "markersize": 6.5}
PANEL, TITLE = 2.3, 0.3
"""Width of a picture's panel, and height of its title, in inches."""
PANEL_SHAPES = 0.5, 1.3
"""Least and largest ratio of a panel's height and width; longer pictures have space beside them, so that titles fit."""
HEADS_COLUMNS = 5
LONGEST_SIDE = 900
"""Pixels of a picture's longer side in a panel; more would not be seen."""


def explanation_figure(observation: Observation, found: Sequence[ExplainedDetection]) -> Figure:
    """A row for each detection: salient points, attention of all heads, boxes by layer, similarity before and after.

    Points, attention and similarity are those of the last decoder layer. Without an aligner, only attention and boxes.
    Without a detection there is a ValueError, here and in the other figures.
    """
    aligned = observation.has_reference
    columns = 5 if aligned else 2
    figure = picture_grid(observation.image, len(found), columns, foot=0.35, side=0.7 if aligned else 0.1)
    for row, one in zip(figure.subplots(len(found), columns, squeeze=False), found, strict=True):
        attention, path = row[1:3] if aligned else row
        if aligned:
            draw_region(row[0], observation, one.query, -1, one.title)
            draw_similarities(row[3:], observation, one.query, -1)
        show_heat(attention, observation, one.query, -1, title=("" if aligned else f"{one.title}, ") + "all heads")
        draw_box_path(path, observation, one.query)
    draw_legends(figure, observation, layers=True, points=True)
    return figure


def attention_figure(
    observations: Sequence[Observation], queries: Sequence[int], titles: Sequence[str], layer: int = -1
) -> Figure:
    """The paper's Fig. 5 for each model: the box and its salient points, then the attention of all and of each head.

    The title of each head says over how many cells of the feature map its attention spreads (see `spread`).

    Args:
        observations: of the same picture, such as by a model with and by one without the aligner.
        queries, titles: one for each observation, as `same_object` gives them, else there is a ValueError.
        layer: decoder layer, which each of the models must have.
    """
    if not observations or not len(observations) == len(queries) == len(titles):
        given = f"{len(observations)} observations, {len(queries)} queries and {len(titles)} titles"
        raise ValueError(f"{given}: give at least one observation, and a query and a title for each.")
    rows = [-(-(2 + one.config.decoder_attention_heads) // HEADS_COLUMNS) for one in observations]
    heights = [count * (PANEL * panel_shape(*observations[0].image.size) + TITLE) + 0.35 for count in rows]
    figure = Figure(figsize=(PANEL * HEADS_COLUMNS, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(observations), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, count, one, query, title in zip(parts, rows, observations, queries, titles, strict=True):
        part.suptitle(title, x=0.006, ha="left", fontsize=11, weight="bold", family=font_families(title))
        panels = part.subplots(count, HEADS_COLUMNS, squeeze=False).flatten()
        what = "salient points" if one.has_points else "reference box" if one.has_reference else "predicted box"
        draw_region(panels[0], one, query, layer, what)
        show_heat(panels[1], one, query, layer, title="all heads")
        heads = one.config.decoder_attention_heads
        for head, axes in enumerate(panels[2 : 2 + heads]):
            show_heat(axes, one, query, layer, head, f"head {head + 1}")
            if one.has_points:
                point = one.point_of_head(head)
                axes.set_title("     " + axes.get_title(loc="left"), **TITLE_STYLE)  # beside the mark
                shape, color = MARKS[point % len(MARKS)]
                place = axes.transAxes + ScaledTranslation(5 / 72, 7 / 72, axes.figure.dpi_scale_trans)
                axes.plot([0], [1], transform=place, marker=shape, color=color, clip_on=False, **MARK_STYLE)
                draw_points(axes, one.points(query, layer), [point], size=22)
        for axes in panels[2 + heads :]:
            axes.set_axis_off()
    return figure


def box_path_figure(observation: Observation, found: Sequence[ExplainedDetection]) -> Figure:
    """A row for each detection: the boxes of its query by layer, and how box and score develop.

    Left the boxes on the picture, from the initial reference box, dark, to the last layer's, light. Right, by layer,
    the IoU with the last layer's box, and the score of the detection's class.
    """
    figure = picture_grid(observation.image, len(found), 2, foot=0.6, side=0.5)
    panels, layers = figure.subplots(len(found), 2, squeeze=False), observation.config.decoder_layers
    for (left, right), one in zip(panels, found, strict=True):
        draw_box_path(left, observation, one.query, one.title)
        boxes = torch.from_numpy(observation.boxes()[:, one.query])
        overlaps, scores = box_iou(boxes, boxes[-1:])[:, 0].numpy(), observation.scores(one.label)[:, one.query]
        for values, line, color, name in (
            (overlaps, "o-", "#0072B2", "IoU with the last box"),
            (scores, "s--", "#D55E00", "score"),
        ):
            steps = range(layers - len(values) + 1, layers + 1)
            right.plot(steps, values, line, color=color, label=name, markersize=4, linewidth=1.6)
        right.set(ylim=(0, 1.05), xlim=(-0.3, layers + 0.3), xticks=range(layers + 1))
        right.tick_params(labelsize=8, color="#999999")
        right.grid(color="#E6E6E6", linewidth=0.8)
        right.spines[["top", "right"]].set_visible(False)
        # above, where a title would be: inside it would cover a line
        place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.98), "borderaxespad": 0}
        right.legend(ncols=2, labelcolor=INK, **place, **LEGEND | {"handlelength": 2})
    panels[-1, 1].set_xlabel("decoder layer (0: the start)", fontsize=8.5)
    draw_legends(figure, observation, layers=True, points=False)
    return figure


def alignment_figure(observation: Observation, found: Sequence[ExplainedDetection], layer: int = -1) -> Figure:
    """A row for each detection: its region, and how alike query and features are before and after aligning.

    The similarity is the cosine of the query's content with the encoded features of each place; after the aligner,
    which makes a query for every head, the mean of the heads. Both maps of a query share their scale. Semantic
    alignment (paper section 4.2) means that on the right the object stands out, and on the left it need not. A model
    without aligner is a ValueError.
    """
    figure = picture_grid(observation.image, len(found), 3, foot=0.35, side=0.7)
    for row, one in zip(figure.subplots(len(found), 3, squeeze=False), found, strict=True):
        draw_region(row[0], observation, one.query, layer, one.title)
        draw_similarities(row[1:], observation, one.query, layer)
    draw_legends(figure, observation, layers=False, points=True)
    return figure


def figure_to_picture(figure: Figure, dots_per_inch: int = 130) -> Image.Image:
    """The figure as an RGB picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, bbox_inches="tight", pad_inches=0.08)
    return Image.open(buffer).convert("RGB")


def draw_region(axes: Axes, one: Observation, query: int, layer: int, title: str = "") -> None:
    """The part of the picture around the reference box of a query, with the box and its salient points.

    Without an aligner, around the box that the query predicts.
    """
    boxes = one.boxes()
    box = boxes[:-1][layer][query] if one.has_reference else boxes[-1][query]
    points = one.points(query, layer) if one.has_points else np.zeros((0, 2))
    around = np.concatenate([box[None], boxes[-1:, query], np.concatenate([points, points], axis=1)])
    show_picture(axes, one.image, window_around(around, one.image.size), title)
    draw_box(axes, box)
    draw_points(axes, points)


def draw_box_path(axes: Axes, observation: Observation, query: int, title: str = "boxes, layer by layer") -> None:
    """The boxes of a query on the picture: later layers are lighter and wider."""
    boxes = observation.boxes()[:, query]  # (layers + 1, 4)
    show_picture(axes, observation.image, window_around(boxes, observation.image.size), title)
    for index, (box, color) in enumerate(zip(boxes, layer_colors(len(boxes)), strict=True)):
        draw_box(axes, box, color, width=1.0 + 1.2 * index / max(len(boxes) - 1, 1))


def draw_similarities(panels: Sequence[Axes], observation: Observation, query: int, layer: int) -> None:
    """Similarity before and after aligning, on one scale, in two panels, with a colour bar beside the second."""
    before, after = observation.similarity(query, layer)
    maps, (width, height) = np.stack([before, after.mean(0)]), observation.image.size
    style = {"cmap": SIMILARITY_COLORS, "vmin": maps.min(), "vmax": maps.max(), "interpolation": "nearest"}
    for axes, values, title in zip(panels, maps, ("similar to the query before aligning", "and after"), strict=True):
        show_picture(axes, observation.image, title=title)
        drawn = axes.imshow(values, extent=(0, width, height, 0), **style)
        draw_box(axes, observation.boxes()[-1][query], width=1.1)
    if observation.has_points:
        draw_points(panels[1], observation.points(query, layer), size=18)
    bar = panels[1].figure.colorbar(drawn, ax=list(panels), shrink=0.85, aspect=18, pad=0.02)
    bar.set_label("cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)


def layer_colors(count: int) -> list[tuple[float, ...]]:
    """Colours of so many boxes, from dark to light."""
    return [colormaps[LAYER_COLORS](value)[:3] for value in np.linspace(0.05, 1, count)]


def draw_legends(figure: Figure, one: Observation, layers: bool, points: bool) -> None:
    """Below all panels, which layer has which colour, at the left, and which head has which mark, at the right."""
    if layers:
        colors = layer_colors(len(one.boxes()))
        first = 0 if one.has_reference else len(one.scores(0)) - len(colors) + 1
        names = ["start" if first + index == 0 else f"layer {first + index}" for index in range(len(colors))]
        lines = [Line2D([], [], color=color, linewidth=4) for color in colors]
        figure.legend(lines, names, loc="outside lower left", ncols=len(lines), **LEGEND)
    if points and one.has_points:
        heads_of: dict[int, list[str]] = {}
        for head in range(one.config.decoder_attention_heads):
            heads_of.setdefault(one.point_of_head(head), []).append(str(head + 1))
        marks = [MARKS[point % len(MARKS)] for point in heads_of]
        lines = [Line2D([], [], marker=shape, color=color, linestyle="none", **MARK_STYLE) for shape, color in marks]
        names = [", ".join(heads) for heads in heads_of.values()]
        names[0] = f"salient point of head {names[0]}"
        figure.legend(lines, names, loc="outside lower right", ncols=len(lines), **LEGEND)


def picture_grid(image: Image.Image, rows: int, columns: int, foot: float = 0.1, side: float = 0.1) -> Figure:
    """A figure whose panels, `figure.subplots(rows, columns)`, have the picture's shape, within `PANEL_SHAPES`.

    `foot` and `side` are inches for what is below and beside the panels. Without a row it raises a ValueError.
    """
    if not rows:
        raise ValueError("There is no detection to explain: lower the threshold.")
    height = PANEL * panel_shape(*image.size) + TITLE
    return Figure(figsize=(PANEL * columns + side, height * rows + foot), layout="compressed")


def panel_shape(width: float, height: float) -> float:
    """Ratio of height and width of the panel for a picture of this size."""
    return min(PANEL_SHAPES[1], max(PANEL_SHAPES[0], height / width))


def show_picture(
    axes: Axes, image: Image.Image, window=None, title: str = "", pixels: np.ndarray | None = None
) -> None:
    """Shows a picture, or pixels in its place, in a panel whose coordinates become the picture's pixels.

    `window` is x1, y1, x2, y2 of the part to show, or None for all of it.
    """
    pixels = np.asarray(shrunk(image)) if pixels is None else pixels
    axes.imshow(pixels, extent=(0, image.width, image.height, 0), interpolation="antialiased", aspect="equal")
    x1, y1, x2, y2 = (0, 0, *image.size) if window is None else window
    shape = panel_shape(x2 - x1, y2 - y1)
    beside, above = max(0.0, (y2 - y1) / shape - (x2 - x1)) / 2, max(0.0, (x2 - x1) * shape - (y2 - y1)) / 2
    axes.set(xlim=(x1 - beside, x2 + beside), ylim=(y2 + above, y1 - above), xticks=[], yticks=[], facecolor="#EEEEEE")
    axes.spines[:].set(color="#999999", linewidth=0.6)
    axes.set_title(title, family=font_families(title), **TITLE_STYLE)


def shrunk(image: Image.Image) -> Image.Image:
    """A copy with at most the pixels that are seen."""
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return image


def show_heat(axes: Axes, one: Observation, query: int, layer: int, head: int | None = None, title: str = "") -> None:
    """The picture in dark grey, on it, glowing, the attention of a query's head or all, and its last box."""
    weights = one.attention(query, layer)
    weights = weights.mean(0) if head is None else weights[head]
    small = shrunk(one.image)
    share = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32), mode="F")
    share = np.asarray(share.resize(small.size, Image.Resampling.BICUBIC)).clip(0, 1)
    grey = np.asarray(small.convert("L"), dtype=np.float32)[..., None] / 255 * 0.55
    opacity = share[..., None] ** 0.6
    glow = colormaps[ATTENTION_COLORS](0.25 + 0.75 * share)[..., :3]
    title = f"{title}: over {spread(weights):.0f} of {weights.size} cells"
    show_picture(axes, one.image, title=title, pixels=grey * (1 - opacity) + glow * opacity)
    draw_box(axes, one.boxes()[-1][query], width=0.9)


def draw_box(axes: Axes, box: Sequence[float], color=BOX_COLOR, width: float = 1.4, style="-") -> None:
    """A box of x1, y1, x2, y2 in pixels, with an edge on both sides, light for dark colours and dark for light ones."""
    x1, y1, x2, y2 = box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, linestyle=style)
    edge = "white" if np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) < 0.35 else "black"
    patch.set_path_effects([Stroke(linewidth=width + 1.6, foreground=edge, alpha=0.8), Normal()])
    axes.add_patch(patch)


def draw_points(axes: Axes, points: np.ndarray, chosen: Sequence[int] | None = None, size: float = 46) -> None:
    """Salient points `(P, 2)` in pixels, each with its mark; only those of `chosen`, if given."""
    for index in range(len(points)) if chosen is None else chosen:
        shape, color = MARKS[index % len(MARKS)]
        style = {"marker": shape, "zorder": 5, "clip_on": True}
        axes.scatter(*points[index], s=size * 1.9, color="white", linewidths=0, alpha=0.85, **style)
        axes.scatter(*points[index], s=size, color=color, edgecolors="black", linewidths=0.9, **style)


def window_around(boxes: np.ndarray, size: tuple[int, int], margin: float = 0.35, least: float = 0.3) -> np.ndarray:
    """x1, y1, x2, y2 of a part of a picture, in its shape, that shows all boxes `(N, 4)`, x1, y1, x2, y2 in pixels.

    On each side there is a margin, a share of the boxes' extent; `least` is the part's smallest share of the picture.

    >>> window_around(np.array([[0.0, 0, 10, 10]]), (100, 50), margin=0.5).round().tolist()
    [0.0, 0.0, 40.0, 20.0]
    """
    whole = np.array(size, dtype=float)
    low, high = boxes[:, :2].min(0).clip(0, whole), boxes[:, 2:].max(0).clip(0, whole)
    share = min(1.0, max(least, *((1 + 2 * margin) * (high - low) / whole)))
    start = ((low + high) / 2 - share * whole / 2).clip(0, whole * (1 - share))
    return np.concatenate([start, start + share * whole])


def spread(weights: np.ndarray) -> float:
    """The exponential of the weights' entropy: the number of cells that an even attention of the same entropy covers.

    >>> spread(np.array([[0.25, 0.25], [0.25, 0.25]])), spread(np.array([0.0, 1.0]))
    (4.0, 1.0)
    """
    shares = weights[weights > 0] / weights.sum()
    return round(math.exp(-(shares * np.log(shares)).sum()), 6)


def font_families(text: str) -> list[str]:
    """Families for matplotlib in which every character of the text can be drawn, if a font on this system has them."""
    path = font_path(text)
    if not path or text.isascii():
        return rcParams["font.family"]
    family = ImageFont.truetype(path, 20).getname()[0]
    if family not in font_manager.get_font_names():
        font_manager.fontManager.addfont(path)
    return [*rcParams["font.family"], family]


__all__ = ["ExplainedDetection", "Observation", "alignment_figure", "attention_figure", "box_path_figure"]
__all__ += ["explanation_figure", "figure_to_picture", "find_best", "observe", "same_object"]
