"""docs/tutorial.md is walked: ten photographs and a JSON, then exactly its commands, in their order."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from ..photographs import COUNT, write_photographs

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [text.strip() for language, text in BLOCKS if language == "bash"]
SHOWN = [text.strip() for language, text in BLOCKS if language == "shell"]
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
CHECK_OUTPUT = BLOCKS[BLOCKS.index(("bash", f"{COMMANDS[0]}\n")) + 1][1]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """Where a new user stands: the scripts, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    write_photographs(folder / "photos")
    return folder


def start(command: str, folder: Path) -> subprocess.Popen:
    """In a group of its own, as a terminal does it; on the CPU, without the network."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a test run in the background ignores Ctrl-C, and so would this
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def execute(command: str, folder: Path) -> str:
    """What the command prints, if it succeeds."""
    with start(command, folder) as process:
        printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, f"{command}\n{printed}"
    return printed


def interrupt(command: str, folder: Path, when: Path) -> str:
    """Ctrl-C, once there is such a file; what was printed until then."""
    with start(command, folder) as process:
        deadline = time.monotonic() + 900
        while not when.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert when.is_file() and process.returncode != 0, printed
    return printed


def test_what_is_executed_and_what_is_only_shown():
    assert [re.search(r"scripts/(\w+)\.py", command)[1] for command in COMMANDS] == [
        *("check_dataset", "train", "train", "predict", "evaluate", "push_to_hub"),
    ]
    assert COMMANDS[2] == f"{COMMANDS[1]} --resume"
    assert SHOWN == ['pip install -e ".[train,quickstart]"', COMMANDS[-1].removesuffix(" --dry_run")]


def load_script(command: str, monkeypatch) -> ModuleType:
    """The command's script as a module, with its arguments in place."""
    words = shlex.split(command)
    position = next(index for index, word in enumerate(words) if word.startswith("scripts/"))
    monkeypatch.setattr("sys.argv", words[position:])
    spec = importlib.util.spec_from_file_location("script", ROOT / words[position])
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_check_prints_what_the_tutorial_shows(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    assert load_script(COMMANDS[0], monkeypatch).main() == 0
    assert capsys.readouterr().out.startswith(CHECK_OUTPUT)
    assert (workplace / "outputs" / "check.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_walk(workplace, monkeypatch):
    check, train, resume, predict, evaluate, push = COMMANDS
    outputs = workplace / "outputs"
    checked = execute(check, workplace)  # with progress bars in between
    assert [line for line in CHECK_OUTPUT.splitlines() if line not in checked] == []
    assert (outputs / "check.html").is_file()

    interrupted = interrupt(train, workplace, when=outputs / "photos" / "log.jsonl")
    # the log comes before the epoch's line
    assert "KeyboardInterrupt" in interrupted and "COCO AP on the evaluation set" not in interrupted
    resumed = execute(resume, workplace)
    assert "epoch 6/6  loss " in resumed and "COCO AP on the evaluation set: AP " in resumed
    log = [json.loads(line) for line in (outputs / "photos" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    assert (outputs / "photos" / "curve.png").is_file()

    assert f"detections in {COUNT} pictures" in execute(predict, workplace)
    assert {path.name for path in (outputs / "predictions").glob("*.jpg")} == {
        path.name for path in (workplace / "photos").glob("*.jpg")
    }
    table = execute(evaluate, workplace)
    assert "2 images, 4 objects" in table and (outputs / "report.html").is_file()
    metrics = json.loads((outputs / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    # the pictures that training held out
    assert metrics["metrics"]["AP50"] == pytest.approx(log[-1]["AP50"], abs=0.1)

    monkeypatch.chdir(workplace)
    (snippet,) = SNIPPETS
    names: dict = {}
    exec(compile(snippet, "docs/tutorial.md", "exec"), names)
    found = names["detector"]("photos/IMG_0001.jpg", threshold=0.0)
    assert found and {detection["label"] for detection in found} <= {"ball", "sign"}

    assert "Written and checked" in execute(push, workplace)
    assert "ten photographs" in (outputs / "photos" / "README.md").read_text(encoding="utf-8")


def test_the_photographs_are_photographs(workplace):
    files = sorted((workplace / "photos").glob("*.jpg"))
    assert len(files) == COUNT
    for file in files:
        with Image.open(file) as picture:
            assert picture.format == "JPEG" and len(picture.getcolors(1 << 20)) > 1000
