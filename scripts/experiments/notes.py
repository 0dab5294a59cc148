"""NOTES.md, with every table of the experiments, and epochs.csv: functions of the ledger alone, to the byte."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.performance_page import table

from .claims import CLAIMS, NOT_MEASURED, NOT_SHOWN, Finding, judge
from .coco import COCO_RUNS, ledger_path
from .definitions import SEEDS, SUITES
from .results import NO_VALUE, Comparison, RowRuns, estimate, interval
from .runs import Ledger, last_ap
from .timing import latency_ratios

NOT_RUN = "not run yet"


def _mean(values: Iterable[float], digits: int = 1) -> str:
    return interval(estimate(list(values)), digits)


def results_table(comparison: Comparison) -> str:
    """AP and convergence of each row, with what was published on COCO (for Table 5: on Pascal VOC)."""
    metric = comparison.suite.metric
    header = ["", f"published {metric}", metric, "AP75" if metric == "AP50" else "AP50", "mean AP, epochs"]
    time = "time" if comparison.common_time is None else f"first {comparison.common_time:.0f} s"
    header += [f"mean AP, {time}", "epochs to 90 %", "seeds"]
    return table(header, [_result_cells(row, comparison) for row in comparison.rows])


def _result_cells(row: RowRuns, comparison: Comparison) -> list[str]:
    metric = comparison.suite.metric
    published = f"{row.row.published[metric]:.1f}" if metric in row.row.published else NO_VALUE
    if not row.entries:
        return [row.row.label, published, NOT_RUN, *[NO_VALUE] * 4, "0"]
    level, end = comparison.nearly_best, comparison.common_time
    reached = list(row.epochs_to(level).values()) if level else [None]
    return [
        row.row.label,
        published,
        _mean(row.final(metric).values()),
        _mean(row.final("AP75" if metric == "AP50" else "AP50").values()),
        _mean(row.area_by_epoch().values()),
        _mean(row.area_by_time(end).values()),
        "not reached" if None in reached else _mean(reached),
        str(len(row.entries)),
    ]


def cost_table(comparison: Comparison, ratios: Mapping[str, float]) -> str:
    """Size, work and time of each row that was run.

    Args:
        comparison: its first row that was run is what others are compared with in training.
        ratios: latencies by variant, divided by SAM-DETR's.
    """
    rows, body = comparison.measured, []
    for row in rows:
        entry = next(iter(row.entries.values()))
        body.append(
            [
                row.row.label,
                f"{entry['parameters'] / 1e6:.2f} M",
                f"{row.multiply_adds / 1e9:.2f} G",
                f"{_seconds_an_epoch(row):.0f} s",
                f"{_seconds_an_epoch(row) / _seconds_an_epoch(rows[0]):.2f}",
                f"{ratios[row.row.variant]:.2f}" if row.row.variant in ratios else NO_VALUE,
            ]
        )
    header = [
        "",
        "parameters",
        "multiply-adds",
        "training of an epoch",
        f"of {rows[0].row.label}",
        "latency, of SAM-DETR",
    ]
    return table(header, body)


def _seconds_an_epoch(row: RowRuns) -> float:
    """Mean processor time over epochs and seeds."""
    return sum(row.clock(seed)[-1] / len(row.curve(seed)) for seed in row.entries) / len(row.entries)


def rates_table(comparison: Comparison) -> str:
    """Which learning rates were tried for each row, with the AP of the first seed; rows with none yet are left out."""
    rates = comparison.setting.learning_rates
    body = [
        [row.row.label, *(f"{row.tried[rate]:.1f}" if rate in row.tried else NOT_RUN for rate in rates)]
        for row in comparison.rows
        if row.tried
    ]
    return table(["", *(f"{rate:g}" for rate in rates)], body)


def findings_table(findings: Sequence[Finding], comparison: Comparison) -> str:
    """Published and measured differences and the verdicts; claims without are named below.

    Args:
        findings: of one comparison.
        comparison: names the rows.
    """
    judged = [finding for finding in findings if finding.verdict != NOT_MEASURED]
    pairs = [finding for finding in judged if finding.claim.text is None]
    claims = [finding for finding in judged if finding.claim.text is not None]
    parts = [_pairs_table(pairs, comparison)] if pairs else []
    parts += [_claims_table(claims)] if claims else []
    waiting = dict.fromkeys(_name(finding, comparison) for finding in findings if finding.verdict == NOT_MEASURED)
    if waiting:
        parts.append(f"Not yet measured: {'; '.join(waiting)}.")
    return "\n\n".join(parts)


def _name(finding: Finding, comparison: Comparison) -> str:
    """A claim in words."""
    claim = finding.claim
    return claim.text or " – ".join(comparison.of(name).row.label for name in (claim.better, claim.worse))


def _claims_table(findings: Sequence[Finding]) -> str:
    body = [
        [
            finding.claim.text,
            _published(finding),
            interval(finding.difference, sign=True),
            str(finding.difference.count if finding.difference else 0),
            f"**{finding.verdict}**",
        ]
        for finding in findings
    ]
    return table(["claim", "published", "measured", "pairs", "verdict"], body)


MEASURES = {"final": "at the end", "epochs": "over the epochs", "time": "over the time"}


def _pairs_table(findings: Sequence[Finding], comparison: Comparison) -> str:
    """A line for each pair of detectors, with what each measure says of their difference."""
    pairs: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in findings:
        claim = finding.claim
        pairs.setdefault((claim.better, claim.worse), {})[claim.measure] = finding
    body = []
    for names, found in pairs.items():
        labels, first = [comparison.of(name).row.label for name in names], next(iter(found.values()))
        differences = [_difference(found.get(measure)) for measure in MEASURES]
        body.append([" – ".join(labels), _published(first), *differences, str(first.difference.count)])
    return table(["difference in AP", "published, at the end", *MEASURES.values(), "pairs"], body)


def _difference(finding: Finding | None) -> str:
    if finding is None:
        return NO_VALUE
    mark = finding.verdict if finding.verdict == NOT_SHOWN else f"**{finding.verdict}**"
    return f"{interval(finding.difference, sign=True)} {mark.removesuffix(' at this scale')}"


def _published(finding: Finding) -> str:
    return NO_VALUE if finding.claim.published is None else f"{finding.claim.published:+.1f}"


CSV_COLUMNS = ("AP", "AP50", "AP75", "train_loss", "test_loss", "lr", "seconds", "cpu_seconds")


def epochs_csv(comparisons: Iterable[Comparison]) -> str:
    """Every epoch of every run that the report rests on, each once."""
    lines: dict[tuple, list] = {}
    for comparison in comparisons:
        for row in comparison.measured:
            for seed, entry in row.entries.items():
                rate = entry["identity"]["recipe"]["learning_rate"]
                for epoch in entry["epochs"]:
                    key = (comparison.setting.name, row.row.variant, rate, seed, epoch["epoch"])
                    lines[key] = [*key, *(epoch[name] for name in CSV_COLUMNS)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "variant", "learning_rate", "seed", "epoch", *CSV_COLUMNS])
    writer.writerows(lines[key] for key in sorted(lines))
    return text.getvalue()


TEXT = Path(__file__).with_name("notes_text.md")


def write_notes(ledger: Ledger, comparisons: Mapping[str, Sequence[Comparison]], folder: Path, docs: str) -> None:
    """Writes `NOTES.md`, with every table, and `epochs.csv`.

    Args:
        ledger: the finished runs.
        comparisons: of each suite, one for each of its settings.
        folder: of both files.
        docs: the folder with `images/`, as links from `NOTES.md` have it.
    """
    parts = [TEXT.read_text(encoding="utf-8").rstrip(), f"## What was run\n\n{_overview(comparisons)}"]
    for name, found in comparisons.items():
        parts.append(f"## {SUITES[name].title}")
        for comparison in found:
            parts += _section(comparison, ledger, docs)
    parts.append(f"## On COCO, with the paper's settings\n\n{COCO_TEXT}\n\n{_coco_table(ledger)}")
    (folder / "NOTES.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    every = [comparison for found in comparisons.values() for comparison in found]
    (folder / "epochs.csv").write_text(epochs_csv(every), encoding="utf-8")


def picture_name(comparison: Comparison) -> str:
    """The picture of a comparison's curves, relative to the documentation."""
    return f"images/experiments_{comparison.suite.name}_{comparison.setting.name}.png"


def _section(comparison: Comparison, ledger: Ledger, docs: str) -> list[str]:
    """The tables of a suite in a setting."""
    suite, setting = comparison.suite, comparison.setting
    parts = [f"### On {setting.title}"] if len(suite.settings) > 1 else []
    parts.append(results_table(comparison))
    findings = [judge(claim, comparison) for claim in CLAIMS if claim.suite == suite.name]
    if findings:
        parts.append(findings_table(findings, comparison))
    if comparison.measured:
        parts.append(f"![AP by epoch and by training time, {suite.title}]({docs}/{picture_name(comparison)})")
        parts.append(cost_table(comparison, latency_ratios(setting, ledger)))
        if not comparison.timed_in_turn:
            parts.append(OF_RUNS)
    if len(setting.learning_rates) > 1 and any(row.tried for row in comparison.rows):
        parts.append("Learning rates that were tried, AP after the last epoch with the first seed:")
        parts.append(rates_table(comparison))
    return parts


OF_RUNS = "These times are the runs' own: not all rows were timed in turn."

COCO_TEXT = """`--scale coco --dry_run` says commands and cost, `--scale coco --data COCO --processes 8` starts them.
Peers are trained by our loop with AdamW, as all rows; Faster R-CNN's published number is from SGD. Hours are estimates
for 8 GPUs of 80 GB ([recipes.md](recipes.md))."""


def _coco_table(ledger: Ledger) -> str:
    """Each row of the paper with its recipe, its cost, and its AP where it was run with seed 0."""
    rows = {row.recipe: row for suite in SUITES.values() for row in suite.rows if row.recipe}
    body = []
    for name, row in rows.items():
        run = COCO_RUNS[name]
        entry = ledger.read_path(ledger_path(ledger, name, 0), run.identity(run.recipe))
        published = f"{row.published['AP']:.1f}" if row.published else NO_VALUE
        found = NOT_RUN if entry is None else f"{last_ap(entry):.1f}"
        body.append([f"`{name}`", f"{run.hours:.1f}", published, found])
    return table(["recipe", "hours", "published AP", "AP"], body)


def _overview(comparisons: Mapping[str, Sequence[Comparison]]) -> str:
    """How many runs of each suite are finished, and their machines and software."""
    lines, places = [], set()
    for comparison in (comparison for found in comparisons.values() for comparison in found):
        made = [seed in SEEDS for row in comparison.rows for seed in row.entries]
        done, more = sum(made), len(made) - sum(made)
        line = f"- {comparison.suite.title}, on {comparison.setting.title}: "
        line += f"{done} of {len(comparison.rows) * len(SEEDS)} runs"
        lines.append(f"{line}, and {more} with further seeds." if more else f"{line}.")
        places |= {_place(entry) for row in comparison.rows for entry in row.entries.values()}
    return "\n".join([*lines, *([""] if places else []), *sorted(places)])


def _place(entry: dict) -> str:
    machine, software = entry["machine"], entry["software"]
    versions = ", ".join(f"{name} {software[name]}" for name in ("python", "torch", "transformers", "timm"))
    threads = "one thread each" if machine["threads"] == 1 else f"{machine['threads']} threads each"
    return f"Run with {threads} on {machine['cpu']}; {versions}."
