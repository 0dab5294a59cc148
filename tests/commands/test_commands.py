"""The console commands and the scripts that call them: help, mistakes, what is missing, and how soon they answer."""

import ast
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_samdetr.commands import check
from transformers_samdetr.commands.messages import PACKAGES_OF_TRAIN

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src" / "transformers_samdetr" / "commands"
COMMANDS = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "data_arguments", "messages")
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
        f'samdetr-{command} = "transformers_samdetr.commands.{command}:main"' for command in COMMANDS
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_command(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"samdetr-{command}", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        importlib.import_module(f"transformers_samdetr.commands.{command}").main()
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


MISTAKES = {
    "check": {
        "--data ./nowhere/set": "neither a folder nor a Hub name",
        "--data sets": "did you mean set?",
        "--data digist": "did you mean digits?",
        "--augmented": "needs --report",
        "--augmented storng": "Did you mean strong?",
        "--dtaa digits": "Did you mean --data?",
    },
    "convert": {
        "--checkpoint flie.txt --output_dir out": "did you mean file.txt?",
        "--output_dir out": "required: --checkpoint",
        "--checkpoint file.txt --output_dir out --dilatoin": "Did you mean --dilation?",
        "--checkpoint file.txt --output_dir out": "file.txt",
        "--checkpoint set --output_dir out": "set is a folder: give a file",
    },
    "demo": {"--model modle": "did you mean model?", "--model model --prot 1": "Did you mean --port?"},
    "evaluate": {
        "--model modle --data digits": "did you mean model?",
        "--model model --data ./nowhere/set": "neither a folder nor a Hub name",
        "--model model": "required: --data",
        "--model model --data digits --reprot a": "Did you mean --report?",
    },
    "export": {
        "--model modle --output a.onnx": "did you mean model?",
        "--model model": "required: --output",
        "--model model --output a.onnx --fromat onnx": "Did you mean --format?",
    },
    "predict": {
        "picture.png --model modle --output_dir out": "did you mean model?",
        "picture.png --model run --output_dir out": "training has saved run/checkpoints/step-000000020",
        "picture.png --model set --output_dir out": "holds no saved model",
        "picture.png --model file.txt --output_dir out": "is a file",
        "picture.png --output_dir out": "required: --model",
        "picture.png --model model --output_dir out --treshold 0.3": "Did you mean --threshold?",
        "picture.png --model model --output_dir out --formats cvs": "Did you mean csv?",
    },
    "push": {
        "--model modle --repo_id me/model": "did you mean model?",
        "--model model": "required: --repo_id",
        "--model model --repo_id me/model! --dry_run": "Repo id must use alphanumeric chars",
        "--model model --repo_id me/model --lisence mit": "Did you mean --licence?",
    },
    "train": {
        "--output_dir out --data ./nowhere/set": "neither a folder nor a Hub name",
        "--output_dir out --schedule linear": "choose one of 'step', 'cosine'",
        "--output_dir out --model yolov8": "presets are sam-detr-r50,",
        "--output_dir out --model sam-dert-tiny": "did you mean sam-detr-tiny?",
        "--output_dir out --model modle": "did you mean model?",
        "--output_dir run": "add --resume, or give another --output_dir",
        "--output_dir file.txt": "is a file: give a folder",
        "--output_dir out --resume run/checkpoints/step-30": "is no folder of a checkpoint",
        "--output_dir out --epohcs 3": "Did you mean --epochs?",
        "--output_dir out --recipe tniy": "Did you mean tiny?",
        "--output_dir out --epochs few": "invalid int value: 'few'",
        "--output_dir out --image_size big": "invalid int value: 'big'",
        "--output_dir out --metric mAP": "choose one of AP, AP50,",
        "--output_dir out --model_overrides {num_queries:3}": "give a JSON object in quotes, such as",
        "--output_dir out --model_overrides 5": "give a JSON object in quotes",
        "--output_dir out --sampling often": "choose one of 'uniform', 'balanced'",
        "": "required: --output_dir",
    },
}
"""Of each command arguments with a mistake, and what the error must say."""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a model's configuration, an unfinished run, a data set's folder and a file."""
    for name in (
        "model/config.json",
        "run/checkpoints/step-000000020/config.json",
        "run/checkpoints/step-000000020/model.safetensors",
        "set/nothing",
        "file.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "arguments"), [(name, words) for name in MISTAKES for words in MISTAKES[name]])
def test_a_mistake_is_answered_in_one_line(command, arguments, work, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"samdetr-{command}", *arguments.split()])
    with pytest.raises(SystemExit, match="^2$"):
        importlib.import_module(f"transformers_samdetr.commands.{command}").main()
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"samdetr-{command}: error: ") and MISTAKES[command][arguments] in line
    assert not printed.out


def test_every_command_has_its_mistakes_tested():
    assert list(MISTAKES) == COMMANDS


def failing(error, monkeypatch, *options):
    """Runs `samdetr-check` where loading the data raises the error."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("transformers_samdetr.commands.check.data_from", fail)
    monkeypatch.setattr("sys.argv", ["samdetr-check", *options])
    check.main()


def test_debug_shows_the_traceback(monkeypatch):
    with pytest.raises(ValueError, match="two"):
        failing(ValueError("one\n  two"), monkeypatch, "--debug")


def test_an_error_of_several_lines_is_printed_as_one(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        failing(ValueError("one\n  two"), monkeypatch)
    assert capsys.readouterr().err == "samdetr-check: error: one two\n"


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        failing(ModuleNotFoundError("No module named 'accelerate'", name="accelerate"), monkeypatch)
    assert 'accelerate is not installed: pip install "transformers-samdetr[train]"' in capsys.readouterr().err
    extra = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\ntrain = [\n")[1].split("]")[0]
    assert tuple(re.findall(r'"([\w-]+)>', extra)) == PACKAGES_OF_TRAIN


def test_a_missing_module_of_the_package_itself_is_raised(monkeypatch):
    with pytest.raises(ModuleNotFoundError):
        failing(
            ModuleNotFoundError("No module named 'transformers_samdetr.x'", name="transformers_samdetr.x"), monkeypatch
        )


HEAVY = {"torch", "transformers", "numpy", "datasets", "matplotlib"}


def answer(code: str, *arguments: str) -> str:
    """What a new process prints, in which `code` runs `arguments` and none of the heavy packages may be imported."""
    code = (
        f"import runpy, sys; sys.argv = {list(arguments)!r}\n"
        f"try: {code}\n"
        "except SystemExit as error: print('exit', error.code)\n"
        f"print('heavy', *({HEAVY} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("heavy\n"), done.stdout[-100:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_nothing_expensive_for_its_help(command):
    start = f"runpy.run_module('transformers_samdetr.commands.{command}', run_name='__main__')"
    assert "exit 0" in answer(start, f"samdetr-{command}", "--help")


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_imports_nothing_expensive_for_its_help_or_a_mistake(script):
    start = f"sys.path.insert(0, 'scripts'); runpy.run_path({str(script)!r}, run_name='__main__')"
    assert "exit 0" in answer(start, str(script), "--help")
    assert "exit 2" in answer(start, str(script), "--no_such_option")


def test_choices_repeat_those_of_the_laboratory():
    from benchmarks.bars import BARS
    from experiments import coco, definitions, digit_signs, overfit, runs

    scripts = {name: runpy.run_path(str(ROOT / "scripts" / f"{name}.py")) for name in ("benchmark", "overfit", "signs")}
    assert [scripts["benchmark"]["BARS"], scripts["overfit"]["VARIANTS"], scripts["signs"]["RUNS"]] == [
        *map(tuple, (BARS, overfit.VARIANTS, digit_signs.RUNS))
    ]
    script = runpy.run_path(str(ROOT / "scripts" / "run_experiments.py"))
    assert (script["SUITES"], script["SEEDS"]) == (tuple(definitions.SUITES), definitions.SEEDS)
    assert (script["PROCESSES"], script["LEDGER"]) == (coco.PROCESSES, runs.LEDGER)


REGISTERED = (
    "from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection\n"
    "import transformers_samdetr\n"
    "config = AutoConfig.for_model('sam_detr')\n"
    "assert type(config) is transformers_samdetr.SamDetrConfig\n"
    "model = AutoModelForObjectDetection._model_mapping[type(config)]\n"
    "assert model is transformers_samdetr.SamDetrForObjectDetection\n"
)


@pytest.mark.parametrize(
    "first",
    [
        "import sys, transformers_samdetr; assert 'torch' not in sys.modules",
        "import transformers, transformers_samdetr",
        "import importlib.util, transformers_samdetr; importlib.util.find_spec('transformers')",
        "from transformers_samdetr.modeling_sam_detr import SamDetrModel",
        "from transformers_samdetr.operations import reference_operations",
        "from transformers_samdetr import *",
        "from transformers_samdetr.commands.messages import CommandParser as P\nwith P(None).plain_messages(): pass",
    ],
)
def test_the_auto_classes_are_registered_whatever_is_imported_first(first):
    subprocess.run([sys.executable, "-c", f"{first}\n{REGISTERED}"], check=True)
