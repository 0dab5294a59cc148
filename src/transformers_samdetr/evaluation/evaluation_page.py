"""An evaluation for reading: tables in a terminal, JSON, figures (matplotlib, without a display) and one HTML page."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from ..visualization import draw_detections
from ..visualization.fonts import shorten
from ..visualization.web_page import data_url, picture_url, write_page
from .average_precision import RECALLS, mean_of_present
from .coco_evaluator import SHOWN, ErrorPicture, EvaluationResult
from .matching import ERROR_KINDS, ErrorKinds

ERROR_COLORS = {
    ErrorKinds.CORRECT: "#009E73",
    ErrorKinds.CLASSIFICATION: "#56B4E9",
    ErrorKinds.LOCALISATION: "#E69F00",
    ErrorKinds.BOTH: "#CC79A7",
    ErrorKinds.DUPLICATE: "#F0E442",
    ErrorKinds.BACKGROUND: "#8C8C8C",
    ErrorKinds.MISSED: "#D55E00",
}
"""By Okabe and Ito, distinct with every kind of colour vision."""
NAMED_CLASSES, CONFUSED_CLASSES = 10, 20
"""So many classes have a name in the precision-recall and in the confusion picture."""
LONGEST_SIDE, GAP = 512, 8
"""Pixels of each half, and between them."""


def result_tables(result: EvaluationResult) -> RenderableType:
    """What rich prints: COCO's numbers, the classes, and the errors."""
    metrics, stats = result.metrics(), result.stat_names()
    objects = int(result.num_objects.sum())
    title = f"{result.num_images:,} images, {objects:,} objects, in percent; below, 95 % intervals"
    precisions, recalls = Table(title=title), Table()
    for table, names in ((precisions, [*stats[:6], "VOC_AP50"]), (recalls, stats[6:])):
        for name in names:
            table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        table.add_row(*(percent(metrics[name]) for name in names))
        table.add_row(*(interval_text(result.intervals.get(name)) for name in names))
    columns = ("objects", "AP", "AP50", "AP75", "AR", "VOC_AP50")
    numbers = (Column(name.replace("_", " "), justify="right") for name in columns)
    classes = Table("class", *numbers, title="Classes")
    for row in result.class_rows():
        classes.add_row(Text(row["name"]), f"{row['objects']:,}", *(percent(row[name]) for name in columns[1:]))
    numbers = (Column(name, justify="right") for name in ("number", "AP50 gained if repaired"))
    errors = Table("kind", *numbers, title="Errors at IoU 0.5 (TIDE)")
    for kind in ERROR_KINDS:
        errors.add_row(kind.name.lower(), f"{result.error_counts[kind]:,}", f"{100 * result.error_gains[kind]:.1f}")
    return Group(precisions, recalls, classes, errors)


def result_json(result: EvaluationResult, threshold: float) -> dict[str, Any]:
    """Everything as JSON takes it: AP and AR in percent, -1 for what is not there; `threshold` is the confusion's."""
    return {
        "images": result.num_images,
        "objects": int(result.num_objects.sum()),
        "max_detections": list(result.max_detections),
        "metrics": {name: value for name, value in result.metrics().items() if not name.startswith("AP/")},
        "intervals_95": {name: list(interval) for name, interval in result.intervals.items()},
        "calibration": {"ECE": 100 * result.calibration[0], "bins": result.calibration[1]},
        "classes": result.class_rows(),
        "errors": {
            kind.name.lower(): {"number": result.error_counts[kind], "AP50_gain": 100 * result.error_gains[kind]}
            for kind in ERROR_KINDS
        },
        "best_threshold": result.best_threshold(),
        "confusion": {
            "threshold": threshold,
            "rows_true_columns_detected": [*result.names, "background"],
            "matrix": result.confusion(threshold).tolist(),
        },
    }


def comparison_table(result: EvaluationResult, other: EvaluationResult, names: Sequence[str]) -> Table:
    """A paired test of two models, of the names `names`, on the same images."""
    columns = (Column(Text(name), justify="right") for name in (*names, "difference", "95 % interval", "p"))
    table = Table("in percent", *columns, title=f"{names[0]} minus {names[1]}, the same {result.num_images:,} images")
    for row in result.difference_to(other):
        if row["value"] >= 0:
            values = (percent(row["value"]), percent(row["other"]), f"{row['difference']:+.1f}")
            table.add_row(row["metric"], *values, f"{row['low']:+.1f} to {row['high']:+.1f}", f"{row['p']:.3f}")
    return table


def interval_text(interval: tuple[float, float] | None) -> str:
    """
    >>> interval_text((40.12, 43.5)), interval_text((-1.0, -1.0)), interval_text(None)
    ('40.1–43.5', '', '')
    """
    return f"{interval[0]:.1f}–{interval[1]:.1f}" if interval and interval[0] >= 0 else ""


def percent(value: float) -> str:
    """
    >>> percent(41.85), percent(-1.0)
    ('41.9', '–')
    """
    return f"{value:.1f}" if value >= 0 else "–"


def result_figures(result: EvaluationResult, threshold: float) -> dict[str, Figure]:
    """The figures by file name; the confusion matrix counts detections with a score of at least `threshold`."""
    return {
        "precision_recall": precision_recall_figure(result),
        "thresholds": threshold_figure(result),
        "errors": errors_figure(result),
        "calibration": calibration_figure(result),
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
    """Writes a page that needs no other file and no network; its folder must exist.

    `threshold` is that of the confusion matrix, `figures` are `result_figures`; the worst pictures of the result are
    opened by their positions, upright and RGB.
    """
    urls = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        urls[name] = data_url(buffer.getvalue(), "png")

    def drawn(picture: ErrorPicture, kind: ErrorKinds) -> str:
        image = draw_errors(open_image(picture.position), picture, result.names, kind)
        return picture_url(image, quality=88)

    galleries = {kind: [(drawn(one, kind), one) for one in result.worst[kind]] for kind in ERROR_KINDS}
    values = dict(title=title, result=result, threshold=threshold, figures=urls, galleries=galleries)
    values |= dict(colors=ERROR_COLORS, shown=SHOWN)
    filters = {"percent": percent, "interval": interval_text}
    write_page(path, "transformers_samdetr.evaluation", "evaluation_page.html", values, filters)


def precision_recall_figure(result: EvaluationResult) -> Figure:
    """Precision over recall: left of all classes together at several IoU thresholds, right of each class at IoU 0.5."""
    precision = result.coco.precision[..., 0, -1]  # (T, R, K)
    present = np.flatnonzero(precision[0, 0] > -1)
    figure, (left, right) = _plain_figure((11.5, 4.2), 2)
    shades = ("#08306B", "#2171B5", "#6BAED6", "#C6DBEF")
    for index, shade in zip((0, 3, 5, 8), shades, strict=True):
        curve = precision[index][:, present].mean(1) if len(present) else np.zeros(len(RECALLS))
        ap = f"   AP {100 * mean_of_present(precision[index]):.1f}" if len(present) else ""
        name = f"IoU {0.5 + 0.05 * index:.2f}{ap}"
        left.plot(RECALLS, curve, color=shade, linewidth=2, label=name)
        left.fill_between(RECALLS, curve, color=shade, alpha=0.06)
    left.set_title("Mean of the classes")
    by_ap = sorted(present, key=lambda label: -precision[0, :, label].mean())
    half = NAMED_CLASSES // 2
    named = by_ap if len(by_ap) <= NAMED_CLASSES else [*by_ap[:half], *by_ap[-half:]]  # the best and the worst
    for label in by_ap:
        style = {"color": "#BBBBBB", "linewidth": 0.7, "zorder": 1}
        if label in named:
            text = f"{_short(result.names[label])}   {100 * precision[0, :, label].mean():.1f}"
            style = {"color": colormaps["tab10"](named.index(label)), "linewidth": 1.6, "label": text}
        right.plot(RECALLS, precision[0, :, label], **style)
    right.set_title("Each class at IoU 0.5" + (", best and worst named" if len(by_ap) > NAMED_CLASSES else ""))
    outside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02), "handlelength": 1.2}
    for axes, place in ((left, {"loc": "upper right"}), (right, outside)):
        axes.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, **place)
    left.set_ylabel("precision")
    return figure


def threshold_figure(result: EvaluationResult) -> Figure:
    """Precision, recall and F1 at IoU 0.5 of all classes together, over the score above which detections are kept."""
    scores, precision, recall, f1 = result.threshold_curves()
    figure, axes = _plain_figure()
    curves = (("precision", precision, "#0072B2"), ("recall", recall, "#D55E00"), ("F1", f1, "#222222"))
    for name, values, color in curves:
        axes.plot(scores, values, color=color, linewidth=1.8, label=name)
    best = result.best_threshold()
    if len(f1) and f1.max() > 0:
        axes.axvline(best, color="#222222", linewidth=0.8, linestyle=":")
        axes.plot([best], [f1.max()], "o", color="#222222", markersize=5)
        axes.annotate(f"{f1.max():.2f} at {best:.2f}", (best, f1.max()), (5, 6), textcoords="offset points", fontsize=9)
    axes.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=9)
    return figure


def confusion_figure(result: EvaluationResult, threshold: float) -> Figure:
    """`EvaluationResult.confusion`, shares of each true class in colours; of many classes, those confused most."""
    matrix, names = result.confusion(threshold), result.names
    used = [label for label in range(len(names)) if matrix[label].any() or matrix[:, label].any()]
    if len(used) > CONFUSED_CLASSES:
        confused = (matrix + matrix.T)[:-1, :-1].sum(0) - 2 * matrix.diagonal()[:-1]
        used = sorted(sorted(used, key=lambda label: (-confused[label], -matrix[label].sum()))[: CONFUSED_CLASSES - 1])
    others = [label for label in range(len(names)) if label not in used]
    groups, texts = [[label] for label in used], [_short(names[label]) for label in used]
    if matrix[others].any() or matrix[:, others].any():
        groups, texts = [*groups, others], [*texts, f"({len(others)} others)"]
    merge = np.stack([np.isin(np.arange(len(matrix)), group) for group in [*groups, [len(names)]]]).astype(matrix.dtype)
    matrix = merge @ matrix @ merge.T
    rows, columns = [*texts, "(background)"], [*texts, "(missed)"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 3.0 + 0.36 * len(rows)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(rows)), columns, rotation=90 if len(rows) > 6 else 30, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set(xlabel="detected as", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.55 else "#222222"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.5, label="share of the true class")
    return figure


def errors_figure(result: EvaluationResult) -> Figure:
    """What each kind of error costs in AP50, with the number of errors."""
    figure, axes = _plain_figure(grid="x")
    gains = [100 * result.error_gains[kind] for kind in ERROR_KINDS]
    bars = axes.barh([kind.name.lower() for kind in ERROR_KINDS], gains, color=[ERROR_COLORS[k] for k in ERROR_KINDS])
    texts = [f" {gain:.1f}   ({result.error_counts[kind]:,})" for gain, kind in zip(gains, ERROR_KINDS, strict=True)]
    axes.bar_label(bars, texts, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="AP50 gained if repaired, in points (number of errors)", xlim=(0, 1.35 * max([*gains, 0.5])))
    return figure


def calibration_figure(result: EvaluationResult) -> Figure:
    """Precision at IoU 0.5 over the score, in bins, with the number of detections; on the diagonal scores are right."""
    error, bins = result.calibration
    figure, axes = _plain_figure()
    axes.plot([0, 1], [0, 1], color="#222222", linewidth=0.8, linestyle=":")
    for one in bins:
        width, style = one["bin_upper"] - one["bin_lower"], {"color": "#6BAED6", "edgecolor": "white"}
        bar = axes.bar(one["bin_lower"], one["avg_accuracy"], width, align="edge", **style)
        axes.bar_label(bar, [f"{one['count']:,}"], fontsize=7)
    axes.plot([one["avg_confidence"] for one in bins], [one["avg_accuracy"] for one in bins], "o", color="#08306B")
    axes.set(xlabel="score", ylabel="precision", xlim=(0, 1), ylim=(0, 1.05))
    axes.set_title(f"expected calibration error {100 * error:.1f} %", fontsize=10)
    return figure


def _plain_figure(size: tuple[float, float] = (5.4, 3.6), columns: int = 1, grid: str = "both") -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, columns, sharey=True)
    for axes in np.ravel(panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _short(name: str) -> str:
    """As matplotlib writes it: no formulas between dollar signs, and no underscore in front, which hides a label."""
    name = shorten(name, 18)
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def draw_errors(image: Image.Image, picture: ErrorPicture, names: Sequence[str], kind: ErrorKinds) -> Image.Image:
    """Both halves as one RGB picture.

    Left, objects: green, or red where missed, or grey for crowd regions. Right, the errors of the kind with the highest
    scores in the kind's colour; for missed objects the highest detections of any kind, each in its colour.
    """
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    found, truth, are_missed = picture.found, picture.truth, kind == ErrorKinds.MISSED
    # names of what was found would hide what was missed
    texts = [names[one["label"]] if one["missed"] or not are_missed else "" for one in truth]
    colors = np.where(truth["missed"], ERROR_COLORS[ErrorKinds.MISSED], ERROR_COLORS[ErrorKinds.CORRECT])
    colors = np.where(truth["crowd"], "#8C8C8C", colors).tolist()
    left = (picture.objects.boxes, texts, None, colors)
    chosen = (found["error"] != ErrorKinds.IGNORED) if are_missed else (found["error"] == kind)
    highest = np.flatnonzero(chosen)[np.argsort(-found["score"][chosen], kind="stable")][:SHOWN]
    colors = [ERROR_COLORS[error] for error in found["error"][highest]]
    texts = [names[label] for label in found["label"][highest]]
    right = (picture.boxes[highest], texts, found["score"][highest], colors)
    both = Image.new("RGB", (2 * image.width + GAP, image.height), "white")
    for start, (boxes, texts, scores, colors) in ((0, left), (image.width + GAP, right)):
        boxes = boxes * scale
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        # the same name may need two colours: spaces at its end, which are not drawn, tell them apart
        marks = {color: " " * index for index, color in enumerate(dict.fromkeys(colors))}
        labels = [text + marks[color] for text, color in zip(texts, colors, strict=True)]
        of_label = {label: ImageColor.getrgb(color) for label, color in zip(labels, colors, strict=True)}
        both.paste(draw_detections(image, corners, labels, scores, of_label), (start, 0))
    return both
