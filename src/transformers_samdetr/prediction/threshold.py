"""From which score on a detection is shown, where the user does not say."""

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig

DEFAULT_THRESHOLD = 0.3
"""For models that were saved without a threshold of their own. Focal loss keeps scores low: on the sets of
docs/real_photographs.md F1 is highest from 0.25 and 0.36 on, and half of the right boxes stay below 0.5."""


@dataclass(frozen=True)
class Threshold:
    """A score, and why it was chosen, as words for the user."""

    value: float
    reason: str

    def __str__(self) -> str:
        return f"Scores above {self.value:g}: {self.reason}."


def choose_threshold(config: PreTrainedConfig, given: float | None = None) -> Threshold:
    """What the user asks for, else what training found to be best and saved with the model, else a default.

    Args:
        config: of the model; `detection_threshold`, where it is there, is the score from which on detections of the
            evaluation set had the highest F1 (see `EvaluationResult.best_threshold`).
        given: by the user, or None.

    Raises:
        ValueError: `given` is not between 0 and 1.

    >>> str(choose_threshold(PreTrainedConfig(detection_threshold=0.36)))
    'Scores above 0.36: the best F1 on the set that the model was evaluated on in training.'
    """
    if given is not None:
        if not 0 <= given <= 1:
            raise ValueError(f"threshold={given} must be between 0 and 1.")
        return Threshold(given, "as asked for")
    saved = getattr(config, "detection_threshold", None)
    if isinstance(saved, (int, float)) and math.isfinite(saved) and 0 <= saved < 1:
        return Threshold(float(saved), "the best F1 on the set that the model was evaluated on in training")
    return Threshold(DEFAULT_THRESHOLD, "the default, since the model was saved without a threshold of its own")
