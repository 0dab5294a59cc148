"""The demo's page in a real browser without a network: upload, sliders, explanation, example, bad input."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor

from .. import browser as browsers
from ..browser import chromium, needs_chromium, webdriver
from ..models import TINY
from ..processes import free_port

pytest.importorskip("gradio", reason="Gradio, of the extra `demo`, is not installed")

pytestmark = [pytest.mark.slow, needs_chromium]
ROOT = Path(__file__).parents[2]
SHOTS = os.environ.get("DEMO_SCREENSHOTS")
"""A folder to keep screenshots in, to be looked at."""
MODEL = os.environ.get("DEMO_MODEL")
"""A trained model to show on them."""
EXAMPLES = os.environ.get("DEMO_EXAMPLES", "").split()
"""Pictures for it."""
WAIT = 60


def save_model(folder, seed=0, **fields):
    torch.manual_seed(seed)
    SamDetrForObjectDetection(SamDetrConfig(**{**TINY, **fields})).save_pretrained(folder)
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and pictures, or what the environment names."""
    folder = tmp_path_factory.mktemp("demo")
    save_model(folder / "tiny model")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((320 + 40 * index, 240), Image.Resampling.BICUBIC)
        picture.save(folder / f"picture {index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    picture.convert("RGB").save(folder / "torn.jpg")
    (folder / "torn.jpg").write_bytes((folder / "torn.jpg").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def address(place):
    """Of a demo in a process of its own."""
    port = free_port()
    script = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--model", MODEL or str(place / "tiny model")]
    script += ["--port", str(port), "--device", "cpu", "--examples", *(EXAMPLES or [str(place / "picture 1.png")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path]), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(2 * WAIT):
            assert process.poll() is None, process.stdout.read()
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def browser(address, tmp_path):
    with chromium(tmp_path / "profile", "--window-size=1400,1250", downloads=tmp_path / "downloads") as driver:
        driver.get(address)
        wait(lambda: driver.find_elements("css selector", "#file input[type=file]"), "the page")
        yield driver


def wait(condition, what: str):
    return browsers.wait(condition, what, WAIT)


def text_of(browser, selector: str) -> str:
    return " ".join(element.text for element in browser.find_elements("css selector", selector))


def upload(browser, path) -> None:
    for clear in browser.find_elements("css selector", "#file button[aria-label='Clear']"):
        clear.click()
    field = wait(lambda: browser.find_elements("css selector", "#file input[type=file]"), "the field")
    field[0].send_keys(str(path))


def drawn(browser) -> list[str]:
    """Address of the drawn picture, or nothing before it is there."""
    return [image.get_attribute("src") for image in browser.find_elements("css selector", "#drawn img")]


def rows(browser) -> int:
    """Detections in the table, of which the page holds only those in view."""
    return int(browser.find_element("css selector", "#table [role=grid]").get_attribute("aria-rowcount")) - 1


def set_slider(browser, label: str, value: str) -> None:
    """Types into the number beside a slider."""
    number = browser.find_element("css selector", f"input[type=number][aria-label='number input for {label}']")
    number.send_keys(webdriver.Keys.CONTROL, "a")
    number.send_keys(value, webdriver.Keys.TAB)


def shoot(browser, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1400, max(900, height + 150))
        time.sleep(0.7)
        browser.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def test_upload_sliders_and_explanation(browser, place):
    shoot(browser, "1-empty")
    upload(browser, place / "picture 0.png")
    first = wait(lambda: drawn(browser), "the drawn picture")
    shoot(browser, "2-uploaded")
    set_slider(browser, "Max detections", "7")
    set_slider(browser, "Score threshold", "0")
    wait(lambda: 0 < rows(browser) <= 7, "at most 7 detections")
    more = wait(lambda: drawn(browser) != first and drawn(browser), "the picture with them")
    set_slider(browser, "Score threshold", "1")
    wait(lambda: rows(browser) == 0 and drawn(browser) != more, "no detection at threshold 1")
    set_slider(browser, "Score threshold", "0")
    wait(lambda: rows(browser) > 0, "detections")
    browser.find_element("css selector", "#explain").click()
    wait(lambda: browser.find_elements("css selector", "#why img"), "the explanation")
    shoot(browser, "3-explained")


def test_an_example_and_a_torn_picture(browser, place):
    wait(lambda: browser.find_elements("css selector", ".gallery-item, td, .gallery button"), "the example")[0].click()
    before = wait(lambda: drawn(browser), "the example, drawn")
    shoot(browser, "4-example")
    for name in ("broken.png", "torn.jpg"):
        upload(browser, place / name)
        wait(lambda name=name: f"{name} cannot be read" in text_of(browser, "body"), f"the note on {name}")
    shoot(browser, "5-torn")
    assert drawn(browser) in (before, [])


def test_a_port_that_is_taken_is_named(address, place):
    port = address.rsplit(":", 1)[1]
    script = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--model", str(place / "tiny model"), "--port", port]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"port={port} is not free on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_comes_from_elsewhere(browser, address):
    names = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    elsewhere = [name for name in names if not name.startswith((address, "data:", "blob:"))]
    assert names and elsewhere == []
    assert not text_of(browser, "footer").strip()
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
