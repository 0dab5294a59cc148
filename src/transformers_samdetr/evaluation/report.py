"""One HTML page of an evaluation, with its pictures inside."""

import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ..visualization.web_page import data_url, picture_url, write_page
from .error_pictures import draw_errors
from .errors import ERROR_KINDS, ErrorKinds
from .figures import ERROR_COLORS, confusion_figure, errors_figure, precision_recall_figure, threshold_figure
from .result import EvaluationResult
from .tables import percent
from .worst_pictures import SHOWN, Picture

DOTS_PER_INCH = 130
CARDS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
EXPLANATIONS = {
    ErrorKinds.CLASSIFICATION: "The place is right (IoU ≥ 0.5), the class is not",
    ErrorKinds.LOCALISATION: "The class is right, the place only nearly (IoU 0.1 to 0.5)",
    ErrorKinds.BOTH: "Neither the class nor the place is right",
    ErrorKinds.DUPLICATE: "The object was found already, with a higher score",
    ErrorKinds.BACKGROUND: "Nothing is there (IoU ≤ 0.1)",
    ErrorKinds.MISSED: "Objects that no detection found, not even with a wrong class or place",
}


def result_figures(result: EvaluationResult, threshold: float) -> dict[str, Figure]:
    """The pictures by name: `precision_recall`, `thresholds`, `errors`, `confusion_matrix` (from `threshold` on)."""
    return {
        "precision_recall": precision_recall_figure(result),
        "thresholds": threshold_figure(result),
        "errors": errors_figure(result),
        "confusion_matrix": confusion_figure(result, threshold),
    }


def write_report(
    path: str | Path,
    result: EvaluationResult,
    title: str,
    threshold: float,
    figures: dict[str, Figure],
    open_image: Callable[[int], Image.Image],
) -> None:
    """Writes a page that needs no other file and no network.

    Args:
        path: of the page; its folder must exist.
        result: numbers, and the worst pictures, which must know their positions.
        title: what was evaluated on what.
        threshold: that of the confusion matrix.
        figures: of `result_figures`.
        open_image: the upright RGB picture at a position of the set.
    """
    metrics = result.metrics()
    values = dict(
        title=title,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        result=result,
        metrics=metrics,
        cards=CARDS,
        recalls=[name for name in result.stat_names() if name not in CARDS],
        threshold=threshold,
        figures={name: _figure_url(figure) for name, figure in figures.items()},
        galleries=[_gallery(kind, result, open_image) for kind in ERROR_KINDS],
    )
    write_page(path, "transformers_samdetr.evaluation", "report.html", values, {"percent": percent})


def _gallery(kind: ErrorKinds, result: EvaluationResult, open_image: Callable[[int], Image.Image]) -> dict:
    pictures = [
        {
            "url": picture_url(draw_errors(open_image(picture.position), picture, result.names, kind), quality=88),
            "caption": _caption(kind, picture),
        }
        for picture in result.worst.of_kind[kind]
    ]
    return {
        "name": kind.name.capitalize(),
        "explanation": EXPLANATIONS[kind],
        "color": ERROR_COLORS[kind],
        "number": result.error_counts[kind],
        "gain": 100 * result.error_gains[kind],
        "pictures": pictures,
    }


def _caption(kind: ErrorKinds, picture: Picture) -> str:
    if kind == ErrorKinds.MISSED:
        return f"image {picture.image_id}: {round(picture.cost)} missed of {len(picture.truth)}"
    number = int((picture.found["error"] == kind).sum())
    shown = f", the {SHOWN} highest shown" if number > SHOWN else ""
    return f"image {picture.image_id}: {number} such errors{shown}"


def _figure_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return data_url(buffer.getvalue(), "png")
