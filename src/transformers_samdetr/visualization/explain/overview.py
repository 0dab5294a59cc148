"""A picture's best detections explained on one page, a row each."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from .alignment import draw_similarities
from .attention import draw_attention, draw_region
from .box_path import draw_box_path, draw_layer_legend
from .drawing import mark_legend, picture_grid
from .found import Found
from .observation import Observation


def explanation_figure(observation: Observation, found: Sequence[Found]) -> Figure:
    """From left to right: the salient points of a detection's query in its reference box, where all heads look, how
    the box moved, and how alike query and features are before and after aligning; all but the boxes in the last layer.

    Without an aligner, only attention and boxes.

    Args:
        observation: of a model on a picture.
        found: detections of it, a row each.

    Raises:
        ValueError: there is no detection.
    """
    if not found:
        raise ValueError("There is no detection to explain: lower the threshold.")
    columns = 5 if observation.has_reference else 2
    figure = picture_grid(
        observation.image, len(found), columns, foot=0.35, side=0.7 if observation.has_reference else 0.1
    )
    for row, one in zip(figure.subplots(len(found), columns, squeeze=False), found, strict=True):
        attention, path = row[1:3] if observation.has_reference else row
        if observation.has_reference:
            draw_region(row[0], observation, one.query, -1, one.title)
            draw_similarities(row[3:], observation, one.query, -1)
        draw_attention(attention, observation, one.query, -1, "" if observation.has_reference else f"{one.title}, ")
        draw_box_path(path, observation, one.query)
    draw_layer_legend(figure, observation)
    mark_legend(figure, observation)
    return figure
