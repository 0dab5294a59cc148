"""docs/recipes.md: made by the code, with the published numbers and measured bytes."""

import csv
from pathlib import Path

import pytest

from experiments.published import PUBLISHED
from experiments.recipes_page import KEPT_BYTES, bytes_kept_for_backward, recipes_page, trained_parameters
from transformers_samdetr.training.recipes import PAPER_RECIPES

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"


def test_the_page_is_in_step_with_the_code():
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page == recipes_page(), "run: python scripts/run_experiments.py --recipes > docs/recipes.md"


@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].source == "authors' log"])
def test_numbers_of_the_authors_logs(name):
    if not (SHARED / "published_curves.csv").is_file():
        pytest.skip("the published curves are not beside the repository")
    variant = name.removeprefix("sam-detr-").replace("-50e", "_e50").replace("-", "_")
    with (SHARED / "published_curves.csv").open() as file:
        last = [row for row in csv.DictReader(file) if row["variant"] == variant][-1]
    assert int(last["parameters"]) == trained_parameters(PAPER_RECIPES[name])
    for column in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert getattr(PUBLISHED[name], column) == pytest.approx(float(last[column]), abs=0.051)


@pytest.mark.slow
def test_what_the_table_says_is_kept_for_the_backward():
    assert bytes_kept_for_backward(PAPER_RECIPES["sam-detr-r50-12e"]) == pytest.approx(
        KEPT_BYTES["sam-detr-r50"], rel=0.02
    )
