"""README and docs/ as tests read them: their blocks of code, commands, headings and links.

An HTML comment on the line before a block of Python says what is special about it: `<!-- goes on -->`, it uses the
names of the block before; `<!-- not run here: REASON -->`.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """Code of a page.

    Attributes:
        name: the page's and the block's number, such as `docs/data.md 2`.
        language: behind the fence.
        text: what is within the fences.
        note: of the comment before it, or empty.
    """

    name: str
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str | None:
        """Why the block is not run, or None."""
        return self.note.removeprefix("not run here: ") if self.note.startswith("not run here: ") else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        Block(f"{name_of(page)} {number}", language, text, note)
        for number, (note, language, text) in enumerate(found, start=1)
    ]


def snippets(page: Path) -> list[list[Block]]:
    """Python that runs, in groups that share their names."""
    groups: list[list[Block]] = []
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            if block.note == "goes on":
                groups[-1].append(block)
            else:
                groups.append([block])
    return groups


def commands(page: Path) -> list[list[str]]:
    """The words of each command line of ours, from the script or console command on."""
    found = []
    for block in blocks(page):
        if block.language not in ("bash", "shell"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            starts = [index for index, word in enumerate(words) if re.match(r"samdetr-\w+$|scripts/\w+\.py$", word)]
            if starts:
                found.append(words[starts[0] :])
    return found


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What headings are called in links, on GitHub as on the site."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}
