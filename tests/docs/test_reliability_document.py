"""docs/reliability.md: the tests that it names exist, and every target that is fuzzed is counted."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@functools.cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len({test for _, test in named}) > 30
    missing = [f"{file}::{test}" for file, test in named if test and test not in functions(ROOT / file)]
    assert not missing and all((ROOT / file).is_file() for file, _ in named)


def test_every_promise_has_a_test():
    promises = [line for part in TEXT.split("| promise |")[1:] for line in part.split("\n\n")[0].splitlines()[2:]]
    assert len(promises) > 25 and all("::test_" in line for line in promises)


def test_the_cases_that_are_counted_are_those_that_run():
    documented = {target: int(count) for target, count in re.findall(r"^\| ([\w, ]+) \| (\d+) \|", TEXT, re.MULTILINE)}
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for many, target in re.findall(r"@fuzz\([^)]*many=(\d+)\).*?run_cases\(\s*\"([^\"]+)\"", text, re.DOTALL):
            found[target] = int(many) * (2 if target.startswith("image processor") else 1)
    assert documented == found and sum(found.values()) > 2000


def test_the_security_page_speaks_of_what_there_is():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    from transformers_samdetr import pictures

    assert pictures.MOST_BYTES == 2**30 and "1 GiB" in text and "EPS" not in pictures.PICTURE_FORMATS
