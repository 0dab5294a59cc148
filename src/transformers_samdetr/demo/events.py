"""What happens on the page: uploads, sliders, another picture, a click on a box."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from . import session
from .downloads import Downloads
from .limits import Limits
from .served_model import ServedModel
from .session import Choice, Picture

HINT = "Click on a box to see what the model looked at."
NO_BOX = f"There is no box at this place. {HINT}"
EXPLAINED = (
    "The salient points in the reference box of this detection, and where each head of the cross-attention looks, over "
    "how many cells of the feature map. Click on another box to see the same of it."
)
THUMBNAIL = (240, 180)
HIDDEN = {"value": None, "visible": False}


class Events:
    """The page's answers, each a list with an update for each of the components that its method names.

    Args:
        models: that are shown.
        limits: of uploads.
    """

    def __init__(self, models: Sequence[ServedModel], limits: Limits):
        self.models, self.limits, self.downloads = models, limits, Downloads()

    def show(self, pictures: list[Picture], chosen: int, *controls: Any) -> list:
        """The chosen picture as the controls say: drawn pictures, lines about them, download. No model runs."""
        if not pictures:
            return [gr.skip()] * (2 * len(self.models) + 1)
        choice, picture = Choice(*controls), pictures[chosen]
        return [
            *session.draw(picture, self.models, choice),
            *session.describe(picture, self.models, choice),
            gr.update(value=self.downloads.write(session.rows(pictures, self.models, choice)), interactive=True),
        ]

    def upload(self, paths: list[str] | None, *controls: Any) -> list:
        """Reads and detects: the emptied upload, pictures, chosen, notes, gallery, hint, explanation, and `show`'s.

        What was there stays where nothing of the upload can be read.
        """
        pictures, problems = session.read_pictures(paths or [], self.models, self.limits)
        notes = "\n\n".join(problems)
        if not pictures:
            return [None, gr.skip(), gr.skip(), notes, gr.skip(), gr.skip(), gr.skip(), *self.show([], 0)]
        several = len(pictures) > 1
        thumbnails = [(_thumbnail(one.image), one.name) for one in pictures] if several else []
        gallery = gr.update(value=thumbnails, visible=several, selected_index=0 if several else None)
        hint, explanation = gr.update(value=HINT, visible=True), gr.update(**HIDDEN)
        return [None, pictures, 0, notes, gallery, hint, explanation, *self.show(pictures, 0, *controls)]

    def choose(self, pictures: list[Picture], event: gr.SelectData, *controls: Any) -> list:
        """Another picture of the gallery: chosen, hint, explanation, and `show`'s."""
        return [event.index, HINT, gr.update(**HIDDEN), *self.show(pictures, event.index, *controls)]

    def click_on(self, model: int) -> Callable[..., list]:
        """What a click on that model's picture does: hint and explanation."""

        def click(pictures: list[Picture], chosen: int, threshold, top_k, once, event: gr.SelectData) -> list:
            choice = Choice(threshold, top_k, once)
            figure = session.explain(pictures[chosen], self.models, choice, model, *event.index)
            if figure is None:
                return [NO_BOX, gr.update(**HIDDEN)]
            return [EXPLAINED, gr.update(value=figure, visible=True)]

        return click


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail(THUMBNAIL)
    return small
