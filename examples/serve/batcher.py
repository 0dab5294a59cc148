"""Dynamic batching: items that wait are processed together, and no item waits long for others."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class BusyError(RuntimeError):
    """Too many items are waiting; retry later."""


class Batcher(Generic[Item, Result]):
    """A thread that calls `process` on batches of the submitted items; a context manager, which ends the thread.

    Args:
        process: returns a result for each item of a list, in its order.
        max_batch: maximum number of items in a call.
        max_wait: seconds that the first item of a batch waits for others.
        max_waiting: maximum number of waiting items; `submit` refuses more.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int = 8,
        max_wait: float = 0.01,
        max_waiting: int = 64,
    ):
        numbers = {"max_batch": (max_batch, 1), "max_waiting": (max_waiting, 1), "max_wait": (max_wait, 0)}
        for name, (value, least) in numbers.items():
            if not value >= least:
                raise ValueError(f"{name}={value} must be at least {least}.")
        self.process = process
        self.max_batch = max_batch
        self.max_wait = max_wait
        self._waiting: queue.Queue[tuple[Item, Future[Result]] | None] = queue.Queue(max_waiting)
        self._closed = False
        self._lock = threading.Lock()  # nothing may be put after the None that ends the thread
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """Returns a future of the item's result; if it is cancelled before its turn, the item is skipped.

        Raises:
            BusyError: `max_waiting` items wait.
            RuntimeError: the batcher is closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The batcher is closed.")
            try:
                self._waiting.put_nowait((item, future))
            except queue.Full:
                raise BusyError(f"{self._waiting.maxsize} items wait already.") from None
        return future

    @property
    def waiting(self) -> int:
        """Approximate number of items that wait for a call."""
        return self._waiting.qsize()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Processes the waiting items, then ends the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)  # the thread makes room
        self._thread.join()

    def __enter__(self) -> "Batcher[Item, Result]":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            batch, goes_on = self._next_batch()
            batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _next_batch(self) -> tuple[list[tuple[Item, "Future[Result]"]], bool]:
        """The next batch, and whether the batcher is still open."""
        batch = []
        entry = self._waiting.get()
        deadline = time.monotonic() + self.max_wait
        while entry is not None:
            batch.append(entry)
            if len(batch) == self.max_batch:
                return batch, True
            try:
                entry = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False

    def _answer(self, batch: list[tuple[Item, "Future[Result]"]]) -> None:
        try:
            results = self.process([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"process returned {len(results)} results for {len(batch)} items.")
        except Exception as error:  # the caller gets the model's error, and the thread goes on
            if len(batch) > 1:  # process each alone, to find the one that fails
                for entry in batch:
                    self._answer([entry])
            else:
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
