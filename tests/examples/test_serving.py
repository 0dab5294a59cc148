"""The batching worker and the server over loopback: each answer is that of its own picture, whatever else goes on."""

import asyncio
import contextlib
import io
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.prediction import Detector

from ..fuzzing import BOMBS, PICTURES, STRIPS, fuzz, png, run_cases, whole_pictures
from ..models import SMALL_BACKBONE, tiny_model

sys.path.append(str(Path(__file__).parents[2] / "examples" / "serve"))
from batcher import Batcher, BusyError  # noqa: E402

# the worker


def test_what_waits_goes_together_in_its_order():
    batches = []
    started, go_on = threading.Event(), threading.Event()

    def double(items):
        batches.append(list(items))
        started.set()
        go_on.wait(10)
        return [2 * item for item in items]

    with Batcher(double, max_batch=4, max_wait=0.0) as batcher:
        first = batcher.submit(0)
        started.wait(10)
        others = [batcher.submit(item) for item in range(1, 8)]
        assert batcher.waiting == 7 and batcher.alive
        others[2].cancel()
        go_on.set()
        assert first.result(10) == 0
        assert [future.result(10) for future in others if not future.cancelled()] == [2, 4, 8, 10, 12, 14]
    # a cancelled one keeps its place in the batch it was in, and is not processed
    assert batches == [[0], [1, 2, 4], [5, 6, 7]] and not batcher.alive


def test_a_lone_item_does_not_wait_long():
    with Batcher(lambda items: items, max_batch=1000, max_wait=0.05) as batcher:
        start = time.monotonic()
        assert batcher.submit("alone").result(10) == "alone"
        assert 0.04 < time.monotonic() - start < 5


def test_an_item_that_fails_does_not_take_others_with_it():
    def process(items):
        return [1 / item for item in items]

    with Batcher(process, max_batch=8, max_wait=0.2) as batcher:
        futures = [batcher.submit(item) for item in (1, 0, 4)]
        assert futures[0].result(10) == 1 and futures[2].result(10) == 0.25
        with pytest.raises(ZeroDivisionError):
            futures[1].result(10)
        assert batcher.submit(2).result(10) == 0.5  # the thread goes on
    with Batcher(lambda items: [], max_wait=0) as batcher, pytest.raises(RuntimeError, match="0 results for 1 items"):
        batcher.submit(1).result(10)


def test_too_much_is_refused_and_closing_answers_what_waits():
    go_on = threading.Event()
    batcher = Batcher(lambda items: (go_on.wait(10), list(items))[1], max_batch=1, max_wait=0, max_waiting=2)
    futures = [batcher.submit(0)]
    while batcher.waiting:
        time.sleep(0.001)
    futures += [batcher.submit(1), batcher.submit(2)]
    with pytest.raises(BusyError, match="2 items wait"):
        batcher.submit(3)
    go_on.set()
    batcher.close()
    batcher.close()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(4)
    with pytest.raises(ValueError, match="max_batch=0 must be at least 1"):
        Batcher(list, max_batch=0)


# the server

fastapi = pytest.importorskip("fastapi", reason="FastAPI, of the extra `serve`, is not installed")
httpx = pytest.importorskip("httpx", reason="httpx, which the tests of the server send with, is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn, of the extra `serve`, is not installed")
from app import RequestLimits, make_app  # noqa: E402


def see(images):
    """Stands in for a detector: what it finds is the picture's colour and size, after the time that a model takes."""
    time.sleep(0.002 * len(images))
    return [
        {
            "scores": torch.tensor([0.9, 0.2]),
            "labels": torch.tensor([0, 1]),
            "boxes": torch.tensor([[*np.asarray(image)[0, 0].tolist(), image.width]] * 2, dtype=torch.float64),
        }
        for image in images
    ]


def numbered(number: int) -> tuple[bytes, list[float]]:
    """A picture that no other number has, and what `see` finds in it."""
    color, width = (number % 256, number // 256 % 256, number * 7 % 256), 8 + number % 23
    buffer = io.BytesIO()
    Image.new("RGB", (width, 9), color).save(buffer, "PNG")
    return buffer.getvalue(), [*map(float, color), float(width)]


@contextlib.contextmanager
def served(app):
    """The address of the application, which runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


async def load(address: str, pictures: list[tuple[bytes, object]], clients: int, query: str = "") -> dict:
    """Sends every picture once, again after a 503, and returns answers by picture, latencies and refusals."""
    waiting = list(enumerate(pictures))
    report = {"answers": {}, "latencies": [], "refused": 0}

    async def work(client):
        while waiting:
            index, (content, _) = waiting.pop()
            while True:
                start = time.perf_counter()
                response = await client.post(f"{address}/detect{query}", content=content)
                if response.status_code != 503:
                    break
                assert response.headers["retry-after"] == "1"
                report["refused"] += 1
                await asyncio.sleep(0.05)
            assert response.status_code == 200, response.text
            assert index not in report["answers"]
            report["answers"][index] = response.json()
            report["latencies"].append(time.perf_counter() - start)

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=clients)) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return report


def summary(report: dict, seconds: float, clients: int) -> str:
    low, middle, high = np.percentile(report["latencies"], (50, 95, 99)) * 1000
    count = len(report["answers"])
    return (
        f"{count} requests of {clients} clients in {seconds:.1f} s ({count / seconds:.0f} a second), "
        f"{report['refused']} refused and sent again; ms: p50 {low:.0f}, p95 {middle:.0f}, p99 {high:.0f}"
    )


@pytest.mark.parametrize(
    ("count", "clients"), [(60, 8), pytest.param(6000, 32, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_no_answer_is_lost_or_anothers(count, clients):
    """With room for fewer than there are clients, so that some are refused."""
    pictures = [numbered(number) for number in range(count)]
    with Batcher(see, max_batch=8, max_wait=0.005, max_waiting=12) as batcher:
        app = make_app(batcher, ["colour", "other"], RequestLimits(requests=24))
        with served(app) as address:
            start = time.perf_counter()
            report = asyncio.run(load(address, pictures, clients))
            seconds = time.perf_counter() - start
            assert httpx.get(f"{address}/health").json() == {"status": "ok", "waiting": 0, "running": 0}
    assert len(report["answers"]) == count
    for index, (_, expected) in enumerate(pictures):
        (found,) = report["answers"][index]["detections"]  # the other is below the threshold
        assert list(found["box"].values()) == expected and found["label"] == "colour"
    assert clients <= 24 or report["refused"]
    print(f"\nstand-in for a model: {summary(report, seconds, clients)}")


@pytest.mark.slow
def test_answers_of_a_model_are_those_of_each_picture_alone(tmp_path):
    tiny_model(backbone_config=SMALL_BACKBONE).save_pretrained(tmp_path)
    SamDetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(tmp_path)
    detector = Detector(tmp_path, "cpu", mask_padding=True)
    generator, pictures = np.random.default_rng(0), []
    for _ in range(160):
        height, width = generator.integers(20, 60, 2)
        image = Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pictures.append((buffer.getvalue(), detector.detect([image], threshold=0.0)[0]))
    with Batcher(lambda images: detector.detect(images, threshold=0.0), max_batch=8, max_waiting=64) as batcher:
        with served(make_app(batcher, detector.names)) as address:
            start = time.perf_counter()
            report = asyncio.run(load(address, pictures, 32, "?threshold=0"))
            seconds = time.perf_counter() - start
    # the order of near ties may change, so the highest are compared by their scores
    answered = [[row["score"] for row in report["answers"][index]["detections"]] for index in range(len(pictures))]
    count = min(map(len, answered))
    scores = torch.tensor([row[:count] for row in answered])
    alone = torch.stack([found["scores"][:count] for _, found in pictures])
    distances = (scores[:, None] - alone).abs().amax(-1)  # of each answer to what each picture has alone
    furthest = float(distances.diagonal().max())
    assert count >= 10 and furthest < 1e-4 and torch.equal(distances.argmin(1), torch.arange(len(pictures)))
    print(f"\na model: {summary(report, seconds, 32)}; scores differ from those alone by at most {furthest:.1e}")


@pytest.fixture
def client():
    testclient = pytest.importorskip("fastapi.testclient", reason="Starlette's test client needs httpx")
    limits = RequestLimits(bytes=100_000, pixels=10_000, side=1000, seconds=5)
    with Batcher(see, max_wait=0) as batcher:
        with testclient.TestClient(make_app(batcher, ["colour", "other"], limits)) as client:
            yield client


@pytest.mark.parametrize(
    ("content", "query", "status", "reason"),
    [
        (b"", "", 400, "The upload cannot be read as a picture"),
        (b"hello", "", 400, "it is none of JPEG, PNG"),
        (numbered(3)[0][:45], "", 400, "The upload cannot be read as a picture: "),
        (BOMBS[0], "", 400, "decompression bomb"),
        (STRIPS[1], "", 413, "The picture is 20000x1; at most 10000 pixels and sides of 1000 are accepted"),
        (png(101, 100), "", 413, "The picture is 101x100"),
        (bytes(100_001), "", 413, "The upload has more than 100000 bytes"),
        (numbered(3)[0], "?threshold=nan", 422, "threshold"),
        (numbered(3)[0], "?top_k=0", 422, "top_k"),
    ],
)
def test_bad_uploads_are_told_why(client, content, query, status, reason):
    response = client.post(f"/detect{query}", content=content)
    assert response.status_code == status and reason in response.text


def test_parameters_choose_among_detections(client):
    content, expected = numbered(77)
    for query, count in (("", 1), ("?threshold=0.1", 2), ("?threshold=0.1&top_k=1", 1), ("?threshold=0.95", 0)):
        detections = client.post(f"/detect{query}", content=content).json()["detections"]
        assert len(detections) == count and all(list(row["box"].values()) == expected for row in detections)
    assert client.get("/detect").status_code == 405 and client.get("/docs").status_code == 404


def test_an_upload_without_a_stated_length_is_limited_too(client):
    pieces = (bytes(10_000) for _ in range(11))
    assert client.post("/detect", content=pieces).status_code == 413


def test_what_takes_too_long_or_has_no_room_is_said():
    testclient = pytest.importorskip("fastapi.testclient", reason="Starlette's test client needs httpx")
    go_on = threading.Event()
    content, _ = numbered(1)
    with Batcher(lambda images: (go_on.wait(20), see(images))[1], max_batch=1, max_wait=0, max_waiting=1) as batcher:
        with testclient.TestClient(make_app(batcher, ["colour"], RequestLimits(seconds=0.1, retry_after=7))) as client:
            late = client.post("/detect", content=content)
            assert late.status_code == 504 and "The answer took more than 0.1 s" in late.text
            client.post("/detect", content=content)  # waits behind it, and is given up
            busy = client.post("/detect", content=content)
            assert busy.status_code == 503 and busy.headers["retry-after"] == "7"
            go_on.set()
    with testclient.TestClient(make_app(batcher, ["colour"])) as client:
        assert client.get("/health").status_code == 503


@fuzz(few=6, many=400)
def test_uploads_of_any_kind(client, examples):
    """Never a 5xx, and the server goes on."""
    content, expected = numbered(5)

    def check(case):
        upload, query, headers = case
        try:
            response = client.post("/detect", content=upload, params=query, headers=headers)
        except (UnicodeEncodeError, httpx.InvalidURL):
            return  # no such request can be sent
        assert response.status_code in (200, 400, 413, 422), response.text
        if response.status_code != 200:
            assert response.json()["detail"]
        box = client.post("/detect", content=content).json()["detections"][0]["box"]
        assert list(box.values()) == expected

    value = st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)
    queries = st.dictionaries(st.sampled_from(["threshold", "top_k", "x"]), value, max_size=2)
    headers = st.dictionaries(
        st.sampled_from(["content-type", "accept", "x-y"]), st.sampled_from(["", "text/html", "é".encode()]), max_size=2
    )
    uploads = PICTURES | st.sampled_from(whole_pictures()) | st.binary(max_size=50)
    run_cases("server", st.tuples(uploads, queries, headers), check, examples)
