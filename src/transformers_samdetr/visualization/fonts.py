"""Fonts for class names in any script: the default one, else one of the system's, else the class is shown by number."""

import functools
import importlib.util
import os
import unicodedata
from pathlib import Path

from PIL import ImageFont, features

FONT_FOLDERS = "/usr/share/fonts /usr/local/share/fonts ~/.local/share/fonts ~/.fonts".split()
FONT_FOLDERS += "C:/Windows/Fonts ~/AppData/Local/Microsoft/Windows/Fonts".split()
FONT_FOLDERS += "/System/Library/Fonts /Library/Fonts ~/Library/Fonts".split()
PREFERRED = (
    "dejavusans notosansregular arial notosanscjk sourcehansans pingfang hiragino msyh yugoth malgun wqy".split()
)
"""Beginnings of the file names that are tried first; fonts with CJK later, since their accents are often misplaced."""
MAX_FONT_FILES = 3000
NO_CHARACTER = "\U0010ffff"
"""Has no glyph in any font: what is drawn for it is what is drawn for every missing character."""


def font_path(text: str) -> str | None:
    """The file of a font that has every character of the text; "" for Pillow's default font; None where there is none.

    Right-to-left scripts also need Pillow to be built with Raqm, which joins and orders their letters.
    """
    visible = (character for character in text if unicodedata.category(character)[0] in "LNPS")
    return _font_path(frozenset(character for character in visible if not character.isascii()))


def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of a path that `font_path` returned, so many pixels high."""
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def shorten(name: str, length: int) -> str:
    """The name on one line, composed (NFC), cut to so many characters.

    >>> shorten("a very\\n long name", 8)
    'a very…'
    """
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


@functools.cache
def _font_path(characters: frozenset[str]) -> str | None:
    right_to_left = any(unicodedata.bidirectional(character) in ("R", "AL") for character in characters)
    if right_to_left and not features.check("raqm"):
        return None
    for path in ("", *_font_files()):
        try:
            font = load_font(path, 20)
        except OSError:  # no font that FreeType reads
            continue
        masks = [font.getmask(character, "1") for character in (NO_CHARACTER, *characters)]
        missing, *glyphs = ((mask.size, bytes(mask)) for mask in masks)
        if missing not in glyphs:
            return path
    return None


@functools.cache
def _font_files() -> tuple[str, ...]:
    """Font files of the system and of matplotlib, the preferred first."""
    found = []
    for folder in FONT_FOLDERS:
        for parent, _, files in os.walk(os.path.expanduser(folder)):
            fonts = (name for name in files if name.lower().endswith((".ttf", ".otf", ".ttc")))
            found += [os.path.join(parent, name) for name in fonts if not name.startswith("LastResort")]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        found.append(os.path.join(os.path.dirname(matplotlib.origin), "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"))

    def rank(path: str) -> tuple:
        stem = Path(path).stem.casefold().replace("-", "").replace(" ", "")
        order = next((index for index, start in enumerate(PREFERRED) if stem.startswith(start)), len(PREFERRED))
        return order, "regular" not in stem, len(stem), path

    return tuple(sorted(found, key=rank)[:MAX_FONT_FILES])
