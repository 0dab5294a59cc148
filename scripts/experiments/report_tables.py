"""The report's tables, in Markdown, and its CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.report import table

from .claims import NOT_MEASURED, NOT_SHOWN, Finding
from .comparison import Comparison, RowRuns
from .statistics import Estimate, estimate

NOT_RUN = "not run yet"
NONE = "–"


def interval(found: Estimate | None, digits: int = 1, sign: bool = False) -> str:
    """`12.3 ± 1.5`, the interval's half width; of a single run no interval."""
    if found is None:
        return NONE
    number = f"{found.mean:{'+' if sign else ''}.{digits}f}"
    return number if found.half_width is None else f"{number} ± {found.half_width:.{digits}f}"


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
    published = f"{row.row.published[metric]:.1f}" if metric in row.row.published else NONE
    if not row.entries:
        return [row.row.label, published, NOT_RUN, *[NONE] * 4, "0"]
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
                f"{ratios[row.row.variant]:.2f}" if row.row.variant in ratios else NONE,
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
        return NONE
    mark = finding.verdict if finding.verdict == NOT_SHOWN else f"**{finding.verdict}**"
    return f"{interval(finding.difference, sign=True)} {mark.removesuffix(' at this scale')}"


def _published(finding: Finding) -> str:
    return NONE if finding.claim.published is None else f"{finding.claim.published:+.1f}"


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
