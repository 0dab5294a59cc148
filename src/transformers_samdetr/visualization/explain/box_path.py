"""How a query's box moves, decoder layer by decoder layer."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torchvision.ops import box_iou

from .drawing import INK, LEGEND, draw_box, picture_grid, show_picture, window_around
from .found import Found
from .observation import Observation

ORDER = "viridis"
"""From dark to light in the order of the layers, for every kind of colour vision and in grey."""


def box_path_figure(observation: Observation, found: Sequence[Found]) -> Figure:
    """For each detection the boxes of its query, and how far they and the score have come after each layer.

    Left the boxes on the picture, from the reference box that the query starts from, dark, to the last layer's, light.
    Right, by layer, the IoU with the last layer's box, and the score of the detection's class.

    Args:
        observation: of a model on a picture.
        found: detections of it, a row each.

    Raises:
        ValueError: there is no detection.
    """
    if not found:
        raise ValueError("There is no detection whose boxes could be shown: lower the threshold.")
    figure = picture_grid(observation.image, len(found), 2, foot=0.6, side=0.5)
    panels = figure.subplots(len(found), 2, squeeze=False)
    for (left, right), one in zip(panels, found, strict=True):
        draw_box_path(left, observation, one.query, one.title)
        _draw_progress(right, observation, one.query, one.label)
    panels[-1, 1].set_xlabel("decoder layer (0: the start)", fontsize=8.5)
    draw_layer_legend(figure, observation)
    return figure


def draw_box_path(axes: Axes, observation: Observation, query: int, title: str = "boxes, layer by layer") -> None:
    """The boxes of a query on the picture, the later the lighter and wider."""
    boxes = observation.boxes()[:, query]  # (layers + 1, 4)
    show_picture(axes, observation.image, window_around(boxes, observation.image.size), title)
    for index, (box, color) in enumerate(zip(boxes, layer_colors(len(boxes)), strict=True)):
        draw_box(axes, box, color, width=1.0 + 1.2 * index / max(len(boxes) - 1, 1))


def layer_colors(count: int) -> list[tuple[float, ...]]:
    """Colours of so many boxes, from dark to light."""
    return [colormaps[ORDER](value)[:3] for value in np.linspace(0.05, 1, count)]


def draw_layer_legend(figure: Figure, observation: Observation) -> None:
    """What the colours of the boxes mean, below all panels."""
    colors = layer_colors(len(observation.boxes()))
    first = 0 if observation.has_reference else len(observation.scores(0)) - len(colors) + 1
    names = ["start" if first + index == 0 else f"layer {first + index}" for index in range(len(colors))]
    lines = [Line2D([], [], color=color, linewidth=4) for color in colors]
    figure.legend(lines, names, loc="outside lower left", ncols=len(lines), **LEGEND)


def _draw_progress(axes: Axes, observation: Observation, query: int, label: int) -> None:
    boxes = torch.from_numpy(observation.boxes()[:, query])
    overlaps = box_iou(boxes, boxes[-1:])[:, 0].numpy()
    scores = observation.scores(label)[:, query]
    layers = observation.config.decoder_layers
    for values, style in (
        (overlaps, ("o-", "#0072B2", "IoU with the last box")),
        (scores, ("s--", "#D55E00", "score")),
    ):
        steps = range(layers - len(values) + 1, layers + 1)
        axes.plot(steps, values, style[0], color=style[1], label=style[2], markersize=4, linewidth=1.6)
    axes.set(ylim=(0, 1.05), xlim=(-0.3, layers + 0.3), xticks=range(layers + 1))
    axes.tick_params(labelsize=8, color="#999999")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # above, where a title would be: inside it would cover a line
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        ncols=2,
        borderaxespad=0,
        labelcolor=INK,
        **LEGEND | {"handlelength": 2},
    )
