"""docs/real_photographs.md: its recipe is the package's, its commands are understood, README repeats its figures."""

import re
from dataclasses import fields
from pathlib import Path

from transformers_samdetr.presets import PRESET_IMAGE_SIZES, PRESETS
from transformers_samdetr.training.recipes import TINY, Recipe

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "real_photographs.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its two first lines."""
    section = re.split(r"^## ", DOCUMENT.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.search(r"(^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_recipe_is_what_the_package_trains_with():
    shown = {name.strip("`"): value.strip("`") for name, value, _ in table("The recipe")}
    expected = {field.name: str(getattr(TINY, field.name)) for field in fields(Recipe)} | {
        name: str(value) for name, value in PRESETS[TINY.model].items()
    }
    expected |= {"image_size": str(TINY.image_size or PRESET_IMAGE_SIZES[TINY.model])}
    expected |= {"backbone_config": PRESETS[TINY.model]["backbone_config"]["backbone"]}
    assert shown == {name: expected.get(name) for name in shown}
    own = {field.name for field in fields(Recipe) if getattr(TINY, field.name) != getattr(Recipe(), field.name)}
    assert own - {"name"} | set(PRESETS[TINY.model]) <= set(shown), "a field that the recipe sets is not in the table"


def test_there_are_commands_for_both_sets():
    for script in ("train", "evaluate", "predict"):
        for name in ("bccd", "cards"):
            assert any(f"scripts/{script}.py" in command and f"/{name}" in command for command in COMMANDS), script


def test_the_readme_has_the_same_precision():
    figures = {name: ap for name, ap, *_ in table("Average precision")}
    (line,) = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "real_photographs.md" in line
    ]
    assert re.findall(r"AP (\d+\.\d)", line) == [figures["bccd"], figures["cards"]]


def test_the_curves_exist():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", DOCUMENT)
    assert pictures == ["images/bccd_curve.png", "images/cards_curve.png"]
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
