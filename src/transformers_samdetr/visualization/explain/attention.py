"""The paper's Fig. 5: the salient points of a query in its reference box, and where each head then looks."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import (
    PANEL,
    TITLE,
    draw_box,
    draw_points,
    mark_title,
    panel_shape,
    show_heat,
    show_picture,
    spread,
    window_around,
)
from .observation import Observation

COLUMNS = 5


def attention_figure(
    observations: Sequence[Observation], queries: Sequence[int], titles: Sequence[str], layer: int = -1
) -> Figure:
    """For each model the box and its salient points, the attention of all heads together, and that of each head.

    Give one model, or several on the same picture, such as one with and one without the aligner. Over each head stands
    on how many cells of the feature map its attention lies (see `spread`): the fewer, the more focused.

    Args:
        observations: of the same picture.
        queries: of each model, the one to show, as `Observation.find_query` gives it.
        titles: of each model.
        layer: decoder layer, which each of the models must have.

    Raises:
        ValueError: there is no observation, or not one query and one title for each.
    """
    if not observations or not len(observations) == len(queries) == len(titles):
        raise ValueError(
            f"{len(observations)} observations, {len(queries)} queries and {len(titles)} titles: give at least one "
            "observation, and a query and a title for each."
        )
    image = observations[0].image
    rows = [-(-(2 + one.config.decoder_attention_heads) // COLUMNS) for one in observations]
    heights = [count * (PANEL * panel_shape(*image.size) + TITLE) + 0.35 for count in rows]
    figure = Figure(figsize=(PANEL * COLUMNS, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(observations), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, count, one, query, title in zip(parts, rows, observations, queries, titles, strict=True):
        part.suptitle(title, x=0.006, ha="left", fontsize=11, weight="bold")
        panels = part.subplots(count, COLUMNS, squeeze=False).flatten()
        _draw_model(panels, one, query, layer)
    return figure


def draw_region(axes: Axes, one: Observation, query: int, layer: int, title: str = "") -> None:
    """The part of the picture around the reference box of a query, with the box and its salient points.

    Without an aligner, the box that the query predicts.
    """
    boxes = one.boxes()
    box = boxes[:-1][layer][query] if one.has_reference else boxes[-1][query]
    shown = boxes[[-1]][:, query] if one.has_reference else box[None]
    around = [box[None], shown]
    if one.has_points:
        points = one.points(query, layer)
        around.append(np.concatenate([points, points], axis=1))
    show_picture(axes, one.image, window_around(np.concatenate(around), one.image.size), title)
    draw_box(axes, box)
    if one.has_points:
        draw_points(axes, points)


def draw_attention(axes: Axes, one: Observation, query: int, layer: int, title: str = "") -> None:
    """Where all heads of a query look, as their mean."""
    mean = one.attention(query, layer).mean(0)
    show_heat(axes, one.image, mean, f"{title}all heads: {_cells(mean)}")
    draw_box(axes, one.boxes()[-1][query], width=0.9)


def _draw_model(panels: Sequence[Axes], one: Observation, query: int, layer: int) -> None:
    what = "salient points" if one.has_points else "reference box" if one.has_reference else "predicted box"
    draw_region(panels[0], one, query, layer, what)
    draw_attention(panels[1], one, query, layer)
    weights = one.attention(query, layer)
    for head, (axes, of_head) in enumerate(zip(panels[2:], weights, strict=False)):
        show_heat(axes, one.image, of_head)
        draw_box(axes, one.boxes()[-1][query], width=0.9)
        title = f"head {head + 1}: {_cells(of_head)}"
        if one.has_points:
            point = one.point_of_head(head)
            mark_title(axes, point, title)
            draw_points(axes, one.points(query, layer), [point], size=22)
        else:
            axes.set_title(title, loc="left", fontsize=8.5, pad=3)
    for axes in panels[2 + len(weights) :]:
        axes.set_axis_off()


def _cells(weights: np.ndarray) -> str:
    return f"over {spread(weights):.0f} of {weights.size} cells"
