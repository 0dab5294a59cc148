"""The page of `--format web` in Chromium: the same detections as in Python, controls, camera and bad input."""

import functools
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from transformers_samdetr.export import export_page
from transformers_samdetr.export.static_page import RUNTIME
from transformers_samdetr.pictures import picture_to_array
from transformers_samdetr.prediction import Detector

from .. import browser as browsers
from ..browser import chromium, needs_chromium
from .test_export import needs_onnx
from .test_static_page import THRESHOLD, save_model

NPM = shutil.which("npm")

pytestmark = [
    pytest.mark.slow,
    needs_onnx,
    needs_chromium,
    pytest.mark.skipif(not NPM, reason="npm, which fetches onnxruntime-web, is not installed"),
]
WAIT = 120


class QuietHandler(SimpleHTTPRequestHandler):
    """What `python -m http.server` uses, without a line for each request."""

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model in `signs`, its page in `page`, and pictures."""
    folder = tmp_path_factory.mktemp("web")
    done = subprocess.run([NPM, "pack", RUNTIME, "--prefer-offline", "--silent"], cwd=folder, capture_output=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch {RUNTIME}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    export_page(save_model(folder / "signs"), folder / "page", folder / "package" / "dist")
    draw_scenes(folder)
    return folder


def draw_scenes(folder: Path) -> None:
    """Pictures of several sizes, shapes and kinds of file."""
    sizes = {"wide.png": (640, 200), "small.png": (61, 47), "tall.jpg": (480, 1000), "large.jpg": (1600, 1100)}
    for name, (width, height) in sizes.items():
        image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        draw = ImageDraw.Draw(image)
        for index in range(9):
            x, y = (index * 0.37 % 0.8) * width, (index * 0.23 % 0.7) * height
            color = (40 * index % 256, 90 * index % 256, 200 - 20 * index)
            draw.ellipse((x, y, x + width / 5, y + height / 4), fill=color, outline="white")
        image.save(folder / name)
    image.convert("L").save(folder / "grey.png")
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    image.resize((300, 200)).save(folder / "transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    Image.open(folder / "large.jpg").save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes(b"no picture")


@pytest.fixture(scope="module")
def address(folder):
    handler = functools.partial(QuietHandler, directory=folder / "page")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(tmp_path_factory.mktemp("profile"), "--window-size=1200,1000", *camera) as driver:
        yield driver


@pytest.fixture
def browser(driver, address):
    """The page, with its model."""
    driver.get(address)
    wait(lambda: message(driver) == "", "the model", driver)
    return driver


def message(browser) -> str:
    return browser.find_element("id", "message").text


def wait(condition, what: str, browser):
    return browsers.wait(condition, what, WAIT, lambda: message(browser))


def detections_of(browser, path: Path) -> list[dict]:
    browser.find_element("id", "file").send_keys(str(path))
    # in the same turn: what is shown is detected, and nothing is under way
    script = "return shown && !isBusy && detections.length ? detections : null"
    return wait(lambda: browser.execute_script(script), path.name, browser)


def set_threshold(browser, value: float) -> None:
    script = "const s = find('#threshold'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    browser.execute_script(script, value)


def rows(browser) -> list[str]:
    return [row.text for row in browser.find_elements("css selector", "tbody tr")]


def test_the_same_labels_and_boxes_as_in_python(browser, folder):
    detector = Detector(folder / "signs", "cpu")
    for name in ("wide.png", "small.png", "tall.jpg", "large.jpg", "grey.png", "transparent.png", "turned.jpg"):
        browser.refresh()
        wait(lambda: message(browser) == "", "the model", browser)
        found = [one for one in detections_of(browser, folder / name) if one["score"] > THRESHOLD]
        image = Image.fromarray(picture_to_array(Image.open(folder / name)))  # upright, transparent parts white
        (expected,) = detector.detect([image], THRESHOLD)
        assert len(expected["scores"]) >= 3, name
        assert [one["label"] for one in found] == expected["labels"].tolist(), name
        off = (torch.tensor([one["box"] for one in found]) - expected["boxes"]).abs().max()
        scores_off = (torch.tensor([one["score"] for one in found]) - expected["scores"]).abs().max()
        print(f"{name}: {len(found)} boxes within {off:.4f} pixels, scores within {scores_off:.1e}")
        assert off < 1 and scores_off < 1e-3, name
        assert len(rows(browser)) == len(found)
    names = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names and all(name.startswith(("http://127.0.0.1", "data:", "blob:")) for name in names)


def test_controls(browser, folder):
    assert "Finds: stop, give way, <b>, 汽车, end" in browser.find_element("id", "classes").text
    assert browser.find_element("css selector", "output").text == "0.30"
    found = detections_of(browser, folder / "wide.png")
    assert " ms a picture" in message(browser)
    set_threshold(browser, 0.02)
    assert len(rows(browser)) == len([one for one in found if one["score"] > 0.02]) > 3
    set_threshold(browser, 1)
    assert rows(browser) == [] and message(browser).startswith("No objects")
    set_threshold(browser, 0)
    name, score = ("stop", "give way", "<b>", "汽车", "end")[found[0]["label"]], f"{found[0]['score']:.2f}"
    assert rows(browser)[0].startswith(f"{name} {score}")
    pixels = "const c = find('canvas'); return [c.width, c.height, c.hidden]"
    width, height, is_hidden = browser.execute_script(pixels)
    assert abs(width / height - 640 / 200) < 0.02 and not is_hidden


def test_what_is_not_a_picture_is_named(browser, folder):
    browser.find_element("id", "file").send_keys(str(folder / "broken.png"))
    wait(lambda: "broken.png is not a picture that this browser can open" in message(browser), "the message", browser)
    assert detections_of(browser, folder / "small.png")


def test_a_dropped_picture(browser):
    browser.execute_script("""
        const canvas = Object.assign(document.createElement("canvas"), { width: 120, height: 80 });
        canvas.getContext("2d").fillRect(20, 20, 50, 40);
        canvas.toBlob(blob => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "dropped.png"));
          document.body.dispatchEvent(new DragEvent("dragover", { bubbles: true, cancelable: true }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        });
    """)
    size = wait(lambda: browser.execute_script("return detections.length && sizeOf(shown)"), "detections", browser)
    assert size == [120, 80] and not browser.execute_script("return document.body.matches('.dragging')")


def test_the_camera(browser):
    button = browser.find_element("id", "camera")
    button.click()
    wait(lambda: "pictures a second" in message(browser), "a frame", browser)
    first = browser.execute_script("return detections")
    wait(lambda: browser.execute_script("return detections") != first, "another frame", browser)
    assert button.text == "Stop the camera"
    button.click()
    assert button.text == "Camera" and browser.execute_script("return shown") is None
    assert not browser.find_element("css selector", "canvas, table").is_displayed()
    browser.execute_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', arguments[0]) }",
        "NotAllowedError",
    )
    button.click()
    wait(lambda: "The camera was refused" in message(browser), "the message", browser)


@pytest.mark.parametrize(
    ("missing", "text"), [("WebAssembly", "This browser has no WebAssembly"), ("ort", "could not be loaded")]
)
def test_what_a_browser_lacks_is_said(driver, address, missing, text):
    source = f"Object.defineProperty(window, '{missing}', {{ get: () => undefined, set: () => {{}} }})"
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        driver.get(address)
        wait(lambda: text in message(driver), "the message", driver)
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_page_without_a_server_says_what_to_do(driver, folder):
    driver.get((folder / "page" / "index.html").as_uri())
    wait(lambda: "run python -m http.server in this folder" in message(driver), "the message", driver)
