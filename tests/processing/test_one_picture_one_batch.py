"""The same picture gives the same pixels, however it is given: path, URL, base64, PIL, array, tensor, pipeline."""

import base64
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from transformers import pipeline

from transformers_samdetr import SamDetrImageProcessor, SamDetrImageProcessorPil
from transformers_samdetr.pictures import UnreadablePictureError, read_picture

from ..models import tiny_model

SIZE = {"shortest_edge": 32, "longest_edge": 64}
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)
ALPHA[:4] = 0
DEEP = RNG.integers(0, 2**16, (20, 30), dtype=np.uint16)
DEEP[0, 0] = 2**16 - 1


def palette() -> Image.Image:
    image = Image.fromarray(RGB).quantize(8)
    image.info["transparency"] = 3
    return image


PICTURES = {
    "RGB": lambda: Image.fromarray(RGB),
    "grey": lambda: Image.fromarray(RGB[..., 0]),
    "transparent": lambda: Image.fromarray(np.concatenate([RGB, ALPHA], -1)),
    "transparent grey": lambda: Image.fromarray(np.concatenate([RGB[..., :1], ALPHA], -1), "LA"),
    "palette with transparency": palette,
    "1 bit": lambda: Image.fromarray(RGB[..., 0]).convert("1"),
    "16 bits": lambda: Image.fromarray(DEEP),
    "14 bits": lambda: Image.fromarray(DEEP >> 2),
    "12 bits": lambda: Image.fromarray(DEEP >> 4),
    "10 bits": lambda: Image.fromarray(DEEP >> 6),
    "8 bits in 16": lambda: Image.fromarray(DEEP >> 8),
}


@pytest.fixture(params=[SamDetrImageProcessor, SamDetrImageProcessorPil], ids=["torchvision", "pil"])
def processor(request):
    return request.param(size=SIZE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *args: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def arrays(image: Image.Image) -> dict[str, np.ndarray | torch.Tensor]:
    """The stored values of a picture as arrays; Pillow's conversions for what no array can say."""
    plain = image.convert("RGBA") if image.mode in ("LA", "P") else image
    values = np.array(plain)
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    found = {"array": values, "tensor": torch.from_numpy(np.ascontiguousarray(planes))}
    if values.dtype == np.uint8:
        found["array in [0, 1]"] = values / 255
        found["tensor in [0, 1]"] = found["tensor"].float() / 255
    elif values.dtype == np.uint16:
        found |= {"32-bit integers": values.astype(np.int32), "floats of integers": values.astype(np.float32)}
    return found


@pytest.mark.parametrize("kind", PICTURES)
def test_same_pixels_by_every_road(processor, kind, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    folder, address = server
    name = f"{kind.replace(' ', '-')}.png"
    PICTURES[kind]().save(folder / name)
    expected = processor(str(folder / name), return_tensors="pt").pixel_values
    assert expected.std() > 0.5, "contrast is lost"
    content = (folder / name).read_bytes()
    with Image.open(folder / name) as opened:
        roads = {
            "URL": f"{address}/{name}",
            "base64": base64.b64encode(content).decode(),
            "PIL": opened,
            **arrays(Image.open(BytesIO(content))),
        }
        for road, given in roads.items():
            assert torch.equal(processor(given, return_tensors="pt").pixel_values, expected), road
        detector = pipeline("object-detection", model=tiny_model(), image_processor=processor)
        for road in ("URL", "base64", "PIL"):
            (inputs,) = detector.preprocess(roads[road])["pictures"]
            assert torch.equal(inputs["pixel_values"], expected), f"{road} in a pipeline"


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_png_with_a_long_text(processor, place, compressed, tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("workflow", "x" * 3_000_000, zip=compressed)
    buffer = BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", pnginfo=texts)
    content = buffer.getvalue()
    if place == "behind":  # move the chunk behind the pixels
        start = content.index(b"iTXt") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "x.png").write_bytes(content)
    for given in (content, tmp_path / "x.png"):
        assert np.array_equal(np.array(read_picture(given, "x.png")), RGB)
    assert processor(str(tmp_path / "x.png"))["pixel_values"] is not None
    with pytest.raises(UnreadablePictureError, match="x.png cannot be read as a picture"):
        read_picture(content[:-900], "x.png")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (np.array([-0.04, 0.5, 1.06]), [0, 128, 255]),  # bicubic resizing passes the range
        (np.array([-3.5, 128.25, 258]), [-3.5, 128.25, 258]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0, 7, 255], dtype=np.int64), [0, 7, 255]),
        (np.array([0, 7, 255], dtype=np.float16), [0, 7, 255]),  # which has no 65535
    ],
)
def test_ranges_of_arrays(processor, given, read):
    pixels = np.broadcast_to(given.reshape(1, 3, 1), (4, 3, 3)).copy()
    for image in (pixels, torch.from_numpy(pixels.transpose(2, 0, 1).copy())):
        options = {"do_resize": False, "do_normalize": False, "rescale_factor": 1.0, "return_tensors": "pt"}
        values = processor(image, input_data_format=None if image is not pixels else "channels_last", **options)
        assert values.pixel_values[0, 0, 0].tolist() == pytest.approx(read)


@pytest.mark.parametrize("values", [(-2.1, 2.6), (-1, 1), (0, 1e6), (-500.0, 255)])
def test_floats_without_a_range_of_pixels_are_refused(processor, values):
    pixels = np.linspace(*values, 7 * 5 * 3).reshape(7, 5, 3)
    with pytest.raises(UnreadablePictureError, match="floats has values from .* do_rescale=False"):
        processor(pixels)
    options = {"do_rescale": False, "do_normalize": False, "do_resize": False, "return_tensors": "pt"}
    assert torch.allclose(
        processor(pixels, **options).pixel_values[0, :, 0, 0].double(), torch.from_numpy(pixels[0, 0])
    )


@pytest.mark.parametrize("value", [-1, 70000])
def test_integers_that_are_no_pixels_are_refused(processor, value):
    with pytest.raises(UnreadablePictureError, match=f"{value}.*: give 0 to 255, or 0 to 65535"):
        processor(np.full((4, 5, 3), value, np.int32))


def test_a_guessed_depth_is_said(processor, monkeypatch):
    from transformers_samdetr import pictures

    said = []
    monkeypatch.setattr(pictures.logger, "warning_once", said.append)
    processor(DEEP >> 4)
    processor(DEEP)
    assert len(said) == 1 and "highest value is 4095 is read as one of 12 bits" in said[0]
