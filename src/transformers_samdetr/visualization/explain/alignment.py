"""What the aligner does: how alike a query and the features of each place are, before and after it."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .attention import draw_region
from .drawing import BOX_COLOR, draw_box, draw_points, mark_legend, picture_grid, show_picture
from .found import Found
from .observation import Observation

SIMILARITY = "cividis"


def alignment_figure(observation: Observation, found: Sequence[Found], layer: int = -1) -> Figure:
    """For each detection its region, and the similarity of its query with the features before and after aligning.

    The similarity is the cosine of the query's content with the encoded features of each place; after the aligner,
    which makes a query for every head, the mean of the heads. Both maps of a query share their scale. Semantic
    alignment (paper section 4.2) means that on the right the object stands out, and on the left it need not.

    Args:
        observation: of a model with aligner on a picture.
        found: detections of it, a row each.
        layer: decoder layer.

    Raises:
        ValueError: the model has no aligner, or there is no detection.
    """
    if not found:
        raise ValueError("There is no detection whose query could be shown: lower the threshold.")
    figure = picture_grid(observation.image, len(found), 3, foot=0.35, side=0.7)
    for row, one in zip(figure.subplots(len(found), 3, squeeze=False), found, strict=True):
        draw_region(row[0], observation, one.query, layer, one.title)
        draw_similarities(row[1:], observation, one.query, layer)
    mark_legend(figure, observation)
    return figure


def draw_similarities(panels: Sequence[Axes], observation: Observation, query: int, layer: int) -> None:
    """Similarity before and after, on one scale, in two panels, with a bar beside the second."""
    before, after = observation.similarity(query, layer)
    after = after.mean(0)
    low, high = min(before.min(), after.min()), max(before.max(), after.max())
    box = observation.boxes()[-1][query]
    for axes, values, title in zip(
        panels, (before, after), ("similar to the query before aligning", "and after"), strict=True
    ):
        show_picture(axes, observation.image, title=title)
        axes.images[-1].remove()
        width, height = observation.image.size
        drawn = axes.imshow(
            values, SIMILARITY, vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="nearest"
        )
        draw_box(axes, box, BOX_COLOR, width=1.1)
    if observation.has_points:
        draw_points(panels[1], observation.points(query, layer), size=18)
    bar = panels[1].figure.colorbar(drawn, ax=list(panels), shrink=0.85, aspect=18, pad=0.02)
    bar.set_label("cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
