"""`--preset gpu`: measures the plan's groups in the order of their importance, within a budget of time.

Works run in processes that this one watches. One that fails says why; one that spoils its process, or does not answer,
is left out, and its group begins again without it. Groups for which no time is left are named.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .gpu_plan import Group
from .measure import Measurement, Progress, Worker
from .work import Work

MARGIN = 8
"""Seconds of the budget for ending processes and writing the last page."""
START = 90
"""Seconds in which a process must be there."""
ROUNDS = 12
"""Seconds of a group's share, or a quarter of it, that are kept for repetitions, when works take long to prepare."""
PATIENCE = 5
"""Seconds that a repetition may take beyond its group's share."""


def start_worker() -> Worker:
    return Worker("benchmarks.gpu_worker", OMP_NUM_THREADS="8", TORCHINDUCTOR_COMPILE_THREADS="4")


class _Broken(Exception):
    """A work has taken its process with it, and all that was prepared there."""


@dataclass(eq=False)
class _Lane:
    """A process and what it measures."""

    worker: Worker
    measurements: list[Measurement]

    def prepare(self, entries: list[Measurement]) -> None:
        self.worker.send({"prepare": [entry.work.to_dict() for entry in entries]})

    def prepared(self, entries: list[Measurement], seconds: float) -> None:
        """The answer to `prepare`; raises `_Broken` if the process cannot be used any more."""
        try:
            answers = self.worker.receive(max(seconds, 0.0))["each"]
        except RuntimeError as error:
            answers = [{"error": f"preparing: {error}", "worn": True}] * len(entries)
        for entry, answer in zip(entries, answers, strict=True):
            entry.first_seconds, entry.peak_bytes = answer.get("first_seconds"), answer.get("peak_bytes")
            self._check(entry, answer)

    def once(self, name: str, entry: Measurement, seconds: float) -> dict[str, Any] | None:
        """The answer to `repeat` or `count`; None if it failed, and `_Broken` as above."""
        self.worker.send({name: entry.work.to_dict()})
        try:
            answer = self.worker.receive(max(seconds, 0.0))
        except RuntimeError as error:
            answer = {"error": f"{name}: {error}", "worn": True}
        self._check(entry, answer)
        return answer if entry.error is None else None

    @staticmethod
    def _check(entry: Measurement, answer: dict[str, Any]) -> None:
        entry.error = answer.get("error")
        if answer.get("worn"):
            raise _Broken(f"{entry.work.label}: {entry.error}")

    @property
    def ready(self) -> list[Measurement]:
        return [entry for entry in self.measurements if entry.error is None and entry.first_seconds is not None]


class Run:
    """Measures a plan.

    Args:
        seconds: budget, counted from `began`.
        save: takes what is found so far, after each work.
        progress: takes a line of text after each step.
        start: starts a process.
        began: of `clock`.
    """

    def __init__(
        self,
        seconds: float,
        save: Callable[[dict[str, Any]], None] = lambda gpu: None,
        progress: Progress = lambda line: None,
        start: Callable[[], Worker] = start_worker,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.clock, self.start, self.progress, self._save = clock, start, progress, save
        self.began = clock() if began is None else began
        self.budget, self.deadline = seconds, self.began + seconds - MARGIN
        self.shared: Worker | None = None
        self.gpu: dict[str, Any] = {"budget": seconds, "groups": []}

    def measure(self, plan: Sequence[Group]) -> dict[str, Any]:
        """The machine, and of each group its measurements, its seconds, and why it was left out.

        Raises:
            RuntimeError: there is no GPU.
        """
        try:
            self.shared = self.start()
            self.gpu["machine"] = self.shared.ask({"describe": True}, START)
            self._write()
            for group in plan:
                self._measure(group)
        finally:
            if self.shared is not None:
                self.shared.close(patience=3)
        self._write()
        return self.gpu

    def _write(self) -> None:
        self.gpu["spent"] = round(self.clock() - self.began, 1)
        self._save(self.gpu)

    def _measure(self, group: Group) -> None:
        begin = self.clock()
        found = [Measurement(work) for work in group.works]
        row = {"name": group.name, "left_out": None, "measurements": []}
        self.gpu["groups"].append(row)

        def write() -> None:
            row["seconds"] = round(self.clock() - begin, 1)
            row["measurements"] = [entry.to_dict() for entry in found]
            self._write()

        left = self.deadline - begin
        if left < group.least:
            row["left_out"] = f"{max(left, 0):.0f} s were left, and it takes {group.least} or more"
            found = []
        attempt = self._apart if group.apart else self._together
        attempt(group, found, begin + min(group.seconds, left), write)
        for entry in found:
            if entry.error is None and not entry.seconds and not entry.counts:
                entry.error = "not measured: the group's share of time was used"
        write()
        self.progress(f"{group.name}: {row['left_out'] or '{:.0f} s'.format(row['seconds'])}")

    def _together(self, group: Group, works: list[Measurement], end: float, write: Callable[[], None]) -> None:
        """In one process; again without a work that breaks it."""
        while works and self.clock() < end:
            if self.shared is None:
                before, self.shared = self.clock(), self.start()
                self.shared.ask({"describe": True}, START)
                end = min(end + self.clock() - before, self.deadline)
            lane = _Lane(self.shared, works)
            try:
                for entry in works:
                    if self.clock() < end - min(ROUNDS, group.seconds / 4):
                        lane.prepare([entry])
                        self._prepared(lane, [entry], group.seconds / 2, write)
                self._rounds(group, [lane], end)
                self.shared.ask({"drop": True}, START)
                return
            except (_Broken, RuntimeError) as error:
                self.progress(f"{error}; with a new process")
                self.shared.close(patience=0)
                self.shared = None
                if not isinstance(error, _Broken):
                    return
                works = [entry for entry in works if entry.error is None]
                for entry in works:
                    entry.first_seconds, entry.seconds = None, []

    def _apart(self, group: Group, works: list[Measurement], end: float, write: Callable[[], None]) -> None:
        """Each model and precision in a process of its own, all at once until they are ready, then in turn."""
        by_process: dict[Work, list[Measurement]] = {}
        for entry in works:
            by_process.setdefault(dataclasses.replace(entry.work, compiled=False, graphs=False), []).append(entry)
        lanes = [_Lane(self.start(), entries) for entries in by_process.values()]
        ready, latest = [], end - min(ROUNDS, group.seconds / 4)
        try:
            for lane in lanes:
                lane.prepare(lane.measurements)
            for lane in lanes:
                try:
                    self._prepared(lane, lane.measurements, latest - self.clock(), write)
                    ready.append(lane)
                except _Broken as error:
                    self.progress(str(error))
                    for entry in lane.measurements:
                        entry.error = entry.error or f"its process is gone: {error}"
            self._rounds(group, ready, end)
        except _Broken as error:
            self.progress(str(error))
        finally:
            for lane in lanes:
                lane.worker.process.stdin.close()
            for lane in lanes:
                lane.worker.close(patience=3)

    def _prepared(self, lane: _Lane, entries: list[Measurement], seconds: float, write: Callable[[], None]) -> None:
        lane.prepared(entries, seconds)
        for entry in entries:
            self.progress(f"{entry.work.label}: {entry.error or 'ready'}")
        write()

    def _rounds(self, group: Group, lanes: list[_Lane], end: float) -> None:
        """Repetitions of all works in turn, until the time is up."""
        name = "count" if group.counted else "repeat"
        for _ in range(1 if group.counted else group.rounds):
            for lane, entry in [(each, entry) for each in lanes for entry in each.ready]:
                if self.clock() > end:
                    return
                answer = lane.once(name, entry, end - self.clock() + PATIENCE)
                if answer is not None and group.counted:
                    entry.counts = answer
                elif answer is not None:
                    entry.seconds.append(answer["seconds"])
