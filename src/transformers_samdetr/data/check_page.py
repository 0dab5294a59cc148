"""One HTML page about a data set: what was found, how much of what there is, and pictures with their boxes."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from ..visualization import class_colors, draw_detections
from ..visualization.web_page import picture_url, write_page
from .augment import Augmentation, position_seed
from .box_formats import xywh_to_boxes
from .dataset import NO_PICTURE, UNUSABLE, decode_picture, read_example, undecoded
from .dataset_check import SHOWN, AnnotationTable, Facts, Findings, Tables, splits
from .load import DetectionData

LONGEST = 640


def write_check_page(
    path: str | Path,
    data: DetectionData,
    findings: Findings,
    tables: Tables,
    facts: Facts,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> None:
    """Writes a page that needs no other file and no network; its folder must exist.

    `findings`, `tables` and `facts` are those of `full_check(data)`; some training pictures show the augmentation.
    """
    painter = _Painter(data)
    examples = [[painter.draw(*place) for place in list(dict.fromkeys(one.places))[:4]] for one in findings.all]
    counts = {split: np.bincount(table.labels, minlength=len(data.names)) for split, table in tables.items()}
    values = dict(
        data=data,
        findings=list(zip(findings.all, examples, strict=True)),
        shown=SHOWN,
        tables=tables,
        unreadable={split: sum(one.error is not None for one in facts[split].values()) for split in tables},
        colors=painter.colors,
        counts=counts,
        by_count=np.argsort(-counts["train"], kind="stable"),
        histograms=_histograms(tables["train"]),
        samples={split: [painter.draw(split, row) for row in _spread(table)] for split, table in tables.items()},
        augmented=painter.augmented(_spread(tables["train"], 6), augmentation, seed) if augmentation else [],
    )
    write_page(path, "transformers_samdetr.data", "check_page.html", values, {"median": np.median})


class _Painter:
    """Draws pictures of a set with their boxes, as URLs that hold the picture."""

    def __init__(self, data: DetectionData):
        self.names, self.colors = data.names, class_colors(data.names)
        self.sets = {split: undecoded(of_split) for split, of_split in splits(data).items()}

    def draw(self, split: str, row: int) -> dict[str, str]:
        """URL and caption; a picture that cannot be used is drawn without its boxes, or as a grey field."""
        example = self.sets[split][row]
        stored = example["image"] or NO_PICTURE
        caption = f"{split}, image {example['image_id']}" + (f", {Path(stored['path']).name}" if stored["path"] else "")
        try:
            return self.paint(*read_example(example), caption)
        except UNUSABLE as error:
            caption = f"{caption}: {error}"
        try:
            image = decode_picture(stored)
        except UNUSABLE:
            image = Image.new("RGB", (320, 240), (214, 219, 227))
        return self.paint(image.convert("RGB"), {"annotations": []}, caption)

    def augmented(self, rows: list[int], augmentation: Augmentation, seed: int) -> list[list[dict]]:
        """For some training pictures the original and a few versions of it."""
        galleries = []
        for row in rows:
            try:
                image, annotations = read_example(self.sets["train"][row])
            except UNUSABLE:
                continue
            pictures = [self.paint(image, annotations, f"image {annotations['image_id']} as it is")]
            for epoch in range(3):
                changed, after = augmentation(image, annotations, position_seed(seed, epoch, row))
                caption = f"epoch {epoch}: {changed.width}x{changed.height}, {len(after['annotations'])} objects"
                pictures.append(self.paint(changed, after, caption))
            galleries.append(pictures)
        return galleries

    def paint(self, image: Image.Image, annotations: dict, caption: str) -> dict[str, str]:
        objects = annotations["annotations"]
        scale = min(1.0, LONGEST / max(image.size))
        if scale < 1:
            image = image.resize([max(1, round(side * scale)) for side in image.size])
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4) * scale
        drawable = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1)
        corners = xywh_to_boxes(boxes[drawable], "xyxy", image.size)
        labels = [self.names[objects[i]["category_id"]] for i in np.flatnonzero(drawable)]
        drawn = draw_detections(image, corners, labels, colors=self.colors)
        return {"url": picture_url(drawn, quality=85), "caption": caption}


def _spread(table: AnnotationTable, count: int = 8) -> list[int]:
    """Rows from all over a split, those with objects if there are any."""
    rows = np.flatnonzero(table.objects_per_image) if len(table.rows) else np.arange(len(table.image_ids))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))].tolist()


def _histograms(table: AnnotationTable) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """Title, unit, and the label and count of each bin, of the training objects or pictures."""
    width, height = table.boxes[:, 2].clip(1e-6), table.boxes[:, 3].clip(1e-6)
    share = np.sqrt(width * height / np.maximum(table.sizes[table.rows].prod(1), 1))
    tenths = [f"{i * 10}–{i * 10 + 10} %" for i in range(10)]
    limits = [0, 0.2, 0.33, 0.5, 0.8, 1.25, 2, 3, 5, np.inf]
    ratios = ["below 0.2", *(f"{low:g}–{high:g}" for low, high in itertools.pairwise(limits[1:-1])), "above 5"]
    most = int(table.objects_per_image.max(initial=1))
    step = -(-(most + 1) // 12)
    starts = range(0, most + 1, step)
    numbers = [f"{start}" if step == 1 else f"{start}–{start + step - 1}" for start in starts]
    histograms = []
    for title, unit, values, edges, labels in (
        ("Box size", "square root of the share of the picture", share.clip(max=1), np.arange(11) / 10, tenths),
        ("Box shape", "width over height", width / height, limits, ratios),
        ("Objects in an image", "training images", table.objects_per_image, [*starts, np.inf], numbers),
    ):
        counts = np.histogram(values, edges)[0].tolist()
        histograms.append((title, unit, list(zip(labels, counts, strict=True))))
    return histograms
