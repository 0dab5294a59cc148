"""docs/experiments.md, its pictures and its CSV: a function of the ledger alone, to the byte."""

from pathlib import Path

from benchmarks.report import table

from .claims import CLAIMS, judge
from .coco import COCO_RUNS, ledger_path
from .comparison import Comparison, compare
from .latency import latency_ratios
from .ledger import Ledger
from .plan import last_ap
from .report_curves import save_curves, save_published
from .report_tables import NONE, NOT_RUN, cost_table, epochs_csv, findings_table, rates_table, results_table
from .settings import SEEDS, SETTINGS
from .suites import SUITES, Suite

HEAD = Path(__file__).with_name("report_head.md")
PAGE, CSV, PICTURES = "experiments.md", "experiments.csv", "images"


def write_report(ledger: Ledger, folder: Path, published_curves: Path | None = None) -> Path:
    """Writes the page, its CSV and its pictures, and returns the page's path.

    The same ledger gives the same bytes, with the same version of Matplotlib for the pictures.

    Args:
        ledger: the finished runs.
        folder: gets `experiments.md` and `experiments.csv`, and `images/experiments_*.png`.
        published_curves: a copy of the authors' logs as CSV, drawn beside ours; without it that part is left out, as in
            the committed page, since the figures of others are not part of this repository.

    Raises:
        LedgerMismatch: an entry is of other settings than those of now.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    parts, comparisons = [HEAD.read_text(encoding="utf-8").rstrip()], []
    parts.append(f"## What was run\n\n{_overview(ledger)}")
    for suite in SUITES.values():
        parts.append(f"## {suite.title}")
        for name in suite.settings:
            comparison = compare(suite, SETTINGS[name], ledger)
            comparisons.append(comparison)
            parts += _section(comparison, folder, ledger)
        if suite.name == "figure6" and published_curves is not None:
            save_published(published_curves, folder / PICTURES / "experiments_published.png")
            parts.append(f"![The authors' published logs, AP by epoch]({PICTURES}/experiments_published.png)")
    parts.append(f"## On COCO, with the paper's settings\n\n{COCO_TEXT}\n\n{_coco_table(ledger)}")
    page = folder / PAGE
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / CSV).write_text(epochs_csv(comparisons), encoding="utf-8")
    return page


def _section(comparison: Comparison, folder: Path, ledger: Ledger) -> list[str]:
    """The parts of the page on a suite in a setting."""
    suite, setting = comparison.suite, comparison.setting
    parts = [f"### On {setting.title}"] if len(suite.settings) > 1 else []
    if suite.in_short and comparison.measured:
        picture = f"{PICTURES}/experiments_{suite.name}_{setting.name}_in_short.png"
        save_curves(comparison, folder / picture, suite.in_short)
        parts.append(f"![AP by epoch and by training time, some rows of {suite.title}]({picture})")
    parts.append(results_table(comparison))
    findings = [judge(claim, comparison) for claim in CLAIMS if claim.suite == suite.name]
    if findings:
        parts.append(findings_table(findings, comparison))
    if comparison.measured:
        picture = f"{PICTURES}/experiments_{suite.name}_{setting.name}.png"
        save_curves(comparison, folder / picture)
        parts += [
            f"![AP by epoch and by training time, {suite.title}]({picture})",
            cost_table(comparison, latency_ratios(setting, ledger)),
        ]
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
        published = f"{row.published['AP']:.1f}" if row.published else NONE
        found = NOT_RUN if entry is None else f"{last_ap(entry):.1f}"
        body.append([f"`{name}`", f"{run.hours:.1f}", published, found])
    return table(["recipe", "hours", "published AP", "AP"], body)


def _overview(ledger: Ledger) -> str:
    """How much of each suite is in the ledger, and on which machines and software it was run."""
    lines, places = [], set()
    for suite in SUITES.values():
        for name in suite.settings:
            comparison = compare(suite, SETTINGS[name], ledger)
            made = [seed in SEEDS for row in comparison.rows for seed in row.entries]
            done, more = sum(made), len(made) - sum(made)
            line = f"- {_label(suite, name)}: {done} of {len(comparison.rows) * len(SEEDS)} runs"
            lines.append(f"{line}, and {more} with further seeds." if more else f"{line}.")
            places |= {_place(entry) for row in comparison.rows for entry in row.entries.values()}
    return "\n".join([*lines, *([""] if places else []), *sorted(places)])


def _label(suite: Suite, setting: str) -> str:
    return f"{suite.title}, on {SETTINGS[setting].title}"


def _place(entry: dict) -> str:
    machine, software = entry["machine"], entry["software"]
    versions = ", ".join(f"{name} {software[name]}" for name in ("python", "torch", "transformers", "timm"))
    threads = "one thread each" if machine["threads"] == 1 else f"{machine['threads']} threads each"
    return f"Run with {threads} on {machine['cpu']}; {versions}."
