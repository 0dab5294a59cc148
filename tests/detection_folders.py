"""Folders of a few pictures with annotations, as users have them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 30)
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}]


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def coco_content(count: int, first_id: int = 0, prefix: str = "") -> dict:
    """`count` pictures with one object each: a cat in those with an even id, otherwise a dog."""
    ids = range(first_id, first_id + count)
    return {
        "images": [{"id": i, "file_name": f"{prefix}{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in ids],
        "annotations": [
            {"id": 100 + i, "image_id": i, "category_id": 90 if i % 2 else 3, "bbox": [1, 2, 10.5, 4]} for i in ids
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


def write_coco(path: Path, pictures: Path, count: int = 4, first_id: int = 0, prefix: str = "") -> dict:
    content = coco_content(count, first_id, prefix)
    for image in content["images"]:
        save_picture(pictures / image["file_name"], seed=image["id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content
