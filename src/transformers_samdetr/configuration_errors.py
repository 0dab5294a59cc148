"""What a user reads when a configuration is refused: the field, its value, and what would be right.

Transformers checks configurations with huggingface_hub's strict dataclasses, whose errors are no `ValueError` and lead
with the name of a validator. Here they become one sentence, under an exception that is both.
"""

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from functools import wraps
from typing import Any

from huggingface_hub.errors import StrictDataclassError

SIMILAR = 0.85
"""How alike a name must be to a field's, of 1, to be taken for a slip of the pen."""


class SamDetrConfigError(StrictDataclassError, ValueError):
    """No SAM-DETR can have this value; the message names the field, the value and the remedy."""


def readable_errors(cls: type) -> type:
    """Goes above `@strict`: building the class, and setting a field, raise `SamDetrConfigError`."""
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _translating(getattr(cls, name)))
    return cls


def _translating(method: Callable) -> Callable:
    @wraps(method)
    def translated(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except SamDetrConfigError:
            raise
        except StrictDataclassError as error:
            raise SamDetrConfigError(_sentence(type(self), error)) from error

    return translated


def _sentence(cls: type, error: StrictDataclassError) -> str:
    """Of a validator of ours its own message; of a wrong type, one with the type that the field has."""
    field, cause = re.search(r"for field '(\w+)'", str(error)), str(error.__cause__)
    if field is None:
        return cause
    found = re.search(r"with value (.+?) doesn't match|\(value: (.+)\)$", cause)
    value = found and (found[1] or found[2])
    return f"`{field[1]}={value}` is not possible: it must be {_kind(cls.__dataclass_fields__[field[1]].type)}."


def _kind(annotation: Any) -> str:
    """A type as one would say it.

    >>> _kind(list[int] | None)
    'list[int] or None'
    """
    kinds = getattr(annotation, "__args__", ()) if not hasattr(annotation, "__origin__") else ()
    if kinds:
        return " or ".join(_kind(kind) for kind in kinds)
    if annotation is type(None):
        return "None"
    return (
        annotation.__name__
        if isinstance(annotation, type) and not hasattr(annotation, "__origin__")
        else str(annotation)
    )


def similar_name(name: str, known: Collection[str], cutoff: float = SIMILAR) -> str | None:
    """The known name that is most like `name`, if one is enough.

    >>> similar_name("num_querys", ["num_queries", "num_keypoints"])
    'num_queries'
    """
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)
