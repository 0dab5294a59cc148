"""What a model looked at, as figures (the paper's Fig. 5 and more): `observe` a picture, then draw.

    observation = observe(model, processor, image)
    found = find_best(observation, detections, count=3)
    explanation_figure(observation, found).savefig("why.png", dpi=150)

Needs the extra `explain`.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("Figures are drawn by matplotlib: pip install 'transformers-samdetr[explain]'") from error

from .alignment import alignment_figure
from .attention import attention_figure
from .box_path import box_path_figure
from .comparison import same_object
from .drawing import figure_to_picture
from .found import Found, find_best
from .matches import draw_matches
from .noise import Denoised, denoise, denoising_figure
from .observation import Observation, observe
from .overview import explanation_figure
from .training_batch import batch_pictures

__all__ = [
    "Denoised",
    "Found",
    "Observation",
    "alignment_figure",
    "attention_figure",
    "batch_pictures",
    "box_path_figure",
    "denoise",
    "denoising_figure",
    "draw_matches",
    "explanation_figure",
    "figure_to_picture",
    "find_best",
    "observe",
    "same_object",
]
