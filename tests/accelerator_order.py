"""`python -m pytest -m accelerator tests` where a GPU is lent for minutes: what has never run on one comes first.

Only files with such tests are read; after `ACCELERATOR_SECONDS` (240) a test is ended, and the rest left out.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BEGAN = time.monotonic()
SECONDS = float(os.environ.get("ACCELERATOR_SECONDS", 240))
LIMIT = 0.4 * SECONDS
"""Seconds of one test."""
MARKS = ("NEEDS_GPU", "DEVICES")
"""Of `tests/models.py`: a file of tests for GPUs names one of them."""
FIRST = (
    "test_compiled_code_computes_the_same",
    "test_a_captured_graph_computes_the_same",
    "test_training_learns_and_its_model_loads",
    "test_a_step_is_the_same_each_time",
    "test_pipeline_and_detector_take_the_gpu",
    "test_the_image_processor_works_on_the_gpu",
    "test_works_are_measured",
    "test_a_model_of_ordinary_size",
)
LAST = (
    "test_half_precision_has_nearly_the_same_loss",
    "test_nothing_in_the_forward_waits",
    "test_every_implementation_of_attention",
    "test_the_authors_numbers",
    "test_numbers_of_every_variant",
)
"""These have passed on a GPU; the last ones take long."""


def rank(name: str) -> int:
    """Where a test comes: the first ones, then those in neither list, then the last ones."""
    for place, start in enumerate(FIRST):
        if name.startswith(start):
            return place - len(FIRST)
    return next((place for place, start in enumerate(LAST, 1) if name.startswith(start)), 0)


def is_wanted(config: pytest.Config) -> bool:
    return config.getoption("markexpr", "") == "accelerator"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Others may import what is not there, and take most of a minute."""
    if not is_wanted(config) or collection_path.suffix != ".py" or collection_path.name == "__init__.py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(mark in text for mark in MARKS) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_wanted(config):
        items.sort(key=lambda item: rank(item.name))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if is_wanted(item.config) and item.config.pluginmanager.hasplugin("timeout"):
        left = SECONDS - (time.monotonic() - BEGAN)
        item.add_marker(pytest.mark.timeout(max(1, min(LIMIT, left))))
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_wanted(item.config) and time.monotonic() - BEGAN > SECONDS:
        pytest.skip(f"the {SECONDS:.0f} s of ACCELERATOR_SECONDS are over")
