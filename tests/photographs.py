"""A new user's folder: ten photographs as a camera saves them, and the COCO JSON of a labelling tool."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

COUNT = 10
SIZE = (240, 180)
CATEGORIES = {1: "ball", 2: "sign"}


def write_photographs(folder: Path) -> None:
    """Parts of scikit-learn's two photographs with balls and signs on them, as JPEG, and `labels.json` beside them.

    Ids start at 1 and there is neither `area` nor `iscrowd`, as in what many tools export.
    """
    random = np.random.default_rng(3)
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, COUNT + 1):
        name = f"IMG_{number:04d}.jpg"
        picture = _part_of_a_photograph(random, number)
        # two columns, so that nothing is hidden
        for column in range(2):
            category = int(random.choice(list(CATEGORIES)))
            side = int(random.integers(50, 90))
            left = column * SIZE[0] // 2 + int(random.integers(SIZE[0] // 2 - side))
            top = int(random.integers(SIZE[1] - side))
            _draw(picture, category, (left, top, left + side - 1, top + side - 1))
            box = [left, top, side, side]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box})
        picture.save(folder / name, quality=92)
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
    categories = [{"id": category, "name": name} for category, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _part_of_a_photograph(random: np.random.Generator, number: int) -> Image.Image:
    photograph = Image.fromarray(load_sample_images().images[number % 2])
    left, top = (int(random.integers(room)) for room in (photograph.width - SIZE[0], photograph.height - SIZE[1]))
    return photograph.crop((left, top, left + SIZE[0], top + SIZE[1]))


def _draw(picture: Image.Image, category: int, box: tuple[int, int, int, int]) -> None:
    """A ball is a red disc, a sign a yellow square with a black border."""
    canvas = ImageDraw.Draw(picture)
    if CATEGORIES[category] == "ball":
        canvas.ellipse(box, fill=(200, 40, 30))
    else:
        canvas.rectangle(box, fill=(240, 200, 40), outline=(20, 20, 20), width=6)
