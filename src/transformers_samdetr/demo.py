"""A page in the browser to try a model on, made of Gradio's own components. Needs the extra `demo`."""

import html
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The demo is a Gradio page: pip install 'transformers-samdetr[demo]'") from error

from .modeling_sam_detr import SamDetrForObjectDetection
from .pictures import UnreadablePictureError, opened_picture, picture_to_array
from .prediction import NMS_THRESHOLD, Detector, choose_threshold
from .visualization.explain import explanation_figure, figure_to_picture, find_best, observe

SHORTEST_SIDE, MAX_CANDIDATES, EXPLAINED = 480, 300, 3
"""Pixels that a smaller picture is enlarged to; detections that the sliders choose from, and that are explained."""
KEPT_SECONDS = 3600
"""After an hour what was uploaded or drawn is deleted from the disk."""
HEADERS = ["class", "score", "x", "y", "width", "height"]


class Demo:
    """A model that all visitors share, and the page's callbacks.

    Args:
        model: folder or Hub repository of a SAM-DETR.
        max_megabytes, max_megapixels: of an uploaded picture; pixels are read from its header, before it is decoded.

    Raises:
        ValueError: a limit is not a finite number above 0, or it is another kind of model.
    """

    def __init__(self, model: str | os.PathLike, device=None, max_megabytes: float = 25, max_megapixels: float = 50):
        for name, value in (("max_megabytes", max_megabytes), ("max_megapixels", max_megapixels)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a finite number above 0.")
        self.max_megabytes, self.max_megapixels = max_megabytes, max_megapixels
        self.detector = Detector(model, device)
        if not isinstance(self.detector.model, SamDetrForObjectDetection):
            raise ValueError(f"{model} is a {type(self.detector.model).__name__}: the demo shows SAM-DETRs.")

    def read(self, path: str | os.PathLike) -> Image.Image:
        """The upright RGB picture of a file, or an `UnreadablePictureError` of one line that names the file alone."""
        path = Path(path)
        try:
            if not path.stat().st_size:
                raise UnreadablePictureError("it is empty")
            if (megabytes := path.stat().st_size / 1e6) > self.max_megabytes:
                raise UnreadablePictureError(f"it has {megabytes:.1f} MB, at most {self.max_megabytes:g} are allowed")
            with opened_picture(path, path.name) as image:
                if (megapixels := image.width * image.height / 1e6) > self.max_megapixels:
                    size = f"it has {image.width} x {image.height} pixels, {megapixels:.1f} megapixels"
                    raise UnreadablePictureError(f"{size}, at most {self.max_megapixels:g} are allowed")
                return Image.fromarray(picture_to_array(image))
        except UnreadablePictureError as error:
            reason = error.reason.replace(str(path), path.name)
            raise UnreadablePictureError(f"{path.name} cannot be read: {reason}.", reason) from error

    def detect(self, path: str | None, *controls: Any) -> list:
        """A new picture with all its detections, whatever their score, and what `show` returns."""
        if path is None:
            return [None, *self.show(None, *controls)]
        try:
            image = self.read(path)
        except UnreadablePictureError as error:
            raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error
        (candidates,) = self.detector.detect([image], threshold=-1.0, top_k=MAX_CANDIDATES, nms_threshold=None)
        return [(image, candidates), *self.show((image, candidates), *controls)]

    def show(self, picture: tuple[Image.Image, dict[str, Tensor]] | None, *controls: Any) -> list:
        """As the controls say, without running the model: the drawn picture, a table, and no explanation."""
        if picture is None:
            return [None, [], None]
        found = select(picture[1], *controls)
        rows = self.detector.coco_rows(1, "", found)
        table = [[row["category_name"], round(row["score"], 4), *(round(x, 1) for x in row["bbox"])] for row in rows]
        return [self.detector.draw(picture[0], found, SHORTEST_SIDE), table, None]

    def explain(self, picture: tuple[Image.Image, dict[str, Tensor]] | None, *controls: Any) -> Image.Image:
        """What the model looked at for the best of the detections that are shown."""
        found = {} if picture is None else select(picture[1], *controls)
        if not len(found.get("scores", ())):
            raise gr.Error("There is no detection to explain: lower the threshold.", print_exception=False)
        observation = observe(self.detector.model, self.detector.processor, picture[0])
        return figure_to_picture(explanation_figure(observation, find_best(observation, found, EXPLAINED)))

    def page(self, examples: Sequence[str | os.PathLike] = ()) -> gr.Blocks:
        """The page, with pictures to click on."""
        limits = f"at most {self.max_megabytes:g} MB and {self.max_megapixels:g} megapixels"
        threshold = choose_threshold(self.detector.model.config)
        initially = f"Initially {threshold.value:g}: {threshold.reason}."
        duplicates = f"Of two boxes of a class with an IoU above {NMS_THRESHOLD:g}, only the higher score is shown."
        with gr.Blocks(title="SAM-DETR", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
            gr.Markdown(f"# Object detection with SAM-DETR\n**{self.detector.short_name}** on pictures of {limits}")
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    # not gr.Image, which opens what is uploaded before any limit is looked at
                    file = gr.File(label="Picture", height=120, elem_id="file")
                    if examples:
                        gr.Examples([[str(path)] for path in examples], file, cache_examples=False)
                    controls = [
                        gr.Slider(0, 1, threshold.value, step=0.01, label="Score threshold", info=initially),
                        gr.Slider(1, 100, 100, step=1, label="Max detections"),
                        gr.Checkbox(True, label="Merge duplicates (NMS)", info=duplicates),
                    ]
                    explain = gr.Button("What the model looked at", elem_id="explain")
                with gr.Column(scale=3, min_width=480):
                    options = {"interactive": False, "buttons": ["download", "fullscreen"]}
                    drawn = gr.Image(label="Detections", format="jpeg", height=480, elem_id="drawn", **options)
                    table = gr.Dataframe(headers=HEADERS, interactive=False, max_height=260, elem_id="table")
                    why = gr.Image(show_label=False, format="png", elem_id="why", **options)
            picture, shown = gr.State(), [drawn, table, why]
            options = {"api_visibility": "private", "concurrency_id": "model"}  # one picture at a time
            file.change(self.detect, [file, *controls], [picture, *shown], show_progress_on=drawn, **options)
            explain.click(self.explain, [picture, *controls], why, **options)
            quiet = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
            gr.on([control.change for control in controls], self.show, [picture, *controls], shown, **quiet)
        return page


def select(candidates: dict[str, Tensor], threshold: float, top_k: int, merge_duplicates: bool) -> dict[str, Tensor]:
    """Of the detections of any score, what `Detector.detect` returns with these options."""
    keep = torch.arange(len(candidates["scores"]))[: int(top_k)]
    keep = keep[candidates["scores"][keep] > threshold]
    if merge_duplicates:
        keep = keep[batched_nms(*(candidates[name][keep] for name in ("boxes", "scores", "labels")), NMS_THRESHOLD)]
    return {name: values[keep] for name, values in candidates.items()}


def serve(
    demo: Demo,
    examples: Sequence[str | os.PathLike] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    max_waiting: int = 32,
    wait: bool = True,
) -> tuple[str, gr.Blocks]:
    """Serves the page, with examples to click on, and returns its address and the page, whose `close()` ends it.

    Args:
        host: address to listen on; `"0.0.0.0"` is for all of a network, and there is no password.
        port: or None for a free one from 7860 on.
        max_waiting: requests in the queue.
        wait: whether to block until the process is interrupted.

    Raises:
        OSError: the port is not free.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing on this page goes to others
    page = demo.page(examples).queue(max_size=max_waiting, default_concurrency_limit=1)
    system = ["system-ui", "sans-serif"]  # fonts of the visitor's system: nothing is fetched
    options = {"share": False, "ssr_mode": False, "enable_monitoring": False, "pwa": False, "mcp_server": False}
    options |= {"theme": gr.themes.Default(font=system, font_mono=["monospace"]), "footer_links": []}
    options |= {"max_file_size": int(1e6 * demo.max_megabytes), "show_error": True, "quiet": True}
    try:
        _, address, _ = page.launch(server_name=host, server_port=port, prevent_thread_lock=True, **options)
    except OSError as error:
        where = "no port from 7860 on is" if port is None else f"port={port} is not"
        raise OSError(f"{where} free on {host}: give another one.") from error
    if wait:
        print(f"The demo is at {address} until Ctrl-C.", flush=True)
        page.block_thread()
    return address, page
