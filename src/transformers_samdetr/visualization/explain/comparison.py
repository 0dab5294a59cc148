"""The same object in the eyes of several models."""

from collections.abc import Sequence

from .found import Found, plain
from .observation import Observation


def same_object(
    observations: Sequence[Observation], model_names: Sequence[str], found: Found
) -> tuple[list[int], list[str]]:
    """For each model the query that is most like a detection of the first one, and a title with its score.

    Args:
        observations: of the same picture; `found` is of the first.
        model_names: of each model.
        found: the detection.

    Returns:
        What `attention_figure` takes.
    """
    queries, titles = [found.query], [f"{plain(model_names[0])} – {found.title}"]
    for one, model_name in zip(observations[1:], model_names[1:], strict=True):
        label = one.config.label2id.get(found.name)
        queries.append(one.find_query(label, found.box))
        score = "not one of its classes" if label is None else f"{one.scores(label)[-1, queries[-1]]:.2f}"
        titles.append(f"{plain(model_name)} – {plain(found.name)}: {score}")
    return queries, titles
