"""The demo's page: its controls and pictures, what happens on an event, and how it is served."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import ImageOps

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo is a Gradio page: pip install 'transformers-samdetr[demo]'") from error

from ..prediction import NMS_THRESHOLD
from . import UploadLimits, session
from .session import KEPT_SECONDS, Choice, Downloads, ServedModel, UploadedPicture

HINT = "Click on a box to see what the model looked at."
NO_BOX = f"There is no box at this place. {HINT}"
EXPLAINED = (
    "The salient points of this detection in its reference box, the attention of each head of the cross-attention, and "
    "over how many cells of the feature map it spreads. Click on another box to explain that one."
)
HIDDEN = {"value": None, "visible": False}
PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
CSS = """
.gradio-container, .gradio-container > main { width: 100% !important; max-width: 1320px !important;
                                              margin: 0 auto !important; }
.gradio-container > main { padding: 20px 20px 48px !important; }
footer { display: none !important; }
#title h1 { font-size: 24px; margin: 0; }
#title p, #hint p, #notes p, .about p { color: var(--body-text-color-subdued); margin: 0; }
#notes p { color: #9a3412; }
.dark #notes p { color: #fdba74; }
#notes:not(:has(p)) { display: none; }
#files .wrap { font-size: 0; }
#files .wrap .or { display: none; }
#files .wrap::after { content: "Drop pictures here, or click to choose"; font-size: 14px; text-align: center; }
/* fitted as Gradio computes the place of a click, also where the picture is smaller than its frame */
.drawn img { cursor: crosshair; object-fit: contain !important; width: 100% !important; height: 100% !important; }
.drawn, #why { background: var(--background-fill-secondary); }
#why img { background: #fff; padding: 8px; }
"""


def serve(
    models: Sequence[ServedModel],
    limits: UploadLimits | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    wait: bool = True,
) -> tuple[str, object]:
    """Serves the page.

    Args:
        models: one, or several to compare.
        limits: of uploads.
        host: address to listen on; `"0.0.0.0"` is for all of a network, and there is no password.
        port: or None for a free one from 7860 on.
        wait: whether to block until the process is interrupted.

    Raises:
        OSError: the port is not free.

    Returns:
        The address, and the page, whose `close()` ends it.
    """
    limits = limits or UploadLimits()
    page = build_page(models, limits)
    page.queue(max_size=limits.waiting, default_concurrency_limit=1)  # a model takes all cores
    # the fonts of the visitor's own system: nothing is fetched
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            max_file_size=f"{limits.megabytes}mb",
            ssr_mode=False,
            footer_links=[],
            theme=theme.set(body_background_fill="#f5f7fa", block_background_fill="#ffffff", block_border_width="1px"),
            css=CSS,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        where = "no port from 7860 on is" if port is None else f"port={port} is not"
        raise OSError(f"{where} free on {host}: give another one.") from error
    if wait:
        print(f"The demo is at {address} until Ctrl-C.", flush=True)
        page.block_thread()
    return address, page


def build_page(models: Sequence[ServedModel], limits: UploadLimits) -> gr.Blocks:
    """Lays out the page and connects its events.

    Args:
        models: one, or several to compare.
        limits: of uploads.

    Raises:
        ValueError: there is no model.
    """
    if not models:
        raise ValueError("The page needs at least one model.")
    names = " and ".join(f"**{model.name}**" for model in models)
    shown_picture = {"interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Blocks(title="SAM-DETR", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# Object detection with SAM-DETR\n{names} on your pictures", elem_id="title")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                # any type, so that a file that is no picture is refused by name and the others are taken
                files = gr.File(label="Pictures", file_count="multiple", height=150, elem_id="files")
                folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id="folder")
                bounds = f"{limits.pictures} pictures of {limits.megabytes} MB and {limits.megapixels:g} megapixels"
                gr.Markdown(f"At most {bounds}.", elem_classes="about")
                controls = _controls(models[0])
                download = gr.DownloadButton("Download JSON", interactive=False, size="md", elem_id="download")
            with gr.Column(scale=3, min_width=480):
                with gr.Row():
                    drawn = [
                        gr.Image(label=model.name, height=500, format="jpeg", elem_classes="drawn", **shown_picture)
                        for model in models
                    ]
                with gr.Row():
                    about = [gr.Markdown(elem_classes="about", elem_id=f"about-{i}") for i in range(len(models))]
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
                notes = gr.Markdown(elem_id="notes")
                hint = gr.Markdown(HINT, visible=False, elem_id="hint")
                why = gr.Image(
                    label="What the model looked at",
                    show_label=False,
                    format="png",
                    visible=False,
                    elem_id="why",
                    **shown_picture,
                )
        events = Events(models, limits)
        pictures, chosen = gr.State([]), gr.State(0)
        shown = [*drawn, *about, download]
        state = [pictures, chosen, *controls]
        everything = [pictures, chosen, notes, gallery, hint, why, *shown]
        for source in (files, folder):
            source.upload(events.upload, [source, *controls], [source, *everything], show_progress_on=drawn, **PRIVATE)
        # one event for all, so that what is shown in the end is the last state of all of them
        changes = [control.change for control in controls]
        gr.on(changes, events.show, state, shown, trigger_mode="always_last", **QUIET)
        gallery.select(events.choose, [pictures, *controls], [chosen, hint, why, *shown], **QUIET)
        for index, image in enumerate(drawn):
            image.select(events.click_on(index), state, [hint, why], show_progress_on=why, **PRIVATE)
    return page


def _controls(model: ServedModel) -> list[gr.components.Component]:
    """Whose values are a `Choice`."""
    threshold = gr.Slider(
        *(0, 1, model.threshold.value),
        step=0.01,
        label="Score threshold",
        info=f"Initially {model.threshold.value:g}: {model.threshold.reason}.",
        buttons=[],
        elem_id="threshold",
    )
    top_k = gr.Slider(1, 100, 100, step=1, label="Max detections", buttons=[], elem_id="top_k")
    merge_duplicates = gr.Checkbox(
        True,
        label="Merge duplicates (NMS)",
        info=f"Of two boxes of a class with an IoU above {NMS_THRESHOLD:g}, only the higher score is shown.",
        elem_id="merge_duplicates",
    )
    return [threshold, top_k, merge_duplicates]


class Events:
    """The page's callbacks; each returns an update for each of the components that its docstring names.

    Args:
        models: that are shown.
        limits: of uploads.
    """

    def __init__(self, models: Sequence[ServedModel], limits: UploadLimits):
        self.models, self.limits, self.downloads = models, limits, Downloads()

    def show(self, pictures: list[UploadedPicture], chosen: int, *controls: Any) -> list:
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

        The previous pictures stay where nothing of the upload can be read.
        """
        pictures, problems = session.read_pictures(paths or [], self.models, self.limits)
        notes = "\n\n".join(problems)
        if not pictures:
            return [None, gr.skip(), gr.skip(), notes, gr.skip(), gr.skip(), gr.skip(), *self.show([], 0)]
        several = len(pictures) > 1
        thumbnails = [(ImageOps.contain(one.image, (240, 180)), one.name) for one in pictures] if several else []
        gallery = gr.update(value=thumbnails, visible=several, selected_index=0 if several else None)
        hint, explanation = gr.update(value=HINT, visible=True), gr.update(**HIDDEN)
        return [None, pictures, 0, notes, gallery, hint, explanation, *self.show(pictures, 0, *controls)]

    def choose(self, pictures: list[UploadedPicture], event: gr.SelectData, *controls: Any) -> list:
        """Another picture of the gallery: chosen, hint, explanation, and `show`'s."""
        return [event.index, HINT, gr.update(**HIDDEN), *self.show(pictures, event.index, *controls)]

    def click_on(self, model: int) -> Callable[..., list]:
        """The callback of a click on that model's picture: hint and explanation."""

        def click(pictures: list, chosen: int, threshold, top_k, merge, event: gr.SelectData) -> list:
            choice = Choice(threshold, top_k, merge)
            figure = session.explain(pictures[chosen], self.models, choice, model, *event.index)
            if figure is None:
                return [NO_BOX, gr.update(**HIDDEN)]
            return [EXPLAINED, gr.update(value=figure, visible=True)]

        return click
