"""The demo's page in a real browser without a network: upload, sliders, click, gallery, download, bad input."""

import json
import os
import re
import shutil
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
from transformers_samdetr.prediction import Detector

from ..models import TINY
from ..processes import free_port

pytest.importorskip("gradio", reason="Gradio, of the extra `demo`, is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]
ROOT = Path(__file__).parents[2]
SHOTS = os.environ.get("DEMO_SCREENSHOTS")
"""A folder to keep screenshots in, to be looked at."""
MODEL = os.environ.get("DEMO_MODEL")
"""A trained model to show on them."""
WAIT = 60


def save_model(folder, seed=0, **fields):
    torch.manual_seed(seed)
    SamDetrForObjectDetection(SamDetrConfig(**{**TINY, **fields})).save_pretrained(folder)
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models and four pictures, or what the environment names."""
    folder = tmp_path_factory.mktemp("demo")
    save_model(folder / "with aligner")
    save_model(folder / "without", seed=1, query_resampling="none")
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((320 + 40 * index, 240), Image.Resampling.BICUBIC)
        picture.save(folder / f"picture {index}.png")
        (folder / "folder" / "deep").mkdir(parents=True, exist_ok=True)
        picture.save(folder / "folder" / "deep" / f"{index}.png")
    (folder / "folder" / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"no picture")
    picture.convert("RGB").save(folder / "torn.jpg")
    (folder / "torn.jpg").write_bytes((folder / "torn.jpg").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def address(place):
    """Of a demo of both models in a process of its own."""
    port = free_port()
    script = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--model", MODEL or str(place / "with aligner")]
    script += ["--compare_with", str(place / "without"), "--port", str(port), "--device", "cpu"]
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
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1250", "--disable-dev-shm-usage"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what needs a network fails
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(address)
        wait(lambda: driver.find_elements("css selector", "#files input[type=file]"), "the page")
        yield driver
    finally:
        driver.quit()


def wait(condition, what: str, seconds: float = WAIT):
    """The condition's first true value."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    pytest.fail(f"{what} did not come within {seconds} s")


def text_of(browser, selector: str) -> str:
    return " ".join(element.text for element in browser.find_elements("css selector", selector))


def upload(browser, *paths) -> None:
    before = [image.get_attribute("src") for image in browser.find_elements("css selector", ".drawn img")]
    browser.find_element("css selector", "#files input[type=file]").send_keys("\n".join(map(str, paths)))
    wait(lambda: drawn(browser) and drawn(browser) != before, "drawn pictures")


def drawn(browser) -> list[str]:
    """Addresses of both drawn pictures, or nothing before both are there."""
    found = [image.get_attribute("src") for image in browser.find_elements("css selector", ".drawn img")]
    return found if len(found) == 2 else []


def counts(browser) -> list[int]:
    """Detections of each model, as the page says."""
    texts = [text_of(browser, f"#about-{index}") for index in range(2)]
    return [int(count) for text in texts for count in re.findall(r": (\d+) detections?,", text)[:1]]


def move_slider(browser, name: str, value: str) -> None:
    """Types into the number beside a slider."""
    number = browser.find_element("css selector", f"#{name} input[type=number]")
    number.send_keys(webdriver.Keys.CONTROL, "a")
    number.send_keys(value, webdriver.Keys.TAB)


def shoot(browser, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1400, max(900, height + 150))
        time.sleep(0.7)
        browser.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def click_on(browser, which: int, x: float, y: float, size) -> None:
    """Clicks on a place of a drawn picture, given in its pixels; it may have been fitted into a larger element."""
    image = browser.find_elements("css selector", ".drawn img")[which]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    width, height = image.size["width"], image.size["height"]
    scale = min(width / size[0], height / size[1])
    offset = (x - size[0] / 2) * scale, (y - size[1] / 2) * scale
    webdriver.ActionChains(browser).move_to_element_with_offset(image, *map(round, offset)).click().perform()


def test_upload_sliders_click_and_download(browser, place, tmp_path):
    shoot(browser, "1-empty")
    picture = place / "picture 0.png"
    upload(browser, picture)
    wait(lambda: len(counts(browser)) == 2, "the counts")
    shoot(browser, "2-uploaded")

    move_slider(browser, "threshold", "1")
    wait(lambda: counts(browser) == [0, 0], "no detection at threshold 1")
    move_slider(browser, "threshold", "0")
    move_slider(browser, "top_k", "7")
    wait(lambda: counts(browser) and 0 < max(counts(browser)) <= 7, "at most 7 detections")
    shoot(browser, "3-sliders")

    image = Image.open(picture)
    detector = Detector(MODEL or place / "with aligner", "cpu")
    (expected,) = detector.detect([image], 0.0, 7)
    x1, y1, x2, y2 = expected["boxes"][0].clamp(min=0).tolist()
    x, y = (x1 + min(x2, image.width)) / 2, (y1 + min(y2, image.height)) / 2
    click_on(browser, 0, x, y, image.size)
    wait(lambda: browser.find_elements("css selector", "#why img"), "the explanation")
    shoot(browser, "4-explained")

    browser.find_element("css selector", "#download").click()
    (file,) = wait(lambda: list((tmp_path / "downloads").glob("predictions*.json")), "the download")
    rows = [row for row in json.loads(file.read_text()) if row["model"] == detector.short_name]
    assert [row["score"] for row in rows] == pytest.approx(expected["scores"].tolist(), abs=1e-5)
    assert {row["file_name"] for row in rows} == {"picture 0.png"}


def test_several_pictures_and_bad_ones(browser, place):
    upload(browser, *(place / f"picture {index}.png" for index in range(4)), place / "broken.png")
    assert "broken.png cannot be read" in wait(lambda: text_of(browser, "#notes"), "the notes")
    thumbnails = wait(lambda: browser.find_elements("css selector", "#gallery button img"), "the gallery")
    assert len(thumbnails) == 4
    first = drawn(browser)
    thumbnails[2].click()
    wait(lambda: drawn(browser) and drawn(browser) != first, "the third picture")
    shoot(browser, "5-gallery")
    image = browser.find_elements("css selector", ".drawn img")[0]
    wait(lambda: image.get_property("naturalWidth") == 2 * 400, "a small picture, enlarged")

    before = drawn(browser)
    browser.find_element("css selector", "#files input[type=file]").send_keys(str(place / "torn.jpg"))
    wait(lambda: "torn.jpg cannot be read" in text_of(browser, "#notes"), "the note on the torn picture")
    assert drawn(browser) == before, "what was there stays"
    shoot(browser, "6-bad")


def test_a_folder(browser, place):
    selector = "input[data-testid='Choose a folder-upload-button']"
    browser.find_element("css selector", selector).send_keys(str(place / "folder"))
    thumbnails = wait(lambda: browser.find_elements("css selector", "#gallery button img"), "the gallery")
    assert len(thumbnails) == 4 and "1 file is no picture." in text_of(browser, "#notes")


def test_a_port_that_is_taken_is_named(address, place):
    port = address.rsplit(":", 1)[1]
    script = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--model", str(place / "without"), "--port", port]
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
