"""A web application that detects on the pictures it is sent; not for the open Internet without a proxy before it."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from batcher import Batcher, BusyError
from PIL import Image
from torch import Tensor

from transformers_samdetr.pictures import UnreadablePictureError, opened_picture, picture_to_array, read_picture

try:
    from fastapi import FastAPI, HTTPException, Query, Request
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError('The server is a FastAPI application: pip install "transformers-samdetr[serve]"') from error

Detections = Mapping[str, Tensor]


@dataclass(frozen=True)
class RequestLimits:
    """What a request may ask for.

    Attributes:
        bytes: of an upload.
        pixels: of its picture, as its header says.
        side: the longest, in pixels.
        seconds: for the upload, and again for the answer.
        requests: at a time; others are told to come again.
        retry_after: seconds after which they are told to.
    """

    bytes: int = 20 * 2**20
    pixels: int = 25_000_000
    side: int = 20_000
    seconds: float = 30.0
    requests: int = 64
    retry_after: int = 1


def make_app(
    batcher: Batcher[Image.Image, Detections], names: Sequence[str], limits: RequestLimits = RequestLimits()
) -> FastAPI:
    """An application with `POST /detect` and `GET /health`.

    The body of `POST /detect` is a picture's file, and `?threshold=` and `?top_k=` choose among its detections. The
    answer is `{"width", "height", "detections": [{"label", "score", "box": {"xmin", "ymin", "xmax", "ymax"}}]}`, the
    highest score first, boxes in pixels of the upright picture. Errors are `{"detail"}` with the reason: 400 for what
    is no picture, 413 for too many bytes or pixels, 422 for a wrong parameter, 408 and 504 for what took too long, 503
    with `Retry-After` where too much waits.

    Args:
        batcher: gives for each upright RGB picture `scores`, descending, `labels` and `boxes` (x1, y1, x2, y2, in its
            pixels).
        names: the class of each label.
        limits: see there.
    """
    app = FastAPI(title="SAM-DETR", docs_url=None, redoc_url=None)  # those pages would load scripts from elsewhere
    decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decoder")
    busy = HTTPException(503, "Too many pictures wait: come again.", {"Retry-After": str(limits.retry_after)})
    running = 0

    @app.get("/health")
    def health() -> dict:
        if not batcher.alive:
            raise HTTPException(503, "The detector has stopped.")
        return {"status": "ok", "waiting": batcher.waiting, "running": running}

    @app.post("/detect")
    async def detect(
        request: Request,
        threshold: float = Query(0.5, ge=0, le=1, allow_inf_nan=False),
        top_k: int = Query(100, ge=1, le=10_000),
    ) -> dict:
        nonlocal running
        if running >= limits.requests:
            raise busy
        running += 1
        try:
            content = await _within(limits.seconds, _body(request, limits.bytes), 408, "The upload took")
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(decoders, _picture, content, limits)
            answer = asyncio.wrap_future(batcher.submit(image))
            found = await _within(limits.seconds, answer, 504, "The answer took")
        except BusyError:
            raise busy from None
        finally:
            running -= 1
        return {
            "width": image.width,
            "height": image.height,
            "detections": [row for row in _rows(found, names)[:top_k] if row["score"] > threshold],
        }

    return app


async def _within(seconds: float, work, status: int, what: str):
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise HTTPException(status, f"{what} more than {seconds:g} s.") from None


async def _body(request: Request, most: int) -> bytes:
    """The whole body, as far as it is within its limit."""
    too_large = HTTPException(413, f"The upload has more than {most} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise too_large
    content = bytearray()
    try:
        async for piece in request.stream():
            content += piece
            if len(content) > most:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "The upload broke off.") from None
    return bytes(content)


def _picture(content: bytes, limits: RequestLimits) -> Image.Image:
    """Upright RGB; its size is looked at before its pixels are."""
    try:
        with opened_picture(content, "The upload") as image:
            width, height = image.size
        if width * height > limits.pixels or max(width, height) > limits.side:
            allowed = f"{limits.pixels} pixels and sides of {limits.side}"
            raise HTTPException(413, f"The picture is {width}x{height}; up to {allowed} are taken.")
        return Image.fromarray(picture_to_array(read_picture(content, "The upload")))
    except UnreadablePictureError as error:
        raise HTTPException(400, str(error)) from None


def _rows(found: Detections, names: Sequence[str]) -> list[dict]:
    columns = (found[name].tolist() for name in ("scores", "labels", "boxes"))
    sides = ("xmin", "ymin", "xmax", "ymax")
    return [
        {"label": names[label], "score": score, "box": dict(zip(sides, box, strict=True))}
        for score, label, box in zip(*columns, strict=True)
    ]
