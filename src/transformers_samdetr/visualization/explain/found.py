"""Detections, each with the query that it came from."""

from dataclasses import dataclass

from torch import Tensor

from .observation import Observation

LONGEST_NAME = 24
"""Letters of a name in a title; what is longer is cut."""


@dataclass(frozen=True)
class Found:
    """A detection of one picture.

    Attributes:
        query: that it came from.
        label: class.
        name: of the class.
        score: of the class.
        box: x1, y1, x2, y2 in pixels of the picture.
    """

    query: int
    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def title(self) -> str:
        """Such as `cat: 0.83`, for matplotlib."""
        return f"{plain(self.name)}: {self.score:.2f}"


def find_best(observation: Observation, detections: dict[str, Tensor], count: int) -> list[Found]:
    """The first `count` detections with their queries; a query that is detected as two classes stands there once.

    Args:
        observation: of the model that detected.
        detections: `scores`, `labels` and `boxes`, x1 y1 x2 y2 in pixels of the picture, the best first, as
            `post_process_object_detection` returns them.
        count: at most.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1.")
    found: dict[int, Found] = {}
    columns = (detections[name].tolist() for name in ("scores", "labels", "boxes"))
    for score, label, box in zip(*columns, strict=True):
        query = observation.find_query(label, box)
        found.setdefault(query, Found(query, label, observation.config.id2label[label], score, tuple(box)))
        if len(found) == count:
            break
    return list(found.values())


def plain(name: str) -> str:
    """A name for a title: short, on one line, and without the formulas that matplotlib sees between dollar signs.

    >>> plain("tie\\n$5")
    'tie \\\\$5'
    """
    name = " ".join(name.split())
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "…"
    return name.replace("$", r"\$")
