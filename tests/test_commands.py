"""The console commands and the scripts: both lead to `transformers_samdetr.commands`, and say what is missing."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from transformers_samdetr.commands import console

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "transformers_samdetr" / "commands"
COMMANDS = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "console", "data_arguments", "messages")
)
SCRIPTS = {
    "check_dataset": "check",
    "convert_original_checkpoint": "convert",
    "demo": "demo",
    "evaluate": "evaluate",
    "export": "export",
    "predict": "predict",
    "push_to_hub": "push",
    "train": "train",
}
"""Of scripts/ the commands that they call."""


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False)


def test_each_command_is_installed_under_its_name():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]\n")[1].split("\n\n")[0]
    assert project.splitlines() == [
        f'samdetr-{command} = "transformers_samdetr.commands.console:{command}"' for command in COMMANDS
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_command(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"samdetr-{command}", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        getattr(console, command)()
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: samdetr-{command} ")
    assert docstring(FOLDER / f"{command}.py") in printed and f"    samdetr-{command} " in printed


@pytest.mark.parametrize(("script", "command"), SCRIPTS.items())
def test_a_script_only_calls_its_command_with_its_own_help(script, command, monkeypatch, capsys):
    path = ROOT / "scripts" / f"{script}.py"
    text = path.read_text(encoding="utf-8")
    *imports, call = [ast.unparse(node) for node in ast.parse(text).body[1:]]
    assert imports[-1] == f"from transformers_samdetr.commands.{command} import main" and len(imports) <= 2
    assert call.startswith("if __name__ == '__main__':") and len(call.splitlines()) == 2

    monkeypatch.setattr("sys.argv", [path.name, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        exec(compile(text, path, "exec"), {"__name__": "__main__"})
    assert docstring(path) in capsys.readouterr().out
    assert docstring(path).splitlines()[0] == docstring(FOLDER / f"{command}.py").splitlines()[0]


@pytest.mark.parametrize("command", console.EXTRAS)
def test_a_missing_package_is_named_with_its_extra(command, monkeypatch):
    def import_module(name, package):
        raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")

    monkeypatch.setattr(console, "import_module", import_module)
    extra = console.EXTRAS[command]
    with pytest.raises(SystemExit, match=rf"samdetr-{command} .* accelerate, .*pip install .*samdetr\[{extra}\]"):
        console.run(command)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_fault_of_the_package_itself_is_not_taken_for_a_missing_one(monkeypatch):
    def import_module(name, package):
        raise ModuleNotFoundError("No module named 'transformers_samdetr.x'", name="transformers_samdetr.x")

    monkeypatch.setattr(console, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError):
        console.run("train")


def test_exit_codes_reach_the_shell(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers_samdetr.commands.check", importlib.import_module("types"))
    monkeypatch.setattr("types.main", lambda: 3, raising=False)
    assert console.check() == 3
