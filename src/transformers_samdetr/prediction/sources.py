"""Where pictures come from: files, folders, patterns, URLs, videos, cameras, streams and standard input."""

import glob
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..pictures import PICTURE_SUFFIXES, UnreadablePictureError, download, open_picture, picture_to_array, read_picture

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .ts".split())
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,h264,hevc,m4v,mjpeg"
"""Containers that are decoded, by FFmpeg's names. Playlists (HLS, DASH, concat) are not: they name other files, and a
playlist from elsewhere must not make this computer open its own."""
MAX_DOWNLOAD = 256 * 2**20
"""Bytes of a URL or of standard input."""
DOWNLOAD_SECONDS, READ_SECONDS = 120.0, 15.0
"""For a whole download; for the next bytes of a download or a stream."""


@dataclass(frozen=True)
class Source:
    """One input."""

    path: Path | str  # of a file; or a URL, a camera's number, or "-" for standard input
    name: str  # of what is written for it, below the output folder, as a POSIX path
    kind: str = "file"  # "file", "url", "stream" (RTSP), "camera" or "stdin"

    @property
    def is_live(self) -> bool:
        """Whether it has no end."""
        return self.kind in ("stream", "camera")

    @property
    def is_video(self) -> bool:
        """Whether it has an unknown number of pictures."""
        return self.kind != "file" or PurePosixPath(self.path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class SourcePicture:
    """An upright RGB picture, or a frame of a video."""

    name: str  # such as "photo.jpg" or "clip.mp4/frame_000030.jpg"
    image: Image.Image
    frame: int | None = None  # from 0; None for a picture
    seconds: float | None = None  # from the start of the video; None where it is unknown


def find_sources(inputs: Sequence[str | os.PathLike], leave_out: Path | None = None) -> list[Source]:
    """The sources that a user means, each once.

    Args:
        inputs: files; folders, searched to any depth for known suffixes, in the order of their names; patterns such as
            `photos/*.jpg`; `http(s)://` and `rtsp(s)://` addresses; a camera's number; `-` for a picture or a video
            from standard input. An existing file or folder comes before the other meanings of its name.
        leave_out: a folder that is not searched, because results go there.

    Raises:
        ValueError: an input is `leave_out` or lies in it: what is drawn would replace what is read.
    """
    leave_out = None if leave_out is None else leave_out.resolve()
    found: dict[Path | str, Source] = {}
    for given in inputs:
        text = os.fspath(given)
        exists, scheme = os.path.exists(text), text.partition("://")[0].lower() if "://" in text else ""
        if not exists and scheme in ("http", "https", "rtsp", "rtsps"):
            kind, fallback = ("stream", "stream") if scheme.startswith("rtsp") else ("url", "download")
            name = PurePosixPath(unquote(urlsplit(text).path)).name.replace("\0", "").replace("\\", "_")
            found.setdefault(text, Source(text, name if name.strip(".") else fallback, kind))
        elif not exists and text == "-":
            found.setdefault(text, Source(text, "stdin", "stdin"))
        elif not exists and text.isascii() and text.isdigit():
            found.setdefault(text, Source(text, f"camera-{text}", "camera"))
        else:
            is_pattern = glob.has_magic(text) and not exists
            matches = sorted(glob.glob(text, recursive=True)) if is_pattern else []
            for match in map(Path, matches or [text]):
                if leave_out is not None and match.resolve().is_relative_to(leave_out):
                    if is_pattern:
                        continue
                    raise ValueError(f"{match} lies in output_dir={leave_out}: choose another output_dir.")
                for path in _files_below(match, leave_out) if match.is_dir() else [match]:
                    name = path.relative_to(match).as_posix() if match.is_dir() else path.name
                    found.setdefault(path.resolve(), Source(path, name))
    return list(found.values())


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):  # which does not follow links, and so ends
        folders[:] = sorted(name for name in folders if Path(parent, name).resolve() != leave_out)
        paths = (Path(parent, name) for name in sorted(files))
        yield from (path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES)


def read_pictures(source: Source, frame_step: int = 1) -> Iterator[SourcePicture]:
    """The picture of a source, or every `frame_step`-th frame of a video, counted from 0.

    Raises whatever Pillow, the decoders and the network do; an ImportError says which decoder to install.
    """
    if source.kind == "camera":
        frames = _camera_frames(int(source.path))
    elif source.kind == "stream":
        frames = _decoded_frames(source.path)
    elif source.kind == "file" and source.is_video:
        if not Path(source.path).is_file():
            raise FileNotFoundError(f"No such file: {source.path}")
        frames = _decoded_frames(source.path)
    else:
        try:
            content = None if source.kind == "file" else _all_bytes(source)
            image = open_picture(source.path) if content is None else read_picture(content, source.name)
        except UnreadablePictureError as error:
            if not content or not isinstance(error.__cause__, UnidentifiedImageError):
                raise
            frames = _decoded_frames(io.BytesIO(content))  # it may be a video
        else:
            yield SourcePicture(source.name, Image.fromarray(picture_to_array(image)))
            return
    index = -1
    for index, (pixels, seconds) in enumerate(frames):
        if index % frame_step == 0:
            name = f"{source.name}/frame_{index:06d}.jpg"
            yield SourcePicture(name, Image.fromarray(pixels()), index, seconds)
    if index < 0:
        raise ValueError("no frame in it can be decoded")


def _all_bytes(source: Source) -> bytes:
    """Of an address or of standard input, bounded in size and, from the web, in time."""
    if source.kind == "url":
        return download(source.path, READ_SECONDS, MAX_DOWNLOAD, DOWNLOAD_SECONDS)
    content = sys.stdin.buffer.read(MAX_DOWNLOAD + 1)
    if len(content) > MAX_DOWNLOAD:
        raise ValueError(f"it has more than {MAX_DOWNLOAD} bytes")
    return content


def _decoded_frames(video: Path | str | BinaryIO) -> Iterator[tuple]:
    """A function that gives the pixels, `(H, W, 3)` uint8, upright, and the seconds of each frame of a video.

    `video` is the path of a file, an RTSP address, or an open file.
    """
    try:
        import av
    except ImportError:
        raise ImportError("videos are read with PyAV: `pip install av`") from None
    options = {"options": {"format_whitelist": VIDEO_FORMATS}}
    if isinstance(video, str):
        options = {"options": {"rtsp_flags": "prefer_tcp", "format_whitelist": "rtsp,rtp,sdp,mpegts"}}
        options["timeout"] = (READ_SECONDS, READ_SECONDS)
    # an absolute path is never taken for the name of a protocol, such as `concat:`
    with av.open(os.path.abspath(video) if isinstance(video, Path) else video, **options) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            turns = round(frame.rotation / 90)  # counterclockwise, from the display matrix that phones write
            yield lambda frame=frame, turns=turns: np.rot90(frame.to_ndarray(format="rgb24"), turns), frame.time


def _camera_frames(number: int) -> Iterator[tuple]:
    """As `_decoded_frames`, from a camera."""
    try:
        import cv2
    except ImportError:
        raise ImportError("cameras are read with OpenCV: `pip install opencv-python-headless`") from None
    camera, begin = cv2.VideoCapture(number), time.monotonic()
    try:
        if not camera.isOpened():
            raise ValueError(f"there is no camera {number}")
        while camera.grab():
            decoded, frame = camera.retrieve()
            if not decoded:
                break
            yield lambda frame=frame: cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), time.monotonic() - begin
    finally:
        camera.release()
