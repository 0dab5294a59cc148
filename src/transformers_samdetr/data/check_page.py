"""One HTML page about a data set: what was found, how much of what there is, and pictures with their boxes."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..visualization import class_colors, draw_detections
from ..visualization.web_page import picture_url, write_page
from .augment import Augmentation, example_seed
from .dataset import UNUSABLE, decode_picture, read_example, stored_picture, undecoded
from .dataset_check import SHOWN, AnnotationTable, Findings, Severity
from .load import DetectionData
from .picture_facts import PictureFacts

SAMPLES = 8
"""Pictures of each split."""
VARIANTS = 3
"""Augmented versions of a picture."""
AUGMENTED = 6
LONGEST = 640
AREA_LIMITS = (0, 32, 96, np.inf)
"""Sides of squares as large as COCO's small, medium and large objects begin at, in pixels."""


def write_check_page(
    path: str | Path,
    data: DetectionData,
    findings: Findings,
    tables: dict[str, AnnotationTable],
    facts: dict[str, dict[int, PictureFacts]],
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> None:
    """Writes a page that needs no other file and no network.

    Args:
        path: of the page; its folder must exist.
        data: what was checked.
        findings, tables, facts: as `full_check` returned them.
        augmentation: shown on some training pictures, or None.
        seed: of the augmentation.
    """
    painter = _Painter(data)
    values = dict(
        data=data,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        verdict=_verdict(findings),
        findings=[
            {
                "severity": finding.severity.name.lower(),
                "message": finding.message,
                "examples": finding.examples[:SHOWN],
                "more": max(0, len(finding.examples) - SHOWN),
                "pictures": [painter.draw(*place) for place in list(dict.fromkeys(finding.places))[:4]],
            }
            for finding in findings.all
        ],
        splits={split: _figures(table, facts[split]) for split, table in tables.items()},
        classes=_classes(tables, data.names),
        histograms=_histograms(tables),
        samples={split: [painter.draw(split, row) for row in _spread(table)] for split, table in tables.items()},
        augmented=_augmented(painter, tables["train"], augmentation, seed) if augmentation else [],
    )
    write_page(path, "transformers_samdetr.data", "check_page.html", values)


class _Painter:
    """Draws pictures of a set with their boxes, as URLs that hold the picture."""

    def __init__(self, data: DetectionData):
        self.data = data
        self.colors = class_colors(data.names)

    def example(self, split: str, row: int) -> tuple[Image.Image, dict]:
        return read_example(undecoded(self.data.train if split == "train" else self.data.evaluation)[row])

    def draw(self, split: str, row: int) -> dict[str, str]:
        """URL and caption; a picture that cannot be used is drawn without its boxes, or as a grey field."""
        data = self.data.train if split == "train" else self.data.evaluation
        caption = f"{split}, image {data.select_columns(['image_id'])[row]['image_id']}"
        name = Path(stored_picture(data, row)["path"] or "").name
        caption += f", {name}" if name else ""
        try:
            return self.paint(*self.example(split, row), caption)
        except UNUSABLE as error:
            caption = f"{caption}: {error}"
        try:
            image = decode_picture(stored_picture(data, row))
        except UNUSABLE:
            image = Image.new("RGB", (320, 240), (214, 219, 227))
        return {"url": _url(image.convert("RGB")), "caption": caption}

    def paint(self, image: Image.Image, annotations: dict, caption: str) -> dict[str, str]:
        objects = annotations["annotations"]
        scale = min(1.0, LONGEST / max(image.size))
        if scale < 1:
            image = image.resize([max(1, round(side * scale)) for side in image.size])
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4) * scale
        drawable = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        labels = [self.data.names[entry["category_id"]] for entry in objects]
        shown = [label for label, keep in zip(labels, drawable, strict=True) if keep]
        return {"url": _url(draw_detections(image, corners[drawable], shown, colors=self.colors)), "caption": caption}


def _augmented(painter: _Painter, table: AnnotationTable, augmentation: Augmentation, seed: int) -> list[list[dict]]:
    """For some pictures the original and a few versions of it."""
    rows = []
    for row in _spread(table, AUGMENTED):
        try:
            image, annotations = painter.example("train", row)
        except UNUSABLE:
            continue
        pictures = [painter.paint(image, annotations, f"image {annotations['image_id']} as it is")]
        for epoch in range(VARIANTS):
            changed, after = augmentation(image, annotations, example_seed(seed, epoch, row))
            caption = f"epoch {epoch}: {changed.width}x{changed.height}, {len(after['annotations'])} objects"
            pictures.append(painter.paint(changed, after, caption))
        rows.append(pictures)
    return rows


def _verdict(findings: Findings) -> dict[str, str]:
    errors, warnings = (len(findings.of(severity)) for severity in (Severity.ERROR, Severity.WARNING))
    if errors:
        return {"kind": "error", "text": f"{errors} error{'s' * (errors > 1)}: not ready to train"}
    if warnings:
        return {"kind": "warning", "text": f"Ready to train, with {warnings} warning{'s' * (warnings > 1)}"}
    return {"kind": "good", "text": "Ready to train"}


def _spread(table: AnnotationTable, count: int = SAMPLES) -> list[int]:
    """Rows from all over a split, those with objects if there are any."""
    rows = np.flatnonzero(table.objects_per_image) if len(table.rows) else np.arange(len(table.image_ids))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))].tolist()


def _figures(table: AnnotationTable, facts: dict[int, PictureFacts]) -> dict[str, str]:
    sizes, objects = table.sizes, table.objects_per_image
    sides = np.sqrt(table.boxes[:, 2].clip(0) * table.boxes[:, 3].clip(0))
    parts = np.histogram(sides, AREA_LIMITS)[0] / max(len(sides), 1)
    unreadable = sum(fact.error is not None for fact in facts.values())
    if not len(sizes):
        return {"images": "0"}
    return {
        "images": f"{len(sizes):,}",
        "unreadable": f"{unreadable:,}",
        "objects": f"{len(table.rows):,}",
        "crowd regions": f"{int(table.crowd.sum()):,}",
        "without objects": f"{int((objects == 0).sum()):,}",
        "objects in an image": f"{np.median(objects):g} (most {objects.max()})",
        "picture size": f"{_range(sizes[:, 0])} x {_range(sizes[:, 1])}",
        "small / medium / large": " / ".join(f"{part:.0%}" for part in parts),
    }


def _range(values: np.ndarray) -> str:
    return f"{values.min()}" if values.min() == values.max() else f"{values.min()}–{values.max()}"


def _classes(tables: dict[str, AnnotationTable], names: Sequence[str]) -> list[dict]:
    """Objects of each class, the most frequent first."""
    counts = {split: np.bincount(table.labels, minlength=len(names)) for split, table in tables.items()}
    highest = max(int(max(count.max(initial=0) for count in counts.values())), 1)
    colors = class_colors(names)
    order = np.argsort(-counts["train"], kind="stable")
    return [
        {
            "name": names[label],
            "color": "rgb" + str(colors[names[label]]),
            **{split: int(count[label]) for split, count in counts.items()},
            "share": 100 * counts["train"][label] / highest,
        }
        for label in order
    ]


def _histograms(tables: dict[str, AnnotationTable]) -> list[dict]:
    """Shares of the training objects or pictures, in bins."""
    table = tables["train"]
    width, height = table.boxes[:, 2].clip(1e-6), table.boxes[:, 3].clip(1e-6)
    area = np.maximum(table.sizes[table.rows].prod(1), 1)
    most = max(int(table.objects_per_image.max(initial=0)), 1)
    step = max(1, -(-(most + 1) // 12))
    return [
        _histogram("Box size", "square root of the share of the picture", np.sqrt(width * height / area), _percents()),
        _histogram("Box shape", "width over height", width / height, _ratios()),
        _histogram(
            "Objects in an image",
            "training images",
            table.objects_per_image,
            [(a, a + step, f"{a}" if step == 1 else f"{a}–{a + step - 1}") for a in range(0, most + 1, step)],
        ),
    ]


def _percents() -> list[tuple[float, float, str]]:
    return [(i / 10, (i + 1) / 10 + (i == 9), f"{i * 10}–{i * 10 + 10} %") for i in range(10)]


def _ratios() -> list[tuple[float, float, str]]:
    limits = [0, 0.2, 0.33, 0.5, 0.8, 1.25, 2, 3, 5, np.inf]
    return [
        (a, b, f"below {b:g}" if a == 0 else f"above {a:g}" if np.isinf(b) else f"{a:g}–{b:g}")
        for a, b in zip(limits[:-1], limits[1:], strict=True)
    ]


def _histogram(title: str, unit: str, values: np.ndarray, bins: Iterable[tuple[float, float, str]]) -> dict:
    counts = [(label, int(((values >= low) & (values < high)).sum())) for low, high, label in bins]
    highest = max(max(count for _, count in counts), 1)
    return {
        "title": title,
        "unit": unit,
        "bars": [{"label": label, "count": count, "share": 100 * count / highest} for label, count in counts],
    }


def _url(image: Image.Image) -> str:
    if max(image.size) > LONGEST:
        image = ImageOps.contain(image, (LONGEST, LONGEST))
    return picture_url(image, quality=85)
