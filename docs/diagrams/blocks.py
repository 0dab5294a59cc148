"""Block diagrams: the whole model, and one layer of the decoder."""

from matplotlib.figure import Figure
from scene import HEIGHT, WIDTH, Scene
from style import (
    BLUE,
    BLUE_EDGE,
    GREEN,
    GREEN_EDGE,
    GREY,
    INK,
    LINE,
    ORANGE,
    ORANGE_EDGE,
    SOFT,
    arrow,
    block,
    canvas,
    note,
    panel,
)

LEVELS = ("32", "32", "16", "16", "8", "8")
"""Stride that each decoder layer of SAM-DETR++ reads."""


def model_figure(scene: Scene) -> Figure:
    figure, axes = canvas(10.6, 3.75)
    y, left, step = 2.15, 5.75, 0.85
    picture = panel(figure, 0.12, y - 0.4, 1.1, 1.1 * HEIGHT / WIDTH)
    picture.imshow(scene.picture, extent=(0, 1, 1, 0), aspect="auto")
    block(axes, 1.95, y, 1.0, 1.1, "Backbone\n\nResNet-50", GREY, LINE)
    block(axes, 3.2, y, 1.05, 1.1, "1×1\nprojection,\nsine\npositions", GREY, LINE)
    block(axes, 4.45, y, 1.0, 1.1, "Encoder\n\n6 layers", BLUE, BLUE_EDGE)
    for start, end in ((1.25, 1.43), (2.47, 2.65), (3.75, 3.93), (4.97, left - 0.37)):
        arrow(axes, (start, y), (end, y))
    block(axes, left - step, 0.85, 0.72, 0.55, "learned\n$u_1$", GREEN, GREEN_EDGE, size=8.5)
    for layer, stride in enumerate(LEVELS):
        x = left + layer * step
        block(axes, x, y, 0.68, 1.1, f"Layer\n{layer + 1}", ORANGE, ORANGE_EDGE)
        block(axes, x, 0.85, 0.68, 0.55, "class\nbox", GREEN, GREEN_EDGE, size=8.5)
        arrow(axes, (x, y - 0.56), (x, 1.14))
        note(axes, x, 2.9, stride, size=9, color=INK)
        arrow(axes, (x - step + 0.36, 0.85), (x - 0.28, y - 0.57), color=GREEN_EDGE, bend=0.15)
        if layer < len(LEVELS) - 1:
            arrow(axes, (x + 0.35, y + 0.22), (x + step - 0.35, y + 0.22))
    middle = left + 2.5 * step
    heading = "Decoder: queries re-sampled and boxes refined, layer by layer"
    note(axes, middle, 3.5, heading, size=10.5, color=INK, fontweight="bold")
    note(axes, middle, 3.17, "stride of the level that a layer reads in SAM-DETR++ (SAM-DETR has one)", size=8)
    boxes = "boxes (green):  $u_{l+1} = \\mathrm{detach}(\\mathrm{box\\ head}_l(h_l) + u_l)$,   $r_l = \\sigma(u_l)$"
    note(axes, middle - 0.4, 0.3, boxes, size=9)
    note(axes, 0.67, 1.6, "picture", size=8.5)
    note(axes, 1.95, 1.2, "stride 32\n(16 with DC5);\n8, 16 and 32 in\nSAM-DETR++", size=8)
    note(axes, 3.75, 1.26, "dense in SAM-DETR,\ndeformable in\nSAM-DETR++", size=8)
    return figure


def layer_figure() -> Figure:
    figure, axes = canvas(10.6, 3.45)
    y = 1.85
    stages = (
        (1.45, 1.35, "Self-attention\n\namong queries", BLUE, BLUE_EDGE),
        (4.05, 2.15, "Semantics Aligner\n\nRoIAlign → salient points\n→ reweighted samples", ORANGE, ORANGE_EDGE),
        (7.05, 1.95, "Cross-attention\n\nhead $m$ matches its own\nquery with shared keys", BLUE, BLUE_EDGE),
        (9.15, 1.2, "Feed-forward\n\n256→2048→256", GREY, LINE),
    )
    for x, width, text, fill, edge in stages:
        block(axes, x, y, width, 1.15, text, fill, edge)
    edges = [(x - width / 2, x + width / 2) for x, width, *_ in stages]
    starts, ends = [0.15, *(end for _, end in edges)], [*(start for start, _ in edges), 10.1]
    for start, end in zip(starts, ends, strict=True):
        arrow(axes, (start + 0.03, y), (end - 0.03, y))
    note(axes, 0.4, y + 0.3, "$t$\n$(Q, C)$", color=INK)
    note(axes, 2.55, y + 0.3, "$t$\n$(Q, C)$", color=INK)
    note(axes, (edges[1][1] + edges[2][0]) / 2, y + 0.42, "content,\nposition\n$(Q, M, C)$", size=7.5, color=INK)
    note(axes, 10.33, y, "$h_l$\n$(Q, C)$", color=INK)
    block(axes, 3.6, 3.12, 1.5, 0.42, "reference boxes  $r_l$", GREEN, GREEN_EDGE, size=8.5)
    block(axes, 5.75, 3.12, 1.95, 0.42, "feature map  $F$, positions", GREY, LINE, size=8.5)
    arrow(axes, (3.6, 2.9), (3.6, y + 0.6), color=GREEN_EDGE)
    arrow(axes, (2.83, 3.1), (1.5, y + 0.6), color=GREEN_EDGE, bend=0.15)
    arrow(axes, (5.2, 2.9), (4.7, y + 0.6))
    arrow(axes, (6.2, 2.9), (6.7, y + 0.6))
    note(axes, 1.45, 2.98, "sine of centers", size=8)
    for start, end in ((0.62, edges[0][1] + 0.1), (2.42, edges[2][1] + 0.08), (edges[3][0] - 0.12, edges[3][1] + 0.12)):
        across = [start, start, end, end]
        axes.plot(across, [y - 0.06, y - 0.85, y - 0.85, y - 0.06], color=SOFT, lw=1, ls=(0, (3, 2)))
        note(axes, (start + end) / 2, y - 1.0, "+, LayerNorm", size=8)
    legend = "$Q$ queries,  $C$ = 256 channels,  $M$ = 8 heads.   Dashed: what is added before normalisation."
    note(axes, 5.3, 0.35, legend, size=8.5)
    return figure
