"""docs/performance.md and NOTES.md: tables made from performance.json, between the text that is written by hand."""

import json
import re
from pathlib import Path
from typing import Any

from .cells import MEBIBYTE, machine_text, number, seconds, table
from .gpu_page import gpu_text

HERE = Path(__file__).parent
VERDICT_COLOURS = {"aim": "#3a8f5c", "bar": "#c9a227", "missed": "#b5473c"}


def bars_table(rows: list[dict[str, Any]]) -> str:
    def figure(row: dict, key: str) -> str:
        if row[key] is None:
            return "–"
        return f"{row[key] / MEBIBYTE:.0f} MiB" if row["memory"] else seconds(row[key])

    body = [
        [
            row["name"],
            row["against"],
            figure(row, "ours"),
            figure(row, "other"),
            f"**{number(row['ratio'])}**",
            number(row["bar"]),
            number(row["aim"]),
            {"aim": "aim met", "bar": "bar met"}.get(row["verdict"], row["verdict"]),
        ]
        for row in rows
    ]
    text = table(["ours", "against", "ours", "other", "ratio", "bar", "aim", ""], body)
    errors = [f"- {row['name']}: {error}" for row in rows for error in row.get("errors", ())]
    return "\n\n".join([text, *errors])


def measurements_table(measurements: list[dict[str, Any]]) -> str:
    body = []
    for entry in measurements:
        if entry["error"] is not None:
            body.append([entry["label"], f"failed: {entry['error']}", "", "", ""])
            continue
        low, high = entry["quartiles"]
        peak = f"{entry['peak_bytes'] / MEBIBYTE:.0f} MiB" if entry["peak_bytes"] is not None else "–"
        middle = f"{seconds(low)} to {seconds(high)}"
        body.append([entry["label"], seconds(entry["median"]), middle, seconds(min(entry["seconds"])), peak])
    return table(["work", "median", "middle half", "fastest", "peak memory"], body)


def growth_table(axes: list[dict[str, Any]]) -> str:
    body = [
        [
            axis["measurements"][0]["work"]["model"] + (", loss alone" if axis["name"] == "objects" else ""),
            axis["unit"],
            ", ".join(
                f"{value:,}: {seconds(entry.get('median'))}"
                for value, entry in zip(axis["values"], axis["measurements"], strict=True)
            ),
            number(axis["exponent"]),
        ]
        for axis in axes
    ]
    return table(["model", "number of", "time", "exponent"], body)


def stages_table(reports: list[dict[str, Any]]) -> str:
    parts = []
    for report in reports:
        total = report["stages"][-1]["seconds"]
        body = [
            [
                row["name"],
                f"{row['multiply_adds'] / 1e9:.2f}",
                seconds(row["seconds"]),
                f"{row['seconds'] / total:.0%}",
                "–" if row["peak_share"] is None else f"{row['peak_share']:.0%}",
            ]
            for row in report["stages"]
        ]
        peak = f"matrix peak {report['matrix_peak'] / 1e9:.0f} G multiply-adds a second"
        header = ["stage", "G multiply-adds", "time", "share of the time", "share of the peak"]
        parts.append(f"{report['label']}; {peak}:\n\n{table(header, body)}")
    return "\n\n".join(parts)


def lines_table(reports: list[dict[str, Any]]) -> str:
    parts = []
    for report in reports:
        body = [
            [
                row["place"],
                f"`{row['code']}`" if row["code"] else "",
                ", ".join(row["operators"]),
                seconds(row["seconds"]),
                f"{row['share']:.0%}",
            ]
            for row in report["lines"]
        ]
        header = ["line", "code", "operators", "time", "share"]
        parts.append(f"{report['label']}:\n\n{table(header, body)}")
    return "\n\n".join(parts)


def bars_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Each ratio beside its bar and its aim."""
    from matplotlib.figure import Figure  # which only this takes

    shown = [row for row in rows if row["ratio"] is not None and row["bar"] is not None][::-1]
    figure = Figure(figsize=(8, 0.8 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    limit = max([1.25, *(max(row["ratio"], row["bar"]) * 1.15 for row in shown)])
    for place, row in enumerate(shown):
        axes.barh(place, row["ratio"], 0.62, color=VERDICT_COLOURS[row["verdict"]])
        axes.plot([row["bar"]] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2)
        axes.plot([row["aim"]] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1, linestyle=":")
        # in a column of their own, where no line crosses them
        axes.text(1.01, place, f"{row['ratio']:.2f}", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(shown)), [f"{row['name']}\nagainst {row['against'].split()[0]}" for row in shown])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(0, limit)
    axes.set_xlabel(
        "ours / other, less is better; line: bar, dotted: aim; green: aim met, yellow: bar met, red: missed"
    )
    axes.xaxis.label.set_size(8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old results with the new ones in place of those of the same work, row or axis; of GPUs the last run alone."""
    keys = {
        "bars": ("name",),
        "measurements": ("label",),
        "stages": ("label",),
        "lines": ("label",),
        "growth": ("model", "name"),
    }
    merged = {**old, **new}
    for section, names in keys.items():
        entries: dict[tuple, dict] = {}
        for entry in [*old.get(section, []), *new.get(section, [])]:
            entries[tuple(entry[name] for name in names)] = entry
        if entries:
            merged[section] = list(entries.values())
    return merged


def write_section(page: Path, name: str, text: str) -> None:
    """Puts `text` between the page's `<!-- name -->` and `<!-- /name -->`, or at its end where it has none."""
    content = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = f"{begin}\n{text}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(content):
        content = pattern.sub(lambda _: section, content)
    else:
        content = f"{content.rstrip()}\n\n{section}\n"
    page.write_text(content, encoding="utf-8")


def write_report(results: dict[str, Any], docs: Path, notes: Path = HERE) -> dict[str, Any]:
    """Merges the results into `performance.json`; renews the tables of the page and of the notes, and the picture.

    Args:
        results: any of `machine`, `bars`, `measurements`, `growth`, `stages`, `lines`, and `gpu`, which is
            `benchmarks.gpu.Run`'s.
        docs: gets `performance.md`, the page, and `performance.png`.
        notes: gets `NOTES.md`, with the tables that the page has not, and `performance.json`.
    """
    file, page, details = notes / "performance.json", docs / "performance.md", notes / "NOTES.md"
    for folder in (docs, notes):
        folder.mkdir(parents=True, exist_ok=True)
    if "bars" in results:
        bars_picture(results["bars"], docs / "performance.png")
    if file.exists():
        results = merge(json.loads(file.read_text(encoding="utf-8")), results)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture = "![Ratios with their bars and aims](performance.png)"
    sections = {
        "bars": (page, lambda rows: f"{bars_table(rows)}\n\n{picture}"),
        "machine": (page, machine_text),
        "gpu": (page, gpu_text),
        "measurements": (details, measurements_table),
        "growth": (details, growth_table),
        "stages": (details, stages_table),
        "lines": (details, lines_table),
    }
    for name, (path, make) in sections.items():
        if name in results:
            write_section(path, name, make(results[name]))
    return results
