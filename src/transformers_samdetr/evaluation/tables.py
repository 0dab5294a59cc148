"""Results as tables in a terminal and as JSON."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .errors import ERROR_KINDS
from .result import EvaluationResult


def result_tables(result: EvaluationResult) -> RenderableType:
    """What rich prints: COCO's numbers, the classes, and the errors."""
    metrics, stats = result.metrics(), result.stat_names()
    precisions = Table(title=f"{result.num_images:,} images, {int(result.num_objects.sum()):,} objects, in percent")
    recalls = Table()
    for table, names in ((precisions, [*stats[:6], "VOC_AP50"]), (recalls, stats[6:])):
        for name in names:
            table.add_column(name.replace("VOC_AP50", "VOC AP50"), justify="right", no_wrap=True)
        table.add_row(*(percent(metrics[name]) for name in names))

    classes = Table(title="Classes")
    columns = ("objects", "AP", "AP50", "AP75", "AR", "VOC_AP50")
    classes.add_column("class")
    for name in columns:
        classes.add_column(name.replace("VOC_AP50", "VOC AP50"), justify="right")
    for row in result.class_rows():
        classes.add_row(Text(row["name"]), f"{row['objects']:,}", *(percent(row[name]) for name in columns[1:]))

    errors = Table(title="Errors at IoU 0.5 (TIDE)")
    errors.add_column("kind")
    errors.add_column("number", justify="right")
    errors.add_column("AP50 gained if repaired", justify="right")
    for kind in ERROR_KINDS:
        errors.add_row(kind.name.lower(), f"{result.error_counts[kind]:,}", f"{100 * result.error_gains[kind]:.1f}")
    return Group(precisions, recalls, classes, errors)


def result_json(result: EvaluationResult, threshold: float) -> dict[str, Any]:
    """Everything as JSON takes it: AP and AR in percent, -1 for what is not there.

    Args:
        result: of an evaluation.
        threshold: score of the detections in the confusion matrix.
    """
    return {
        "images": result.num_images,
        "objects": int(result.num_objects.sum()),
        "max_detections": list(result.max_detections),
        "metrics": {name: value for name, value in result.metrics().items() if not name.startswith("AP/")},
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


def percent(value: float) -> str:
    """
    >>> percent(41.85), percent(-1.0)
    ('41.9', '–')
    """
    return f"{value:.1f}" if value >= 0 else "–"
