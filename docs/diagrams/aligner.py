"""The Semantics Aligner on one picture: from a reference box to what each head of cross-attention looks at."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scene import HEIGHT, OFFSETS, WIDTH, Scene, corners, softmax
from style import HEADS, INK, SOFT, arrow, canvas, note, panel

SHOWN = (1, 6)
"""The heads whose attention is shown: on the envelope and on the basket."""


def mark(axes: Axes, points: np.ndarray, size: float = 34, only: int | None = None) -> None:
    """Salient points in the colours of their heads."""
    for head, (x, y) in enumerate(points):
        if only is None or head == only:
            axes.scatter(x, y, s=size, color=HEADS[head], edgecolor="white", linewidth=1.1, zorder=5)


def outline(axes: Axes, width: float, height: float, **options) -> None:
    """The reference box, on something of this size."""
    x, y, w, h = corners()
    style = {"fill": False, "ec": "white", "lw": 2.4} | options
    axes.add_patch(Rectangle((x * width, y * height), w * width, h * height, **style))
    axes.add_patch(Rectangle((x * width, y * height), w * width, h * height, fill=False, ec=INK, lw=1.0))


def show_map(axes: Axes, values: np.ndarray, **options) -> tuple[int, int]:
    """A map with its cells as squares; returns its width and height."""
    height, width = values.shape[:2]
    axes.imshow(values, extent=(0, width, height, 0), interpolation="nearest", **options)
    for x in range(1, width):
        axes.axvline(x, color="white", lw=0.3, alpha=0.6)
    for y in range(1, height):
        axes.axhline(y, color="white", lw=0.3, alpha=0.6)
    return width, height


def draw_picture(axes: Axes, scene: Scene) -> None:
    axes.imshow(scene.picture, extent=(0, WIDTH, HEIGHT, 0))
    outline(axes, WIDTH, HEIGHT)


def draw_features(axes: Axes, scene: Scene) -> None:
    size = show_map(axes, scene.features)
    outline(axes, *size)
    x, y, w, h = corners()
    for step in range(1, 7):
        for low, high in (
            ((x + w * step / 7, y), (x + w * step / 7, y + h)),
            ((x, y + h * step / 7), (x + w, y + h * step / 7)),
        ):
            axes.plot([low[0] * size[0], high[0] * size[0]], [low[1] * size[1], high[1] * size[1]], color=INK, lw=0.7)


def draw_region(axes: Axes, scene: Scene) -> None:
    show_map(axes, scene.regions)
    mark(axes, (np.array(OFFSETS) + 1) * 3.5, size=46)


def draw_queries(figure: Figure, left: float, bottom: float, scene: Scene) -> None:
    """A row for each head: the content in its colours, and the sine embedding."""
    for head in range(len(OFFSETS)):
        y = bottom + (len(OFFSETS) - 1 - head) * 0.232
        content, position = panel(figure, left + 0.25, y, 0.75, 0.17), panel(figure, left + 1.15, y, 1.35, 0.17)
        content.imshow(scene.sampled[head][None, None], aspect="auto")
        position.imshow(scene.positions[head][None], aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
        dot = panel(figure, left, y, 0.17, 0.17)
        dot.axis("off")
        dot.scatter(0, 0, s=40, color=HEADS[head], edgecolor="white", linewidth=1)


def draw_attention(axes: Axes, scene: Scene, head: int) -> None:
    size = show_map(axes, softmax(scene.logits(head)), cmap="magma")
    outline(axes, *size)
    mark(axes, scene.points * size, size=46, only=head)


def aligner_figure(scene: Scene) -> Figure:
    figure, axes = canvas(9.2, 6.3)
    wide, tall, left, step = 2.5, 2.5 * HEIGHT / WIDTH, 0.2, 3.15
    upper, lower = 3.8, 0.85
    columns = [left + step * index for index in range(3)]
    draw_picture(panel(figure, columns[0], upper, wide, tall), scene)
    draw_features(panel(figure, columns[1], upper, wide, tall), scene)
    draw_region(panel(figure, columns[2] + (wide - tall) / 2, upper, tall, tall), scene)
    draw_queries(figure, columns[0], lower + 0.02, scene)
    for column, head in zip(columns[1:], SHOWN, strict=True):
        draw_attention(panel(figure, column, lower, wide, tall), scene, head)

    for row in (upper, lower):
        arrow(axes, (columns[0] + wide + 0.1, row + tall / 2), (columns[1] - 0.1, row + tall / 2))
    arrow(axes, (columns[1] + wide + 0.1, upper + tall / 2), (columns[2] + 0.3 - 0.1, upper + tall / 2))
    turn = lower + tall + 0.58
    axes.plot([columns[2] + wide / 2] * 2, [upper - 0.38, turn], color=SOFT, lw=1.2)
    axes.plot([columns[2] + wide / 2, columns[0] + wide / 2], [turn, turn], color=SOFT, lw=1.2)
    arrow(axes, (columns[0] + wide / 2, turn), (columns[0] + wide / 2, turn - 0.16))
    reweighted = "samples of $R$, sine embeddings of their\nplaces, each times $\\sigma(\\mathrm{Linear}(t))$"
    titles = (
        ("1  Reference box  $r$", "of layer $l$:  $r_l = \\sigma(u_l)$"),
        ("2  Feature map  $F$", "RoIAlign: 7 × 7 bins in the box"),
        ("3  Region features  $R$", "a salient point for each head, in $[-1, 1]^2$"),
        ("4  Aligned queries", reweighted),
        ("5  Attention of this head …", "softmax over $F$ of the match with\nthe head's own query"),
        ("… and of another", "every head looks for what was\nsampled at its own point"),
    )
    for index, (title, words) in enumerate(titles):
        x, y = columns[index % 3] + wide / 2, (upper, lower)[index // 3]
        axes.text(x, y + tall + (0.14 if index != 3 else 0.26), title, ha="center", fontsize=10.5, fontweight="bold")
        note(axes, x, y - 0.1, words, va="top", size=9)
    for x, name in ((0.62, "content"), (1.82, "position")):
        note(axes, columns[0] + x, lower + tall + 0.12, name, size=8)
    return figure
