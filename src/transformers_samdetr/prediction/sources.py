"""The pictures that a user means by a file, a folder or a video."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..pictures import PICTURE_SUFFIXES, open_picture, picture_to_array

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv".split())


@dataclass(frozen=True)
class Source:
    """A file, and its name below the input it was found in, as a POSIX path."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(inputs: Sequence[str | os.PathLike], leave_out: Path | None = None) -> list[Source]:
    """Pictures and videos of the inputs, each file once.

    Args:
        inputs: files, taken whatever they are called, and folders, searched to any depth for known suffixes, in the
            order of their names.
        leave_out: a folder that is not searched, because results go there.

    Raises:
        ValueError: an input is `leave_out` or lies in it: what was drawn would replace what is read.
    """
    leave_out = None if leave_out is None else leave_out.resolve()
    found: dict[Path, Source] = {}
    for given in map(Path, inputs):
        if leave_out is not None and given.resolve().is_relative_to(leave_out):
            raise ValueError(f"{given} lies in output_dir={leave_out}: choose another output_dir.")
        for path in _files_below(given, leave_out) if given.is_dir() else [given]:
            name = path.relative_to(given).as_posix() if given.is_dir() else path.name
            found.setdefault(path.resolve(), Source(path, name))
    return list(found.values())


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):  # which does not follow links, and so ends
        folders[:] = sorted(name for name in folders if Path(parent, name).resolve() != leave_out)
        for name in sorted(files):
            if Path(name).suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
                yield Path(parent, name)


def read_pictures(source: Source, frame_step: int = 1) -> Iterator[tuple[str, Image.Image]]:
    """Upright RGB pictures with their names: one of a picture, every `frame_step`-th frame of a video.

    Frames are called `clip.mp4/frame_000030.jpg`, counted from 0.

    Raises:
        ImportError: there is no decoder for a video, naming what to install.
        Exception: whatever Pillow and the decoders raise for a broken file.
    """
    if not source.is_video:
        yield source.name, Image.fromarray(picture_to_array(open_picture(source.path)))
        return
    if not source.path.is_file():
        raise FileNotFoundError(f"No such file: {source.path}")
    index = -1
    for index, frame in enumerate(_video_frames(source.path, frame_step)):
        yield f"{source.name}/frame_{index * frame_step:06d}.jpg", Image.fromarray(frame)
    if index < 0:
        raise ValueError("no frame in it can be decoded")


def _video_frames(path: Path, frame_step: int) -> Iterator[np.ndarray]:
    """`(H, W, 3)` uint8, upright."""
    try:
        import av
    except ImportError:
        raise ImportError("videos are read with PyAV: `pip install av`") from None
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index % frame_step == 0:
                # counterclockwise, in degrees, from the display matrix that phones write; absent before PyAV 14
                quarters = round(getattr(frame, "rotation", 0) / 90)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarters))
