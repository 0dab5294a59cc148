"""What SMCA adds: a Gaussian around the salient point of each head."""

from aligner import draw_attention, mark, outline, show_map
from matplotlib.figure import Figure
from scene import HEIGHT, WIDTH, Scene, softmax
from style import arrow, canvas, note, panel

HEAD, SCALES = 3, (0.9, 0.7)


def smca_figure(scene: Scene) -> Figure:
    figure, axes = canvas(9.6, 2.95)
    wide, tall, bottom = 2.6, 2.6 * HEIGHT / WIDTH, 0.62
    places = (0.15, 3.5, 6.85)
    draw_attention(panel(figure, places[0], bottom, wide, tall), scene, HEAD)
    bias = scene.bias(HEAD, SCALES)
    middle, last = (panel(figure, place, bottom, wide, tall) for place in places[1:])
    attention = softmax(scene.logits(HEAD) + bias)
    for one, values, colors, lowest in ((middle, bias, "Blues", -12), (last, attention, "magma", 0)):
        size = show_map(one, values, cmap=colors, vmin=lowest)
        outline(one, *size)
        mark(one, scene.points * size, size=46, only=HEAD)
    axes.text(places[1] - 0.375, bottom + tall / 2, "+", ha="center", va="center", fontsize=20)
    arrow(axes, (places[1] + wide + 0.1, bottom + tall / 2), (places[2] - 0.1, bottom + tall / 2))
    words = (
        ("Match of content and position", "softmax, without SMCA"),
        (
            "Gaussian around the head's point",
            "$-(s_x^2\\,(x_m-j-\\frac{1}{2})^2 + s_y^2\\,(y_m-i-\\frac{1}{2})^2)\\,/\\,8$",
        ),
        ("Attention", "softmax of the sum of the logits"),
    )
    for place, (title, text) in zip(places, words, strict=True):
        axes.text(place + wide / 2, bottom + tall + 0.2, title, ha="center", fontsize=10, fontweight="bold")
        note(axes, place + wide / 2, bottom - 0.25, text, size=8.5)
    return figure
