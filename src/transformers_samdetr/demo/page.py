"""The page: what stands where, and which event changes what."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from ..prediction import NMS_THRESHOLD
from .downloads import KEPT_SECONDS
from .events import HINT, Events
from .limits import Limits
from .served_model import ServedModel

PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}


@dataclass
class Controls:
    """The left column."""

    files: gr.File
    folder: gr.UploadButton
    threshold: gr.Slider
    top_k: gr.Slider
    once: gr.Checkbox
    download: gr.DownloadButton

    @property
    def values(self) -> list:
        """Of a `Choice`."""
        return [self.threshold, self.top_k, self.once]


@dataclass
class Views:
    """The right column; of `drawn` and `about` one for each model."""

    notes: gr.Markdown
    drawn: list[gr.Image]
    about: list[gr.Markdown]
    gallery: gr.Gallery
    hint: gr.Markdown
    why: gr.Image


def build_page(models: Sequence[ServedModel], limits: Limits) -> gr.Blocks:
    """Puts the page together.

    Args:
        models: one, or several to compare.
        limits: of uploads.

    Raises:
        ValueError: there is no model.
    """
    if not models:
        raise ValueError("The page needs at least one model.")
    names = " and ".join(f"**{model.name}**" for model in models)
    with gr.Blocks(title="SAM-DETR", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# Object detection with SAM-DETR\n{names} on your pictures", elem_id="title")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                controls = _controls(models[0], limits)
            with gr.Column(scale=3, min_width=480):
                views = _views(models)
        _connect(controls, views, Events(models, limits))
    return page


def _controls(model: ServedModel, limits: Limits) -> Controls:
    # any type, so that a file that is no picture is refused by name and the others are taken
    files = gr.File(label="Pictures", file_count="multiple", height=150, elem_id="files")
    folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id="folder")
    gr.Markdown(
        f"At most {limits.pictures} pictures of {limits.megabytes} MB and {limits.megapixels:g} megapixels.",
        elem_classes="about",
    )
    threshold = gr.Slider(
        *(0, 1, model.threshold.value),
        step=0.01,
        label="Lowest score",
        info=f"At first {model.threshold.reason}.",
        buttons=[],
        elem_id="threshold",
    )
    top_k = gr.Slider(1, 100, 100, step=1, label="At most so many boxes", buttons=[], elem_id="top_k")
    once = gr.Checkbox(
        True,
        label="Each object once",
        info=f"Of two boxes of a class that overlap by more than IoU {NMS_THRESHOLD:g}, the higher score.",
        elem_id="once",
    )
    download = gr.DownloadButton("Download JSON", interactive=False, size="md", elem_id="download")
    return Controls(files, folder, threshold, top_k, once, download)


def _views(models: Sequence[ServedModel]) -> Views:
    notes = gr.Markdown(elem_id="notes")
    picture = {"interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Row():
        drawn = [
            gr.Image(label=model.name, height=500, format="jpeg", elem_classes="drawn", **picture) for model in models
        ]
    with gr.Row():
        about = [gr.Markdown(elem_classes="about", elem_id=f"about-{index}") for index in range(len(models))]
    gallery = gr.Gallery(
        label="Your pictures",
        show_label=False,
        columns=6,
        height=160,
        object_fit="cover",
        allow_preview=False,
        buttons=[],
        visible=False,
        elem_id="gallery",
    )
    hint = gr.Markdown(HINT, visible=False, elem_id="hint")
    why = gr.Image(
        label="What the model looked at", show_label=False, format="png", visible=False, elem_id="why", **picture
    )
    return Views(notes, drawn, about, gallery, hint, why)


def _connect(controls: Controls, views: Views, events: Events) -> None:
    pictures, chosen = gr.State([]), gr.State(0)
    shown = [*views.drawn, *views.about, controls.download]
    state = [pictures, chosen, *controls.values]
    everything = [pictures, chosen, views.notes, views.gallery, views.hint, views.why, *shown]
    for source in (controls.files, controls.folder):
        source.upload(
            events.upload, [source, *controls.values], [source, *everything], show_progress_on=views.drawn, **PRIVATE
        )
    # one event for all, so that the last state of all of them is what is shown in the end
    changes = [control.change for control in controls.values]
    gr.on(changes, events.show, state, shown, trigger_mode="always_last", **QUIET)
    views.gallery.select(events.choose, [pictures, *controls.values], [chosen, views.hint, views.why, *shown], **QUIET)
    for model, image in enumerate(views.drawn):
        image.select(events.click_on(model), state, [views.hint, views.why], show_progress_on=views.why, **PRIVATE)
