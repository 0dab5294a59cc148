"""Precision and recall, thresholds, confusion and errors as pictures (matplotlib, without a display)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .average_precision import RECALLS
from .errors import ERROR_KINDS, ErrorKinds
from .result import EvaluationResult, mean_of_present

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
NAMED_CLASSES = 10
"""So many classes have a colour and a name of their own in the precision-recall picture."""
CONFUSED_CLASSES = 20
"""The confusion picture shows so many classes, and the others as one."""
LONGEST_NAME = 18
OUTSIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02), "handlelength": 1.2}


def precision_recall_figure(result: EvaluationResult) -> Figure:
    """Precision over recall: left of all classes together at several IoU thresholds, right of each class at IoU 0.5."""
    precision = result.coco.precision[..., 0, -1]  # (T, R, K)
    present = [label for label in range(len(result.names)) if precision[0, 0, label] > -1]
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    shades = ("#08306B", "#2171B5", "#6BAED6", "#C6DBEF")
    for index, shade in zip((0, 3, 5, 8), shades, strict=True):
        curve = precision[index][:, present].mean(1) if present else np.zeros(len(RECALLS))
        ap = 100 * mean_of_present(precision[index])
        name = f"IoU {0.5 + 0.05 * index:.2f}" + (f"   AP {ap:.1f}" if present else "")
        left.plot(RECALLS, curve, color=shade, linewidth=2, label=name)
        left.fill_between(RECALLS, curve, color=shade, alpha=0.06)
    left.set_title("Mean of the classes")
    by_ap = sorted(present, key=lambda label: -precision[0, :, label].mean())
    colors = _many_colors(min(len(by_ap), NAMED_CLASSES))
    # where there are many classes, the best and the worst are named
    half = NAMED_CLASSES // 2
    named = by_ap if len(by_ap) <= NAMED_CLASSES else [*by_ap[:half], *by_ap[-half:]]
    for label in by_ap:
        style = {"color": "#BBBBBB", "linewidth": 0.7, "zorder": 1}
        if label in named:
            text = f"{_short(result.names[label])}   {100 * precision[0, :, label].mean():.1f}"
            style = {"color": colors[named.index(label)], "linewidth": 1.6, "label": text}
        right.plot(RECALLS, precision[0, :, label], **style)
    right.set_title("Each class at IoU 0.5" + (", best and worst named" if len(by_ap) > NAMED_CLASSES else ""))
    for axes in (left, right):
        axes.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        _plain(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, **({"loc": "upper right"} if axes is left else OUTSIDE))
    left.set_ylabel("precision")
    return figure


def threshold_figure(result: EvaluationResult) -> Figure:
    """Precision, recall and F1 at IoU 0.5 of all classes together, over the score above which detections are kept."""
    scores, precision, recall, f1 = result.threshold_curves()
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    curves = (("precision", precision, "#0072B2"), ("recall", recall, "#D55E00"), ("F1", f1, "#222222"))
    for name, values, color in curves:
        axes.plot(scores, values, color=color, linewidth=1.8, label=name)
    best = result.best_threshold()
    if len(f1) and f1.max() > 0:
        axes.axvline(best, color="#222222", linewidth=0.8, linestyle=":")
        axes.plot([best], [f1.max()], "o", color="#222222", markersize=5)
        axes.annotate(f"{f1.max():.2f} at {best:.2f}", (best, f1.max()), (5, 6), textcoords="offset points", fontsize=9)
    axes.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.05))
    _plain(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def confusion_figure(result: EvaluationResult, threshold: float) -> Figure:
    """The confusion matrix (see `EvaluationResult.confusion`), in colours the share of each true class.

    Where there are many classes, those that are confused most are shown and the others put together.
    """
    matrix, names = _most_confused(result.confusion(threshold), result.names)
    rows, columns = [*names, "(background)"], [*names, "(missed)"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = 3.0 + 0.36 * len(rows)
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(rows)), columns, rotation=90 if len(rows) > 6 else 30, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set(xlabel="detected as", ylabel="true class")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(-0.5, len(rows)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.55 else "#222222"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.5, label="share of the true class")
    return figure


def errors_figure(result: EvaluationResult) -> Figure:
    """What each kind of error costs in AP50, with the number of errors."""
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    gains = [100 * result.error_gains[kind] for kind in ERROR_KINDS]
    bars = axes.barh([kind.name.lower() for kind in ERROR_KINDS], gains, color=[ERROR_COLORS[k] for k in ERROR_KINDS])
    for bar, kind in zip(bars, ERROR_KINDS, strict=True):
        text = f" {100 * result.error_gains[kind]:.1f}   ({result.error_counts[kind]:,})"
        axes.text(bar.get_width(), bar.get_y() + bar.get_height() / 2, text, va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="AP50 gained if repaired, in points (number of errors)", xlim=(0, 1.35 * max([*gains, 0.5])))
    _plain(axes, grid="x")
    return figure


def _most_confused(matrix: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Rows, columns and names of the classes to show, in their own order."""
    of_classes = matrix[:-1, :-1]
    used = [label for label in range(len(names)) if matrix[label].sum() or matrix[:, label].sum()]
    if len(used) > CONFUSED_CLASSES:
        confused = of_classes.sum(0) + of_classes.sum(1) - 2 * of_classes.diagonal()
        used = sorted(sorted(used, key=lambda label: (-confused[label], -matrix[label].sum()))[: CONFUSED_CLASSES - 1])
    others = [label for label in range(len(names)) if label not in used]
    texts = [_short(names[label]) for label in used]
    groups = [[label] for label in used]
    if matrix[others].any() or matrix[:, others].any():
        groups.append(others)
        texts.append(f"({len(others)} others)")
    groups.append([len(names)])
    merge = np.zeros((len(groups), len(matrix)), dtype=matrix.dtype)
    for row, group in enumerate(groups):
        merge[row, group] = 1
    return merge @ matrix @ merge.T, texts


def _many_colors(count: int) -> list:
    from matplotlib import colormaps

    return [colormaps["tab10"](index % 10) for index in range(count)]


def _plain(axes: Axes, grid: str = "both") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    """As matplotlib writes it: no formulas between dollar signs, and no underscore in front, which hides a label."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")
