"""What the tests that fuzz share: bounded cases that are counted, values of every kind of JSON, and broken pictures.

Each case ends in a result, or in an error that is expected and names its input; anything else fails the test.
`-m slow -s` prints how many cases each target had. They are the same each time, unless `FUZZ_TIMES=10` asks for ten
times as many others.
"""

import functools
import io
import os
import resource
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

FEW, MANY = 6, 250
SECONDS = 20
"""Of computing that a case may take."""
STUCK_SECONDS = 200
"""By the clock, for one that waits; others may share the machine."""
MEBIBYTES = 2048
"""That a case may add to the memory."""
EXPECTED = (ValueError, FileNotFoundError, PermissionError)


class TooSlow(BaseException):
    """A case did not end in time; no handler of exceptions may take it."""


def fuzz(few: int = FEW, many: int = MANY) -> Callable:
    """Parametrises a test by `examples`: a few always, many with `-m slow`."""
    cases = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("examples", cases)


def run_cases(target: str, strategy: st.SearchStrategy, check: Callable[[Any], None], examples: int) -> None:
    """Runs `check` on so many cases, within bounds, and prints their number."""
    count, times = 0, int(os.environ.get("FUZZ_TIMES", 0))

    @settings(
        max_examples=examples * max(times, 1),
        deadline=None,
        database=None,
        derandomize=not times,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case: Any) -> None:
        nonlocal count
        count += 1
        with bounded():
            check(case)

    run()
    print(f"\nfuzzed {target}: {count} cases")


@contextmanager
def bounded() -> Iterator[None]:
    """Limits the time and the address space of what runs within."""

    def stop(*_):
        raise TooSlow(f"more than {SECONDS} s of computing, or {STUCK_SECONDS} s by the clock")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEBIBYTES * 2**20, before[1]))
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, STUCK_SECONDS)}
    handlers = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, handlers[number])
        resource.setrlimit(resource.RLIMIT_AS, before)


def ends_well(call: Callable[[], Any], *names: str, expected: tuple[type[Exception], ...] = EXPECTED) -> Any:
    """The result of the call, or None after an expected error with one of the names in its message."""
    try:
        return call()
    except expected as error:
        message = str(error)
        assert not isinstance(error, UnicodeError), message
        assert len(message) < 20000 and any(name in message for name in names), message[:500]
        return None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400])
    | st.floats()
    | st.sampled_from(["", "1", "cat", "../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "\ud800", "NaN", "é\n"])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
"""A value of any kind that Python's JSON reads, NaN and infinity among them."""


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in nested dicts and lists, the whole included."""
    yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


def replaced(content: Any, path: tuple, value: Any) -> Any:
    """A copy with another value at the path."""
    if not path:
        return value
    if isinstance(content, dict):
        return {key: replaced(old, path[1:], value) if key == path[0] else old for key, old in content.items()}
    return [replaced(old, path[1:], value) if index == path[0] else old for index, old in enumerate(content)]


def removed(content: Any, path: tuple) -> Any:
    """A copy without what is at the path."""
    if isinstance(content, dict):
        kept = {key: old for key, old in content.items() if (key,) != path}
        return {key: removed(old, path[1:]) if path[:1] == (key,) else old for key, old in kept.items()}
    if isinstance(content, list):
        kept = [(index, old) for index, old in enumerate(content) if (index,) != path]
        return [removed(old, path[1:]) if path[:1] == (index,) else old for index, old in kept]
    return content


def changed(content: Any) -> st.SearchStrategy:
    """The content with one or two values of any kind in the place of others, or some left out."""
    spots = list(places(content))
    change = st.tuples(st.sampled_from(spots), JSON) | st.tuples(st.sampled_from(spots[1:]), st.just(...))

    def apply(changes: list[tuple]) -> Any:
        result = content
        for path, value in changes:
            result = removed(result, path) if value is ... else replaced_if_there(result, path, value)
        return result

    return st.lists(change, min_size=1, max_size=2).map(apply)


def replaced_if_there(content: Any, path: tuple, value: Any) -> Any:
    """`replaced`, also where an earlier change took the place away."""
    return replaced(content, path, value) if path in set(places(content)) else content


@functools.cache
def whole_pictures() -> list[bytes]:
    """Small pictures in every format that is read, some with EXIF and several bits."""
    image = Image.linear_gradient("L").resize((23, 17)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x9286] = "a comment"
    files = []
    for format, mode, options in (
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {"exif": exif}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("WEBP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {}),
        ("PPM", "RGB", {}),
    ):
        buffer = io.BytesIO()
        (image.convert("L") if mode in ("F", "I;16") else image).convert(mode).save(buffer, format, **options)
        files.append(buffer.getvalue())
    return files


def png(width: int, height: int, pixels: bytes = b"", depth: int = 1, color: int = 0) -> bytes:
    """A PNG that says it is of this size, whatever it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@functools.cache
def strip(width: int, height: int) -> bytes:
    """A whole picture of one pixel's width or height, or of one pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(buffer, "PNG")
    return buffer.getvalue()


BOMBS = [png(60000, 60000), png(60000, 60000, bytes(60000)), png(2**31 - 1, 1), png(0, 0), b"P6 60000 60000 255\n"]
STRIPS = [strip(1, 1), strip(20000, 1), strip(1, 20000)]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A whole picture with bytes changed, cut out, put in, or its end cut off."""
    content = bytearray(draw(st.sampled_from(whole_pictures())))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(len(content) - 1, 400))))
        kind = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 30))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        else:
            del content[place:]
    return bytes(content)


PICTURES = st.one_of(
    broken(), broken(), st.binary(max_size=200), st.sampled_from(BOMBS + STRIPS), st.deferred(lambda: whole())
)
"""Bytes of pictures, most of them broken."""


def whole() -> st.SearchStrategy:
    """Bytes of pictures that are as they should be."""
    return st.sampled_from(whole_pictures())


def tree(folder: Path) -> dict[str, Any]:
    """Every file, link and folder below, with the content of files, to see that nothing has changed."""

    def state(path: Path) -> Any:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {path.relative_to(folder).as_posix(): state(path) for path in folder.rglob("*")}
