"""Web pages that need no other file and no network: templates, and pictures as text."""

import base64
import io
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image, ImageOps


def write_page(
    path: str | Path,
    package: str,
    template: str,
    values: Mapping[str, Any],
    filters: Mapping[str, Callable] | None = None,
) -> None:
    """Fills a template, a file in the folder of a package by its dotted name, and writes the page.

    The template may include `page_style.css`, which all pages share, and name `date`, that of today; a name that is
    missing in `values` is an error, not a gap. `filters` are the template's own, by name.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(folder, ".") for folder in (package, __package__)]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    page = environment.get_template(template).render(values, date=datetime.now().strftime("%Y-%m-%d %H:%M"))
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def picture_url(image: Image.Image, quality: int, longest_side: int | None = None) -> str:
    """The picture as a JPEG within the page, made smaller if one of its sides is longer than `longest_side` pixels."""
    if longest_side is not None and max(image.size) > longest_side:
        image = ImageOps.contain(image, (longest_side, longest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return data_url(buffer.getvalue(), "jpeg")


def data_url(content: bytes, kind: str) -> str:
    """An image file within the page.

    >>> data_url(b"abc", "png")
    'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
