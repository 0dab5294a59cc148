"""Reads docstrings for the site as Transformers' `auto_docstring` completes them when the package is imported.

The site is built from the text of the files, which is quick and imports nothing. There the fields of such a docstring
stand without their heading, a class's introduction is an argument of the decorator, and [`name`] is a reference.
"""

import ast
import re
from textwrap import dedent, indent

from griffe import Class, Docstring, Extension, Function

FIELD = re.compile(r"^( *[\w, ]+ )(\(`.*?\):)", flags=re.MULTILINE)
"""Such as "smca (`bool`, *optional*, defaults to `False`):"."""


class AutoDocstrings(Extension):
    """Completes classes and functions with that decorator."""

    def on_class(self, *, cls: Class, **_: object) -> None:
        self._complete(cls)

    def on_function(self, *, func: Function, **_: object) -> None:
        self._complete(func)

    def _complete(self, thing: Class | Function) -> None:
        calls = [str(one.value) for one in thing.decorators if str(one.value).startswith("auto_docstring")]
        text = thing.docstring.value if thing.docstring else ""
        if calls:
            text = f"{introduction(calls[0])}\n\n{with_heading(text)}".strip()
        text = FIELD.sub(lambda field: field[1] + re.sub("[`*]", "", field[2]), text)
        text = re.sub(r"\[(`[^`\n]+`)\](?![\[(])", r"\1", text)
        if text and (thing.docstring is None or text != thing.docstring.value):
            thing.docstring = Docstring(text, parent=thing)


def introduction(call: str) -> str:
    """What the decorator is told to begin with, or nothing."""
    node = ast.parse(call, mode="eval").body
    found = [word.value for word in getattr(node, "keywords", []) if word.arg == "custom_intro"]
    return dedent(ast.literal_eval(found[0])).strip() if found else ""


def with_heading(text: str) -> str:
    """The docstring with `Args:` above its fields and these indented, unless it has that already."""
    if not FIELD.match(text):
        return text
    rest = re.search(r"^(?:Returns|Raises|Example|Examples):?", text, flags=re.MULTILINE)
    fields, after = (text[: rest.start()], text[rest.start() :]) if rest else (text, "")
    return f"Args:\n{indent(fields.strip(), '    ')}\n\n{after}"
