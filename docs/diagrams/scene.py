"""The picture that the diagrams are about, a feature map of it, a reference box and its salient points.

The features are the mean colours of cells, so that a reader sees what is sampled. All that is computed from them,
region features, samples and attention, is computed as the model does, without learned weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torchvision.ops import roi_align

from transformers_samdetr.geometry import embed_points

WIDTH, HEIGHT, STRIDE = 480, 352, 16
"""Of the picture, and of a cell of the map, in pixels."""
BOX = (0.39, 0.43, 0.42, 0.72)
"""Center x, center y, width, height, in [0, 1] of the picture."""
OFFSETS = (
    (-0.55, -0.62),
    (0.0, -0.78),
    (0.52, -0.55),
    (-0.62, -0.12),
    (0.05, -0.2),
    (0.6, -0.05),
    (0.02, 0.84),
    (0.0, 0.28),
)
"""Salient points (x, y), -1 and 1 being the sides of the box: one for each head."""
CHANNELS = 32
"""Of the sine embedding that is shown; the paper's models have 256."""


@dataclass(frozen=True)
class Scene:
    """
    Attributes:
        picture: `(HEIGHT, WIDTH, 3)` in [0, 1].
        features: F, `(H, W, 3)`.
        regions: R, `(7, 7, 3)`, RoIAlign of the box.
        points: `(8, 2)` salient points in [0, 1] of the picture.
        sampled: `(8, 3)`, features at the points, from R.
        positions: `(8, CHANNELS)`, sine embeddings of the points.
    """

    picture: np.ndarray
    features: np.ndarray
    regions: np.ndarray
    points: np.ndarray
    sampled: np.ndarray
    positions: np.ndarray

    def logits(self, head: int) -> np.ndarray:
        """`(H, W)`: how well each cell matches the query of head `head`, in content (colours) and in position."""
        mean, (height, width) = self.features.mean((0, 1)), self.features.shape[:2]
        keys, query = self.features - mean, self.sampled[head] - mean
        lengths = np.maximum(np.linalg.norm(keys, axis=-1) * np.linalg.norm(query), 0.02)
        rows, columns = np.mgrid[:height, :width] + 0.5
        cells = embed_points(
            torch.tensor(np.stack([columns / width, rows / height], -1), dtype=torch.float32), CHANNELS
        )
        return 6 * (keys @ query) / lengths + cells.numpy() @ self.positions[head]

    def bias(self, head: int, scales: tuple[float, float]) -> np.ndarray:
        """`(H, W)`: SMCA's Gaussian around the head's point, with scales (x, y)."""
        height, width = self.features.shape[:2]
        x, y = self.points[head] * (width, height)
        columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
        return -((scales[0] * (x - columns[None])) ** 2 + (scales[1] * (y - rows[:, None])) ** 2) / 8


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def make_scene() -> Scene:
    picture = np.asarray(_draw(), dtype=np.float32) / 255
    cells = picture.reshape(HEIGHT // STRIDE, STRIDE, WIDTH // STRIDE, STRIDE, 3)
    features = torch.from_numpy(cells.mean((1, 3)))
    center, size = np.array(BOX[:2]), np.array(BOX[2:])
    offsets = torch.tensor(OFFSETS)
    points = center + size / 2 * offsets.numpy()
    cells_wide_tall = np.array([WIDTH, HEIGHT]) // STRIDE
    box = np.concatenate([(center - size / 2) * cells_wide_tall, (center + size / 2) * cells_wide_tall])
    maps = features.permute(2, 0, 1)[None]
    boxes = torch.tensor(box, dtype=torch.float32)[None]
    regions = roi_align(maps, [boxes], output_size=7, sampling_ratio=-1, aligned=True)
    sampled = torch.nn.functional.grid_sample(regions, offsets[None, None], align_corners=False)[0, :, 0].T
    positions = embed_points(torch.tensor(points, dtype=torch.float32), CHANNELS)
    return Scene(
        picture, features.numpy(), regions[0].permute(1, 2, 0).numpy(), points, sampled.numpy(), positions.numpy()
    )


def corners() -> tuple[float, float, float, float]:
    """x1, y1, width, height of the box, in [0, 1] of the picture."""
    x, y, width, height = BOX
    return x - width / 2, y - height / 2, width, height


def _draw(scale: int = 4) -> Image.Image:
    """A balloon over hills, drawn larger and reduced, for smooth edges."""
    w, h = WIDTH * scale, HEIGHT * scale
    rows = np.linspace(0, 1, h)[:, None, None]
    sky = (1 - rows) * np.array([120, 178, 226]) + rows * np.array([236, 240, 236])
    picture = Image.fromarray(np.broadcast_to(sky, (h, w, 3)).astype(np.uint8).copy())
    canvas = ImageDraw.Draw(picture)

    def ellipse(x, y, rx, ry, fill):
        canvas.ellipse([(x - rx) * scale, (y - ry) * scale, (x + rx) * scale, (y + ry) * scale], fill=fill)

    for x, y, r in ((350, 70, 26), (385, 62, 34), (420, 74, 24), (60, 112, 20), (86, 104, 26), (110, 114, 18)):
        ellipse(x, y, r, r * 0.62, (250, 251, 252))
    ellipse(380, 420, 260, 150, (116, 158, 92))
    ellipse(90, 430, 240, 140, (88, 136, 80))
    for x, y in ((330, 268), (362, 262), (440, 284)):
        ellipse(x, y, 13, 20, (52, 98, 62))
        canvas.rectangle([(x - 2) * scale, (y + 16) * scale, (x + 2) * scale, (y + 30) * scale], fill=(92, 70, 50))
    _balloon(canvas, ellipse, scale)
    return picture.filter(ImageFilter.GaussianBlur(scale / 3)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _balloon(canvas: ImageDraw.ImageDraw, ellipse, scale: int) -> None:
    x, y = 187, 122
    for ratio, fill in ((1.0, (198, 52, 44)), (0.68, (244, 196, 66)), (0.36, (198, 52, 44)), (0.08, (244, 196, 66))):
        ellipse(x, y, 84 * ratio, 92, fill)
    neck = [(x - 54, y + 70), (x + 54, y + 70), (x + 16, y + 118), (x - 16, y + 118)]
    canvas.polygon([(a * scale, b * scale) for a, b in neck], fill=(166, 40, 38))
    for side in (-1, 1):
        canvas.line([(x + 14 * side) * scale, (y + 116) * scale, (x + 11 * side) * scale, (y + 136) * scale],
            fill=(70, 52, 40), width=scale * 2)  # fmt: skip
    canvas.rectangle([(x - 14) * scale, (y + 134) * scale, (x + 14) * scale, (y + 154) * scale], fill=(112, 74, 44))
