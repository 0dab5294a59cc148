"""The package builds, and its wheel brings all that it needs into an environment that has never seen this folder."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "transformers_samdetr"
COMMANDS = re.findall(r"^samdetr-(\w+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)

pytestmark = pytest.mark.slow


def execute(*command: str | Path, code: int = 0) -> str:
    """What the command prints; without this repository in its path, and offline."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"}
    command = [str(word) for word in command]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, cwd=Path(command[0]).parent
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel, made from the source archive beside it."""
    folder = tmp_path_factory.mktemp("dist")
    execute(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture
def install(tmp_path, wheel):
    """Installs the wheel beside the packages of a folder; returns the new environment's commands."""

    def install(packages: Path) -> Path:
        venv.create(tmp_path / "venv", with_pip=False)
        programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
        python = next(programs.glob("python*"))
        execute(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
        found = execute(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(found) / "others.pth").write_text(str(packages))
        return programs

    return install


def needed(name: str, extras: frozenset[str] = frozenset(), known: set[str] | None = None) -> set[str]:
    """Names of the installed packages that this one needs, and those need, itself included."""
    known = set() if known is None else known
    if name in known:
        return known
    known.add(name)
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras | {""}):
            try:
                distribution(requirement.name)
            except PackageNotFoundError:
                continue
            needed(requirement.name, frozenset(requirement.extras), known)
    return known


def link_packages(names: set[str], folder: Path) -> Path:
    """A folder through which these installed packages, and no others, are imported."""
    folder.mkdir()
    for name in names:
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    return folder


def test_everything_is_in_the_wheel_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    there = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert names == {name for name in there if "__pycache__" not in name}
    assert {"transformers_samdetr/py.typed", "transformers_samdetr/export/web/page.js"} <= names
    assert len(licences) == 1


def test_the_source_archive_has_tests_and_documents(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "docs/tutorial.md", "tests/commands/test_wheel.py", "scripts/train.py"} <= names
    assert not any(name.startswith((".ci", "outputs")) for name in names)


def test_twine_accepts_both(built):
    assert execute(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()).count("PASSED") == 2


def test_console_commands_answer(install):
    programs = install(Path(distribution("torch").locate_file("")))
    for command in COMMANDS:
        assert f"usage: samdetr-{command} " in execute(programs / f"samdetr-{command}", "--help")


def test_with_declared_packages_alone(install, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    declared = [Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist: ")]
    names = set().union(*(needed(one.name) for one in declared if one.marker is None))
    assert "accelerate" not in names
    programs = install(link_packages(names, tmp_path / "packages"))
    for command in COMMANDS:
        assert f"usage: samdetr-{command} " in execute(programs / f"samdetr-{command}", "--help")
    printed = execute(programs / "samdetr-check", "--data", "digits", code=2)
    assert "pip install" in printed and "Traceback" not in printed
    typed = "import transformers_samdetr as t; print(t.SamDetrConfig.from_preset('sam-detr-tiny').d_model)"
    assert execute(next(programs.glob("python*")), "-c", typed).strip().endswith("128")
