"""Which pictures are for training and which for evaluation."""

import hashlib
import re
from collections.abc import Iterable, Sequence

TRAIN = ("train", "training", "trainval")
EVALUATION = ("validation", "val", "valid", "dev", "eval", "test", "testing")
HELD_OUT = 0.2
MOST_HELD_OUT = 5000


def choose_splits(
    available: Iterable[str], train_split: str | None, eval_split: str | None, source: str
) -> tuple[str, str | None]:
    """Names of the training and the evaluation split; None where the latter has to be split off.

    Args:
        available: names of the splits that there are.
        train_split, eval_split: what the user asks for, or None.
        source: named in errors.

    >>> choose_splits(["train2017", "val2017", "test2017"], None, None, "coco")
    ('train2017', 'val2017')

    Raises:
        ValueError: there is no such split, both are the same, or none is for training.
    """
    available = list(available)
    for option, split in (("train_split", train_split), ("eval_split", eval_split)):
        if split is not None and split not in available:
            raise ValueError(f"{source} has no split {split!r} for {option}; it has {', '.join(available) or 'none'}.")
    train = train_split or _first(available, TRAIN, other_than=eval_split)
    if train is None and len(available) == 1:
        train = available[0]
    if train is None or train == eval_split:
        raise ValueError(
            f"{source} has the splits {', '.join(available) or '(none)'}: say with train_split which of them is for "
            "training, and with eval_split which other one for evaluation."
        )
    return train, eval_split or _first(available, EVALUATION, other_than=train)


def _first(available: Sequence[str], names: tuple[str, ...], other_than: str | None) -> str | None:
    plain = {re.sub(r"\d+$", "", split).lower(): split for split in available if split != other_than}
    return next((plain[name] for name in names if name in plain), None)


def hold_out(keys: Sequence[object], source: str) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to evaluate on, a fifth of all and at most 5000, where a set has no split for it.

    A picture's side depends on its key, not on a seed, so that training and every later evaluation agree on it, and
    little on the other pictures, so that those added later move few.

    Args:
        keys: of the pictures, such as their names.
        source: named in errors.

    >>> hold_out(["a", "b", "c", "d", "e"], source="letters")
    ([0, 1, 2, 4], [3])

    Raises:
        ValueError: there are fewer than two pictures.
    """
    if len(keys) < 2:
        raise ValueError(
            f"{source} has {len(keys)} images: at least one to train on and one to evaluate on are needed."
        )
    count = min(max(1, round(HELD_OUT * len(keys))), MOST_HELD_OUT)
    rank = sorted(range(len(keys)), key=lambda row: hashlib.sha256(str(keys[row]).encode()).digest())
    evaluation = sorted(rank[:count])
    return sorted(rank[count:]), evaluation
