"""A process with one piece of work, told line by line what to do: `python -m benchmarks.worker`.

Each line of its input is JSON and is answered by one line: first the work, then `"repeat"` as often as wanted.
"""

import ctypes
import gc
import json
import os
import sys
import time
from typing import TextIO

from .tasks import prepare
from .work import Work


def resident_peak() -> int:
    """Most bytes of this process that were in memory since `reset_resident_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def reset_resident_peak() -> None:
    """Returns what the allocator holds unused to the system, then makes the present the peak (Linux)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def repeat(call) -> float:
    """Seconds of one repetition, by the call's own clock where it has one."""
    start = time.perf_counter()
    own = call()
    elapsed = time.perf_counter() - start
    return own if isinstance(own, float) else elapsed


def serve(requests: TextIO, answers: TextIO) -> None:
    def answer(**values) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    reset_resident_peak()
    interpreter = resident_peak()  # with everything imported, and no model yet
    work = Work(**json.loads(requests.readline()))
    call = prepare(work)
    first = repeat(call)  # with a compiler, its time; the next one warms up, too, and is measured for memory alone
    reset_resident_peak()
    repeat(call)
    answer(first_seconds=first, peak_bytes=resident_peak() - interpreter)
    for line in requests:
        if json.loads(line) == "repeat":
            answer(seconds=repeat(call))


def main() -> None:
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
