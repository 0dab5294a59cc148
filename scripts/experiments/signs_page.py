"""The tables and pictures of docs/signs.md and NOTES_signs.md, from the measurements in `signs/*.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.performance_page import table, write_section

from .overfit import ENOUGH
from .results import interval, paired_difference

HERE = Path(__file__).parent
PAGE, NOTES = "signs.md", "NOTES_signs.md"
FOLDER = "signs"
"""Of the pictures beside the page, and of the measurements beside the notes."""
OVERFIT_FILE = "overfit.json"
DIGITS_FILE = "digits.json"
COLOURS = {"keypoints": "#0072B2", "keypoints-dn": "#009E73", "none": "#D55E00"}
"""By Okabe and Ito, distinct with every kind of colour vision."""
LABELS = {"keypoints": "aligner", "keypoints-dn": "aligner with DN", "none": "no aligner"}
SPACE_TITLES = {"features": "as features", "attention": "as projected by cross-attention"}

Run = Mapping[str, Any]


def save_runs(path: Path, runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Writes runs to a JSON file; those with the same values of `keys` are replaced, the others stay."""
    found = {tuple(run[key] for key in keys): run for run in [*load_runs(path), *runs]}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(run) for run in found.values())
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def load_runs(path: Path) -> list[Run]:
    """The runs of a JSON file; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def write_page(docs: Path, notes: Path = HERE) -> None:
    """Renews the tables of page and notes and the pictures; the text between them stays.

    Args:
        docs: has `signs.md`, the page; gets its pictures, in `signs/`.
        notes: has `NOTES_signs.md`, and the measurements in `signs/`.
    """
    page, details, folder = docs / PAGE, notes / NOTES, docs / FOLDER
    overfit, digits = load_runs(notes / FOLDER / OVERFIT_FILE), load_runs(notes / FOLDER / DIGITS_FILE)
    if overfit:
        write_section(page, "overfit", overfit_table(overfit))
    if any(run["name"] != "none" for run in digits):  # which is not matched for this comparison
        write_section(page, "matching", matching_difference(digits))
        write_section(details, "matching", matching_table(digits))
        matching_figure(digits).savefig(folder / "matching.png", dpi=110)
    if digits:
        write_section(details, "similarity", similarity_table(digits))
        similarity_figure(digits).savefig(folder / "similarity.png", dpi=110)
        write_section(details, "attention", attention_table(digits))
        attention_figure(digits).savefig(folder / "attention.png", dpi=110)
        write_section(page, "cost", cost_table(digits))


def overfit_table(runs: Sequence[Run]) -> str:
    """A row for each run: steps until its photographs were learned, the AP at the end, and what it took."""
    rows = []
    for run in runs:
        reached = next((s for s, ap in zip(run["steps"], run["AP"], strict=True) if ap >= ENOUGH), None)
        rows.append(
            [
                run["variant"],
                str(run["seed"]),
                "not reached" if reached is None else str(reached),
                str(run["steps"][-1]),
                f"{run['AP'][-1]:.1f}",
                f"{run['cpu_seconds'] / 60:.1f} min",
            ]
        )
    return table(
        ["variant", "seed", f"steps to AP {ENOUGH:g}", "steps in all", "AP at the end", "processor time"], rows
    )


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each name, in the order in which they are shown."""
    return {name: found for name in COLOURS if (found := [run for run in runs if run["name"] == name])}


def mean_and_range(values: Sequence[float], digits: int) -> str:
    """`0.52 (0.50 to 0.55)`, the mean and the range over seeds; of one seed the value alone."""
    mean = f"{_mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def matching_table(runs: Sequence[Run]) -> str:
    """Each epoch's share of objects that have another query than an epoch before, at the last layer, and DN-DETR's."""
    groups = {name: found for name, found in by_name(runs).items() if name != "none"}
    epochs = range(1, min(len(run["epochs"]) for found in groups.values() for run in found))
    rows = []
    for epoch in epochs:
        cells = [str(epoch)]
        for key, scale, digits in (("changed", 100, 1), ("instability", 1, 2)):
            for found in groups.values():
                values = [scale * run["epochs"][epoch][key][-1] for run in found]
                cells.append(mean_and_range(values, digits))
        rows.append(cells)
    names = [LABELS[name] for name in groups]
    header = ["epoch", *(f"% changed, {name}" for name in names), *(f"queries an image, {name}" for name in names)]
    return table(header, rows)


def matching_difference(runs: Sequence[Run]) -> str:
    """A sentence: how much less the matching changes with denoising, from the mean over the epochs of each seed."""
    groups = by_name(runs)
    parts = []
    for key, scale, unit in (("changed", 100, "% of the objects"), ("instability", 1, "queries an image")):
        with_dn, without = (
            {run["seed"]: scale * _mean_of_last_layer(run, key) for run in groups.get(name, ())}
            for name in ("keypoints-dn", "keypoints")
        )
        found = paired_difference(with_dn, without)
        if found is None:
            return "No seed was run with denoising and without."
        parts.append(f"{interval(found, 2, sign=True)} {unit}")
    pairs = "1 pair" if found.count == 1 else f"{found.count} pairs of runs with the same seed, 95 % intervals"
    return f"With denoising minus without, mean over the epochs: {' and '.join(parts)} ({pairs})."


def _mean_of_last_layer(run: Run, key: str) -> float:
    """Over the epochs after the first measurement, which has nothing to be compared with."""
    return _mean([epoch[key][-1] for epoch in run["epochs"][1:]])


def similarity_table(runs: Sequence[Run]) -> str:
    """Similarity of queries and regions at the first and the last epoch, and by how much it is above the image's."""
    rows = []
    for space in SPACE_TITLES:
        for name, found in by_name(runs).items():
            for layer in range(len(found[0]["epochs"][0][space]["region"])):
                cells = [SPACE_TITLES[space], LABELS[name], str(layer + 1)]
                for epoch in (0, 1, -1):
                    parts = [run["epochs"][epoch][space] for run in found]
                    region = [part["region"][layer] for part in parts]
                    gain = [part["region"][layer] - part["image"][layer] for part in parts]
                    cells.append(
                        f"{round(_mean(region), 2) + 0.0:.2f} ({round(_mean(gain), 2) + 0.0:+.2f})"
                    )  # no -0.00
                rows.append(cells)
    return table(["compared", "model", "layer", "before training", "after epoch 1", "at the end"], rows)


def attention_table(runs: Sequence[Run]) -> str:
    """The share of attention in the own box at the first and the last epoch, and how often it is the area's."""
    rows = []
    for name, found in by_name(runs).items():
        for layer in range(len(found[0]["epochs"][0]["boxes"]["weight"])):
            cells = [LABELS[name], str(layer + 1)]
            for epoch in (0, 1, -1):
                parts = [run["epochs"][epoch]["boxes"] for run in found]
                weights = [100 * part["weight"][layer] for part in parts]
                times = _mean(weights) / _mean([100 * part["area"][layer] for part in parts])
                cells.append(f"{mean_and_range(weights, 1)}, {times:.1f}")
            rows.append(cells)
    return table(["model", "layer", "before training", "after epoch 1", "at the end"], rows)


def cost_table(runs: Sequence[Run]) -> str:
    """A row for each kind of run: seeds, AP at the end, and processor time."""
    rows = [
        [
            LABELS[name],
            ", ".join(str(run["seed"]) for run in found),
            mean_and_range([run["epochs"][-1]["AP"] for run in found], 1),
            f"{sum(run['cpu_seconds'] for run in found) / 60:.1f} min",
        ]
        for name, found in by_name(runs).items()
    ]
    return table(["model", "seeds", "AP at the end", "processor time, all seeds"], rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw(
    axes: Axes, rows: Sequence[Sequence[float]], first: int, label: str, colour: str, dashed: bool = False
) -> None:
    """The mean over seeds as a line from epoch `first` on, their range as a band."""
    columns = list(zip(*rows, strict=True))
    epochs = range(first, first + len(columns))
    style = {"linestyle": "--", "linewidth": 1.2} if dashed else {"linewidth": 1.8, "marker": "."}
    axes.plot(epochs, [_mean(column) for column in columns], color=colour, label=label, **style)
    low, high = ([choose(column) for column in columns] for choose in (min, max))
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _plain(axes: Axes) -> None:
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def matching_figure(runs: Sequence[Run]) -> Figure:
    """Left the share of objects with another query than an epoch before, at the last layer; right the AP."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    changed, precision = figure.subplots(1, 2)
    for name, found in by_name(runs).items():
        if name == "none":
            continue
        rows = [[100 * epoch["changed"][-1] for epoch in run["epochs"][1:]] for run in found]
        _draw(changed, rows, 1, LABELS[name], COLOURS[name])
        _draw(
            precision, [[epoch["AP"] for epoch in run["epochs"][1:]] for run in found], 1, LABELS[name], COLOURS[name]
        )
    changed.set_title("Objects with another query than an epoch before (%)")
    precision.set_title("Average precision on other scenes (%)")
    for axes in (changed, precision):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
        _plain(axes)
    return figure


def similarity_figure(runs: Sequence[Run]) -> Figure:
    """Similarity by epoch: a row for each space, a column for each layer; dashed that with the whole image."""
    groups = {name: found for name, found in by_name(runs).items() if name != "keypoints-dn"}
    layers = len(next(iter(groups.values()))[0]["epochs"][0]["features"]["region"])
    figure = Figure(figsize=(3.4 * layers, 6), layout="constrained")
    grid = figure.subplots(len(SPACE_TITLES), layers, sharex=True, sharey="row", squeeze=False)
    for row, space in zip(grid, SPACE_TITLES, strict=True):
        for layer, axes in enumerate(row):
            for name, found in groups.items():
                for part, text in (("region", "own region"), ("image", "whole image")):
                    values = [[epoch[space][part][layer] for epoch in run["epochs"]] for run in found]
                    label = f"{LABELS[name]}, {text}"
                    _draw(axes, values, 0, label, COLOURS[name], dashed=part == "image")
            axes.set_title(f"Layer {layer + 1}, {SPACE_TITLES[space]}", fontsize=10)
            _plain(axes)
        row[0].set_ylabel("cosine similarity")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def attention_figure(runs: Sequence[Run]) -> Figure:
    """The share of cross-attention in the own box by epoch, a panel for each layer; dashed that of the area."""
    groups = by_name(runs)
    layers = len(next(iter(groups.values()))[0]["epochs"][0]["boxes"]["weight"])
    figure = Figure(figsize=(3.4 * layers, 3.6), layout="constrained")
    (row,) = figure.subplots(1, layers, sharey=True, squeeze=False)
    for layer, axes in enumerate(row):
        for name, found in groups.items():
            rows = [[100 * epoch["boxes"]["weight"][layer] for epoch in run["epochs"]] for run in found]
            _draw(axes, rows, 0, LABELS[name], COLOURS[name])
        # the same boxes for all models
        areas = [100 * epoch["boxes"]["area"][layer] for epoch in runs[0]["epochs"]]
        _draw(axes, [areas], 0, "even attention", "#666666", dashed=True)
        axes.set_title(f"Layer {layer + 1}", fontsize=10)
        axes.set_xlabel("epoch")
        _plain(axes)
    row[0].set_ylabel("attention in the own box, %")
    row[0].set_ylim(bottom=0)  # once all is drawn: the axis is shared, and no longer grows
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
