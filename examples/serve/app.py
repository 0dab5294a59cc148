"""A FastAPI application that detects objects in uploaded images. Put a proxy before it on the open Internet."""

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
    """Limits of a request.

    Attributes:
        bytes: of an upload.
        pixels: of its image, from the header.
        side: longest side of the image, in pixels.
        seconds: for the upload, and again for the answer.
        requests: at a time; others get 503.
        retry_after: seconds in the `Retry-After` header of a 503.
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

    The body of `POST /detect` is an image file; `?threshold=` and `?top_k=` select detections. The answer is `{"width",
    "height", "detections": [{"label", "score", "box": {"xmin", "ymin", "xmax", "ymax"}}]}`, highest score first, boxes
    in pixels of the upright image. Errors are `{"detail"}` with the reason: 400 not an image, 413 too many bytes or
    pixels, 422 invalid parameter, 408 slow upload, 504 slow answer, 503 with `Retry-After` too many waiting requests.

    Args:
        batcher: returns for each upright RGB image `scores`, descending, `labels` and `boxes` (x1, y1, x2, y2 in
            pixels).
        names: the class of each label.
        limits: see there.
    """
    app = FastAPI(title="SAM-DETR", docs_url=None, redoc_url=None)  # those pages would load scripts from elsewhere
    decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decoder")
    busy = HTTPException(503, "Too many images are waiting: retry later.", {"Retry-After": str(limits.retry_after)})
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
    """The request's body, refused as soon as it exceeds `most` bytes."""
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
    """The upright RGB image; its size is checked before it is decoded."""
    try:
        with opened_picture(content, "The upload") as image:
            width, height = image.size
        if width * height > limits.pixels or max(width, height) > limits.side:
            allowed = f"{limits.pixels} pixels and sides of {limits.side}"
            raise HTTPException(413, f"The picture is {width}x{height}; at most {allowed} are accepted.")
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
