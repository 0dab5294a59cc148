"""Transformers' own common tests, run on the models of this package.

They are no part of the installed package, only of its source distribution. `load("test_modeling_common")` gives such a
module from the source tree of the installed version: `TRANSFORMERS_SOURCE`, or the sdist of PyPI, downloaded once into
`.cache/`. `reference.py` runs them on Transformers' Conditional DETR, for comparison.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
import warnings
from pathlib import Path
from unittest import mock

import pytest
import transformers
from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache"
PACKAGE = "transformers_source_tests"  # the source tree calls it `tests`, as this folder's parent is called


class SuiteUnavailable(unittest.SkipTest):
    """Something is missing; raised while a test module is imported, it skips the module and tells the reason."""


def find_source() -> Path:
    """The source tree of the installed Transformers; downloads it where `TRANSFORMERS_SOURCE` names none.

    Raises:
        SuiteUnavailable: no such tree; the message says how to get one.
    """
    version = transformers.__version__
    named = os.environ.get("TRANSFORMERS_SOURCE")
    source = Path(named) if named else CACHE / f"transformers-{version}"
    if not named and not source.is_dir():
        _download(version)
    if not (source / "tests" / "test_modeling_common.py").is_file():
        raise SuiteUnavailable(f"{source} is no source tree of Transformers: it has no tests/test_modeling_common.py")
    if f'__version__ = "{version}"' not in (source / "src" / "transformers" / "__init__.py").read_text("utf-8"):
        raise SuiteUnavailable(f"{source} is not Transformers {version}, the installed version")
    return source


def _download(version: str):
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "transformers.lock"), tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if (CACHE / f"transformers-{version}").is_dir():
            return  # another process was faster
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        command += ["--dest", folder, f"transformers=={version}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            last_line = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
            raise SuiteUnavailable(
                "Transformers' tests are only in its source distribution, which could not be downloaded "
                f"({last_line}). Where there is a network, run `pip download --no-deps --no-binary transformers "
                f"transformers=={version}`, unpack it and set TRANSFORMERS_SOURCE to the folder with `tests/` in it."
            ) from None
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        (Path(folder) / f"transformers-{version}").rename(CACHE / f"transformers-{version}")


def load(name: str) -> types.ModuleType:
    """A module of the source tree's `tests/`, such as `"test_modeling_common"`.

    Raises:
        SuiteUnavailable: the source tree or `parameterized` is missing; the message says how to get it.
    """
    if importlib.util.find_spec("parameterized") is None:
        raise SuiteUnavailable("Transformers' tests need `pip install parameterized`")
    if PACKAGE not in sys.modules:
        _install_package(find_source() / "tests")
    with tempfile.TemporaryDirectory() as folder:
        # the pipeline tests read a list of the tiny models on the Hub, which is not distributed: here it is empty
        (Path(folder) / "reports").mkdir()
        (Path(folder) / "reports" / "tiny_model_summary.json").write_text(json.dumps({}))
        with (
            warnings.catch_warnings(),
            mock.patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=folder),
            # they would import Transformers a second time, from the source tree
            mock.patch.object(transformers.utils, "direct_transformers_import", lambda path: transformers),
        ):
            warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # their marks are not registered here
            return importlib.import_module(f"{PACKAGE}.{name}")


def _install_package(folder: Path):
    """Makes `folder` a package of a name of its own, with stubs for the helpers that are not distributed."""
    package = types.ModuleType(PACKAGE, "The tests of Transformers' source distribution.")
    package.__path__ = [str(folder)]
    modules = {
        PACKAGE: package,
        # mixins with tests of the exporters and of `generate`
        f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        # fields that any configuration takes; read for configurations without a sub-configuration only
        f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": {}},
        # utils/ of the repository: a cache of the Hub's pictures
        "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
    }
    for name, content in modules.items():
        parent = name.rpartition(".")[0]
        if parent and parent != PACKAGE:
            sys.modules.setdefault(parent, types.ModuleType(parent))
        if isinstance(content, dict):
            content, fields = types.ModuleType(name), content
            vars(content).update(fields)
        sys.modules.setdefault(name, content)
