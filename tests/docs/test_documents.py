"""README and docs/: every snippet of Python runs, every command is understood, every link leads somewhere."""

import argparse
import importlib
import runpy
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from PIL import Image

from experiments.published import PUBLISHED
from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.training.recipes import PAPER_RECIPES

from ..detection_folders import write_coco
from ..models import TINY
from ..original_shapes import VARIANTS
from .documents import PAGES, ROOT, anchors, blocks, commands, links, name_of, snippets

GROUPS = [pytest.param(group, id=group[0].name) for page in PAGES for group in snippets(page)]
COMMANDS = list(dict.fromkeys(tuple(words) for page in PAGES for words in commands(page)))
LINKS = [(page, link) for page in PAGES for link in dict.fromkeys(links(page))]
REASONS = ("needs a GPU", "needs the Hub", "needs an exported file")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with what the snippets expect: a picture, data in `FOLDER`, models in `outputs`, the examples."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "examples").symlink_to(ROOT / "examples")
    torch.manual_seed(0)
    model = SamDetrForObjectDetection(SamDetrConfig(**TINY))
    with torch.no_grad():
        model.class_heads[-1].bias.fill_(1.0)  # so that the loops over detections have something to do
    model.save_pretrained(folder / "outputs" / "digits")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder / "outputs" / "digits")
    (folder / "outputs" / "photos").symlink_to(folder / "outputs" / "digits")
    (folder / "photos").mkdir()
    for name in ("picture.jpg", "photos/IMG_0001.jpg"):
        Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(folder / name)
    write_coco(folder / "FOLDER" / "labels.json", folder / "FOLDER", count=10)
    return folder


@pytest.mark.parametrize("group", GROUPS)
def test_snippet_runs(group, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict = {"__name__": "__main__"}
    for block in group:
        exec(compile(block.text, block.name, "exec"), names)
        if "print(" in block.text:
            assert capsys.readouterr().out, block.name


def test_what_is_not_run_says_why():
    notes = [block for page in PAGES for block in blocks(page) if block.note and block.language == "python"]
    assert [block.name for block in notes if block.reason is None and block.note != "goes on"] == []
    assert [block.name for block in notes if block.reason is not None and not block.reason.startswith(REASONS)] == []


class Parsed(Exception):
    """A command has understood its arguments."""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_is_understood(words, monkeypatch):
    """By its own parser; nothing is done with the arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *_):
        raise Parsed(parse(parser))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr("sys.argv", list(words))
    with pytest.raises(Parsed):
        if words[0].startswith("samdetr-"):
            importlib.import_module(f"transformers_samdetr.commands.{words[0].removeprefix('samdetr-')}").main()
        else:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{name_of(page)} {link}" for page, link in LINKS])
def test_link(page, link):
    if "://" in link:
        url = urlparse(link)  # whether it answers is not for a test
        assert url.scheme == "https" and "." in url.netloc and " " not in link
        return
    target, _, anchor = link.partition("#")
    path = (page.parent / target).resolve() if target else page
    assert path.exists(), link
    if page.parent != ROOT:
        assert path.is_relative_to(ROOT / "docs"), "the site has docs/ alone"
    if anchor:
        assert anchor in anchors(path)


def test_the_zoo_has_the_published_checkpoints():
    page = ROOT / "docs" / "zoo.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| SAM")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    assert {row[-1] for row in rows} == {f"{variant}.pth" for variant in VARIANTS} and len(rows) == 12
    conversions = {words[2]: words for words in commands(page) if words[0] == "samdetr-convert"}
    assert len(conversions) == 12
    for _, epochs, preset, ap, file in rows:
        recipe = f"{preset}-{epochs}e"
        assert float(ap) == PUBLISHED[recipe].AP and PAPER_RECIPES[recipe].model == preset
        assert conversions[file][4] == f"outputs/{recipe}"
        multi_scale = "-pp-" in preset
        assert conversions[file][5:] == ([] if multi_scale else ["--dilation" if "dc5" in preset else "--no-dilation"])
        variant = preset.removeprefix("sam-detr-").replace("pp-r50", "r50_ms").replace("-", "_")
        assert file == f"{variant}_e{epochs}.pth"
