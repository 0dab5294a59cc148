"""Where pictures come from: patterns, addresses over loopback, standard input, streams; and what is written."""

import contextlib
import http.server
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedConfig

from transformers_samdetr.prediction import Detector, predict, sources
from transformers_samdetr.prediction.sources import Source, find_sources, read_pictures
from transformers_samdetr.visualization import class_colors

from ..processes import free_port

av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")


def encoded(color=(200, 30, 30), size=(60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def clip(frames=7, container="mp4") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as target:
        write_frames(target, frames)
    return buffer.getvalue()


def write_frames(target, frames: int, pause: float = 0.0) -> None:
    stream = target.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 1
    for index in range(frames):
        pixels = np.full((48, 64, 3), 30 * (index % 8), np.uint8)
        target.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        time.sleep(pause)
    target.mux(stream.encode())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = self.server.answers[self.path.split("?")[0]]
        if isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            for piece in answer if isinstance(answer, Iterator) else [answer]:
                self.wfile.write(piece)
        except OSError:  # the client has had enough
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web():
    """A server on loopback; its `answers` by path are bytes, pieces of bytes, or where to redirect to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.url = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(text, **options):
    (source,) = find_sources([text])
    return list(read_pictures(source, **options))


def test_kinds_of_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "deep/c.png", "notes.txt", "7", "out/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(encoded())
    kinds = {"http://x/y%20z.jpg?a=1": "url", "rtsp://x/s": "stream", "0": "camera", "-": "stdin", "7": "file"}
    found = find_sources(list(kinds))
    assert [source.kind for source in found] == list(kinds.values())
    assert [source.name for source in found] == ["y z.jpg", "s", "camera-0", "stdin", "7"]
    assert [source.is_live for source in found] == [False, True, True, False, False]
    assert [source.name for source in find_sources(["*.png", "a.png"])] == ["a.png", "b.png"]
    assert len(find_sources(["**/*.png"], leave_out=tmp_path / "out")) == 3
    assert [source.name for source in find_sources(["http://x/", "https://x/..", "http://x/a%2Fb"])] == [
        *("download", "download", "b")
    ]
    Path("odd[1].png").write_bytes(encoded())
    assert len(find_sources(["odd[1].png"])) == 1  # an existing file is no pattern


def test_a_picture_and_a_video_of_an_address(web):
    web.answers |= {"/a.png": encoded(), "/clip": clip(), "/moved": f"{web.url}/a.png"}
    (picture,) = read(f"{web.url}/a.png?size=large")
    assert (picture.name, picture.image.size, picture.frame) == ("a.png", (60, 40), None)
    assert len(read(f"{web.url}/moved")) == 1
    frames = read(f"{web.url}/clip", frame_step=3)
    assert [one.name for one in frames] == [f"clip/frame_00000{index}.jpg" for index in (0, 3, 6)]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x.png", "/again"])
def test_no_redirect_leaves_the_web_or_goes_on_forever(web, target):
    web.answers["/again"] = target
    with pytest.raises(Exception, match="protocol|redirects|scheme"):
        read(f"{web.url}/again")


def test_downloads_are_bounded(web, monkeypatch):
    monkeypatch.setattr(sources, "MAX_DOWNLOAD", 10**6)

    def slow():
        while True:
            time.sleep(0.05)
            yield b"x"

    web.answers |= {"/large": (b"x" * 10**5 for _ in range(10**6)), "/slow": slow()}
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        read(f"{web.url}/large")
    monkeypatch.setattr(sources, "DOWNLOAD_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="longer than 0.5 s"):
        read(f"{web.url}/slow")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.txt"])
def test_a_playlist_opens_no_other_file(web, tmp_path, name):
    """Neither from the web nor on the disk: FFmpeg would read what it names."""
    secret = tmp_path / "secret.ts"
    secret.write_bytes(clip(container="mpegts"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {secret}\n".encode()
    for content in (playlist, concat):
        web.answers[f"/{name}"] = content
        (tmp_path / name).write_bytes(content)
        for place in (Source(f"{web.url}/{name}", name, "url"), Source(tmp_path / name, name)):
            with pytest.raises(Exception, match=r"(?i)invalid|none of|no video"):
                list(read_pictures(place))


def test_standard_input(monkeypatch):
    class Stdin:
        buffer = None

    monkeypatch.setattr(sys, "stdin", Stdin)
    for content, count in ((encoded(), 1), (clip(), 7)):
        Stdin.buffer = io.BytesIO(content)
        assert len(read("-")) == count
    Stdin.buffer = io.BytesIO(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        read("-")
    monkeypatch.setattr(sources, "MAX_DOWNLOAD", 100)
    Stdin.buffer = io.BytesIO(b"x" * 101)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read("-")


def test_a_camera_that_is_not_there_is_named():
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    with pytest.raises(ValueError, match="there is no camera 93"):
        read("93")


class RtspServer(threading.Thread):
    """Serves one client of RTSP 1.0 over UDP: MPEG-4 in RTP, packed by FFmpeg."""

    def __init__(self, frames: int):
        super().__init__(daemon=True)
        self.frames, self.listener = frames, socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self.listener.getsockname()[1]}/live"

    def run(self):
        with contextlib.suppress(OSError):  # the client has had enough
            self.answer()

    def answer(self):
        connection, _ = self.listener.accept()
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        sdp += "m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=control:trackID=0\r\n"
        port = None
        with connection, connection.makefile("rb") as lines:
            while request := lines.readline().decode():
                method, headers = request.split()[0], {}
                while line := lines.readline().decode().strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                status, more, body = "200 OK", "Session: 1\r\n", ""
                if method == "DESCRIBE":
                    more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp
                elif method == "SETUP" and "TCP" in headers["transport"]:
                    status = "461 Unsupported transport"
                elif method == "SETUP":
                    port = int(headers["transport"].split("client_port=")[1].split("-")[0])
                    more += (
                        f"Transport: RTP/AVP/UDP;unicast;client_port={port}-{port + 1};server_port={free_port()}-9\r\n"
                    )
                elif method == "OPTIONS":
                    more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                connection.sendall(f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{more}\r\n{body}".encode())
                if method == "PLAY":
                    threading.Thread(target=self.send, args=[port], daemon=True).start()

    def send(self, port: int):
        with av.open(f"rtp://127.0.0.1:{port}", "w", format="rtp") as target:
            write_frames(target, self.frames, pause=0.05)


def test_a_stream(tmp_path):
    server = RtspServer(frames=200)
    server.start()
    (source,) = find_sources([server.url])
    pictures = read_pictures(source, frame_step=2)
    first, second = next(pictures), next(pictures)
    pictures.close()
    assert (first.name, first.image.size, second.frame) == ("live/frame_000000.jpg", (64, 48), 2)


def test_a_stream_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, "READ_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(Exception, match="rtsp://"):
            read(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x")
        assert 0.9 < time.monotonic() - begin < 20


def test_a_stream_keeps_its_latest_picture_alone(tmp_path, monkeypatch):
    """However long it is: one picture, and a line for each frame."""
    monkeypatch.setattr(predict, "Detector", lambda *arguments: StandIn())
    frames = [sources.SourcePicture(f"live/{i}.jpg", Image.new("RGB", (50, 40)), i, i / 10) for i in range(30)]
    monkeypatch.setattr(predict, "read_pictures", lambda source, step: iter(frames))
    lines = []
    result = predict.predict_files(
        ["rtsp://x/live"], "m", tmp_path / "out", 0.5, on_picture=lines.append, show_fps=True
    )
    assert result.detections == [] and result.pictures == [] and len(lines) == 30
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        *("out/live/latest.jpg", "out/predictions.json", "out/predictions.jsonl")
    ]
    written = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert written == lines and [line["frame"] for line in written] == list(range(30))
    kept = predict.predict_files(["rtsp://x/live"], "m", tmp_path / "kept", 0.5, max_frames=3)
    assert len(kept.pictures) == 3 == len(kept.detections)


class StandIn:
    """A detector of one object a picture that moves to the right."""

    names, category_ids, short_name = ["a/../b", "汽车"], [4, 7], "m"

    def __init__(self):
        self.colors, self.count = class_colors(self.names), 0
        self.model = type("Model", (), {"config": PreTrainedConfig()})

    def detect(self, images, threshold, **options):
        found = []
        for _ in images:
            x = 4.0 * self.count
            self.count += 1
            found.append(
                {
                    "scores": torch.tensor([0.9]),
                    "labels": torch.tensor([0]),
                    "boxes": torch.tensor([[x, 5.0, x + 20, 25.0]]),
                }
            )
        return found

    draw, coco_rows = Detector.draw, Detector.coco_rows


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(predict, "Detector", lambda *arguments: StandIn())
    return predict.predict_files


def test_every_format(stand_in, tmp_path):
    for name in ("x.png", "deep/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(encoded())
    stand_in([tmp_path / "in"], "m", tmp_path / "out", 0.5, formats=["coco", "csv", "yolo", "jsonl"], save_crop=True)
    out = tmp_path / "out"
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[0] == "image_id,file_name,category_id,category_name,x,y,width,height,score,track_id"
    assert rows[1].startswith("1,x.png,4,a/../b,0.0,5.0,20.0,20.0,0.899999") and len(rows) == 3
    label, *box, score = map(float, (out / "labels" / "deep" / "x.txt").read_text().split())
    assert label == 0 and box == pytest.approx([14 / 60, 15 / 40, 20 / 60, 20 / 40], abs=1e-5) and score == 0.9
    assert (out / "labels" / "classes.txt").read_text(encoding="utf-8") == "a/../b\n汽车\n"
    crops = sorted(path.relative_to(out).as_posix() for path in (out / "crops").rglob("*.jpg"))
    assert crops == ["crops/a____b/deep/x-1.jpg", "crops/a____b/x-1.jpg"]
    assert Image.open(out / crops[0]).size == (20, 20)
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="formats='xml' must be one of coco, csv"):
        stand_in([tmp_path / "in"], "m", out, 0.5, formats=["xml"])


def test_tracks_stay_with_their_objects(stand_in, tmp_path):
    pytest.importorskip("trackers", reason="trackers, of the extra `track`, is not installed")
    (tmp_path / "clip.mp4").write_bytes(clip(7))
    (tmp_path / "again.mp4").write_bytes(clip(3))
    options = {"track": True, "formats": ["coco", "yolo"], "batch_size": 2}
    result = stand_in([tmp_path / "clip.mp4", tmp_path / "again.mp4"], "m", tmp_path / "out", 0.5, **options)
    ids = [row["track_id"] for row in result.detections]
    assert len(ids) == 10 and ids[0] is ids[7] is None  # seen once, it is no track yet
    assert len(set(ids[1:7])) == len(set(ids[8:])) == 1 and None not in ids[1:7]
    assert (tmp_path / "out" / "labels" / "clip.mp4" / "frame_000003.txt").read_text().split()[-1] == str(ids[3])
