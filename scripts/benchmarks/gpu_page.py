"""The GPU's section of docs/performance.md, made from what `benchmarks.gpu.Run` found."""

from collections.abc import Callable, Sequence
from typing import Any

from .cells import machine_text, mebibytes, number, seconds, table
from .gpu_plan import CONDITIONAL, DEFORMABLE, EARLIER, GPU_BARS
from .work import Measurement, Work

PEERS_OF_OURS = {"sam-detr-r50": CONDITIONAL, "sam-detr-pp": DEFORMABLE}
"""What a model of ours is set beside, by how its name begins: one scale, or several."""
TITLES = {"inference": "inference", "step": "training step", "training": "forward and backward"}
UNMEASURED = "not measured"
"""How an error begins that says no more than that time was up."""


def gpu_text(gpu: dict[str, Any]) -> str:
    """The bars, then time, memory, the host's share and pictures a second, with what failed and what was left out."""
    groups = [[_measurement(entry) for entry in group["measurements"]] for group in gpu["groups"]]
    parts = [_about(gpu), _bars_table(groups)]
    parts += [_time_table(groups, task, batch) for task, batch in _timed(groups)]
    parts += [_memory_table(groups), _host_table(groups), _rest(gpu, groups)]
    return "\n\n".join(part for part in parts if part)


def _rest(gpu: dict[str, Any], groups: Sequence[Sequence[Measurement]]) -> str:
    """What has no figure, and why."""
    entries = [entry for group in groups for entry in group if entry.error]
    failed = [f"{entry.work.label}: {entry.error}" for entry in entries if not entry.error.startswith(UNMEASURED)]
    late = [entry.work.label for entry in entries if entry.error.startswith(UNMEASURED)]
    left_out = [f"{group['name']} ({group['left_out']})" for group in gpu["groups"] if group["left_out"]]
    kinds = {
        "Failed": failed,
        "Its group's share of time was used before it was measured": late,
        "Left out": left_out,
    }
    return " ".join(f"{kind}: {'; '.join(names)}." for kind, names in kinds.items() if names)


def _about(gpu: dict[str, Any]) -> str:
    if not gpu["groups"]:
        return "Not run yet on a GPU: every bar waits for one."
    return f"{machine_text(gpu['machine'], gap=' ')} The run took {gpu['spent']:.0f} of {gpu['budget']:.0f} s."


def _measurement(entry: dict[str, Any]) -> Measurement:
    names = ("seconds", "first_seconds", "peak_bytes", "error", "counts")
    return Measurement(Work(**entry["work"]), *(entry[name] for name in names))


def _has_time(entry: Measurement) -> bool:
    return entry.error is None and bool(entry.seconds)


def _bars_table(groups: Sequence[Sequence[Measurement]]) -> str:
    body = []
    for bar in GPU_BARS:
        row = next((row for group in groups if (row := _judged(bar, group))["ratio"] is not None), None)
        show = mebibytes if bar.memory else seconds
        aim = number(bar.aim) if bar.aim_seconds is None else f"≤ {seconds(bar.aim_seconds)} on an H100"
        figures = ["–", "–", "–", _without_ratio(bar, groups)]
        if row is not None:
            verdict = {"aim": "aim met", "bar": "bar met"}.get(row["verdict"], row["verdict"])
            figures = [show(row["ours"]), show(row["other"]), f"**{number(row['ratio'])}**", verdict]
        place = f"{bar.name} / {bar.other.model}{', compiled, graphs' if bar.other.graphs else ''}"
        body.append([place, *figures[:3], number(bar.bar), aim, figures[3], EARLIER.get(bar.name, "–")])
    return table(["ours / other's", "ours", "other's", "ratio", "bar", "aim", "verdict", "earlier"], body)


def _judged(bar: Any, group: Sequence[Measurement]) -> dict[str, Any]:
    """Within one group: there both were measured in turn."""
    found = {entry.work: entry for entry in group if entry.error is not None or entry.seconds}
    for work in (*bar.ours, bar.other):
        found.setdefault(work, Measurement(work, error=UNMEASURED))
    return bar.judge(found)


def _without_ratio(bar: Any, groups: Sequence[Sequence[Measurement]]) -> str:
    errors = [entry.error for group in groups for entry in group if entry.work in (*bar.ours, bar.other)]
    is_failed = any(error is not None and not error.startswith(UNMEASURED) for error in errors)
    return "failed" if is_failed else "waits for a GPU"


def _timed(groups: Sequence[Sequence[Measurement]]) -> list[tuple[str, int]]:
    """Task and batch of the tables of time; of the task `training` memory alone is of interest."""
    works = [entry.work for group in groups for entry in group]
    keys = {(work.task, work.batch_size) for work in works if work.task in ("inference", "step")}
    return sorted(keys)


def _how(work: Work) -> str:
    modes = {(False, False): "eager", (False, True): "graphs", (True, False): "compiled"}
    return f"{modes.get((work.compiled, work.graphs), 'compiled, graphs')}, {work.dtype}"


Value = Callable[[Measurement], float | None]


def _cell(group: Sequence[Measurement], entry: Measurement, value: Value, show: Callable[[float], str]) -> str:
    """The figure, and in brackets its ratio to the peer's in the same group."""
    own = value(entry)
    if own is None:
        return "failed" if entry.error and not entry.error.startswith(UNMEASURED) else "–"
    work = entry.work
    peer = next((peer for start, peer in PEERS_OF_OURS.items() if work.is_ours and work.model.startswith(start)), None)
    others = [value(each) for each in group if each.work.model == peer and _same_setting(each.work, work)]
    return f"{show(own)} (**{own / others[0]:.2f}**)" if others and others[0] else show(own)


def _same_setting(one: Work, other: Work) -> bool:
    names = ("task", "batch_size", "dtype", "compiled", "graphs")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _grid(first: str, cells: dict[tuple[str, str], str], order: Callable[[str], Any] | None = None) -> str:
    """A table of cells by row and column; columns without any figure are left out."""
    shown = {column for (_, column), cell in cells.items() if cell != "–"}
    columns = [name for name in dict.fromkeys(column for _, column in cells) if name in shown]
    if order is not None:
        columns.sort(key=order)
    rows = dict.fromkeys(row for row, column in cells if column in columns)
    return table([first, *columns], [[row, *(cells.get((row, name), "–") for name in columns)] for row in rows])


MODES = ("eager", "graphs", "compiled", "compiled, graphs")


def _by_mode(column: str) -> tuple[int, bool]:
    mode, _, dtype = column.rpartition(", ")
    return MODES.index(mode), dtype != "float32"


def _time_table(groups: Sequence[Sequence[Measurement]], task: str, batch: int) -> str:
    def value(entry: Measurement) -> float | None:
        return entry.median if _has_time(entry) else None

    cells = {
        (entry.work.model, _how(entry.work)): _cell(group, entry, value, seconds)
        for group in groups
        for entry in group
        if (entry.work.task, entry.work.batch_size) == (task, batch) and not entry.counts
    }
    return _grid(f"{TITLES[task]}, batch {batch}: time", cells, _by_mode) if _any_figure(cells) else ""


def _any_figure(cells: dict[tuple[str, str], str]) -> bool:
    return any(cell != "–" for cell in cells.values())


def _memory_table(groups: Sequence[Sequence[Measurement]]) -> str:
    def value(entry: Measurement) -> float | None:
        return entry.peak_bytes if entry.error is None else None

    cells = {}
    for group in groups:
        for entry in group:
            work = entry.work
            if work.task in TITLES and not (work.compiled or work.graphs or entry.counts):
                column = f"{TITLES[work.task]}, batch {work.batch_size}, {work.dtype}"
                cells[work.model, column] = _cell(group, entry, value, mebibytes)
    return _grid("peak memory", cells) if _any_figure(cells) else ""


def _host_table(groups: Sequence[Sequence[Measurement]]) -> str:
    """What a picture asks of the host, and pictures a second from their files on."""
    medians = {entry.work: entry.median for group in groups for entry in group if _has_time(entry)}
    counted = {entry.work.model: entry for group in groups for entry in group if entry.counts}
    from_files = {
        entry.work.model: _cell(group, entry, _seconds_a_picture, lambda value: f"{1 / value:.1f} a second")
        for group in groups
        for entry in group
        if entry.work.task == "pictures"
    }
    body = []
    for model in dict.fromkeys([*counted, *from_files]):
        row = ["–"] * 5
        if model in counted:
            counts, median = counted[model].counts, medians.get(counted[model].work)
            idle = "–" if median is None else f"{max(1 - counts['busy_seconds'] / median, 0):.0%}"
            numbers = [f"{counts[name]:,}" for name in ("kernels", "entries")]
            row = [*numbers, seconds(counts["busy_seconds"]), seconds(median), idle]
        body.append([model, *row, from_files.get(model, "–")])
    header = ["a picture, eager, float32", "kernels", "dispatcher entries", "device busy", "time", "device idle"]
    return table([*header, "JPEG files to boxes, batch 8, bfloat16"], body) if body else ""


def _seconds_a_picture(entry: Measurement) -> float | None:
    return entry.median / entry.work.batch_size if _has_time(entry) else None
