"""Processes for tests: torch.distributed on this machine, started in a fraction of a second, and bounded in time.

They are forked from a server that has imported what they need and computed nothing, so that no thread is lost.
"""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preload"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _run(function: Callable, arguments: tuple, environment: dict[str, str], pipe) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send((True, function(*arguments)))
    except BaseException as error:  # SystemExit too: the parent reports it
        pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        if isinstance(error, SystemExit):
            raise
        os._exit(1)


class Processes:
    """`count` processes that call `function(*arguments)`, in the environment that a launcher would give them."""

    def __init__(self, function: Callable, *arguments: Any, count: int = 1, distributed: bool | None = None):
        shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.pipes, self.processes = [], []
        for rank in range(count):
            environment = dict(shared)
            if count > 1 if distributed is None else distributed:
                sizes = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank}
                environment |= {name: str(value) for name, value in sizes.items()} | {"ACCELERATE_USE_CPU": "true"}
            receiver, sender = FORKS.Pipe(duplex=False)
            process = FORKS.Process(target=_run, args=(function, arguments, environment, sender), daemon=True)
            process.start()
            sender.close()
            self.pipes.append(receiver)
            self.processes.append(process)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def outcome(self, rank: int, seconds: float = 120) -> tuple[bool, Any]:
        """(True, what the function returned) or (False, its error); the error is EOFError's where it was killed."""
        assert self.pipes[rank].poll(seconds), f"process {rank} says nothing for {seconds} s"
        try:
            outcome = self.pipes[rank].recv()
        except EOFError:
            outcome = (False, "EOFError: the process was killed")
        self.processes[rank].join(10)
        return outcome

    def results(self, seconds: float = 120) -> list[Any]:
        """What the functions returned, by rank."""
        deadline, results = time.monotonic() + seconds, []
        for rank in range(len(self.processes)):
            good, value = self.outcome(rank, max(deadline - time.monotonic(), 0.1))
            assert good, f"process {rank}: {value}"
            results.append(value)
        return results


def run(function: Callable, *arguments: Any, count: int = 1, seconds: float = 120) -> list[Any]:
    """Results of `count` processes, by rank."""
    with Processes(function, *arguments, count=count) as processes:
        return processes.results(seconds)
