"""The examples in docstrings of `scripts/`, which pytest does not collect by itself."""

import doctest
import importlib
import pkgutil

import pytest

import benchmarks
import experiments

MODULES = sorted(
    module.name
    for package in (benchmarks, experiments)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
