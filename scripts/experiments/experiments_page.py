"""docs/experiments.md: for each question of the paper its table, verdicts and one picture, from the ledger alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.performance_page import table

from .claims import CLAIMS, CONTRADICTED, HOLDS, NOT_SHOWN, Claim, Finding, judge
from .curves import save_curves, save_published
from .definitions import SETTINGS, SUITES, Suite
from .notes import picture_name, write_notes
from .results import NO_VALUE, Comparison, RowRuns, compare, estimate, interval
from .runs import Ledger

HERE = Path(__file__).parent
VERDICTS = {HOLDS: "Holds", CONTRADICTED: "Contradicted", NOT_SHOWN: "Does not show at this scale"}

INTRODUCTION = """# The paper's experiments

The paper's questions, asked again at a scale that fits two CPU cores. `python scripts/run_experiments.py --report`
makes this page from the ledger of {runs} finished runs; a test compares the two. The settings, every table and what was
looked into are in `scripts/experiments/NOTES.md`, every epoch in `scripts/experiments/epochs.csv`.

- **Data**: 1000 composed digit scenes of 128 × 128 pixels, or photographs of playing cards (296) and blood cells (292)
  of 256 × 256 pixels. 12 epochs, three seeds or more. The backbone is a pretrained EfficientNet-Lite0 at stride 16.
- **Pairs**: all detectors of a table have the same images in the same order, augmentation, backbone, width, layers,
  queries, optimizer, schedule and seeds, and the same initial weights where shapes agree.
- **AP** is COCO AP in percent after the last epoch, **AP over epochs** the area under the AP curve divided by the
  number of epochs (how fast a detector learns). Both are means over seeds ± 95 % interval (Student's t). *Published* is
  the paper's AP on COCO after 12 epochs: compare the order, not the size.
- **Verdicts** are about the paired difference of two rows, in points of AP: it *holds* if the whole 95 % interval is
  above 0, is *contradicted* if the interval is below 0, and otherwise *does not show at this scale*."""

AFTER = """## Not run

Table 2 (longer schedules) and everything on COCO need GPUs: `--scale coco --dry_run` prints the commands and their
estimated cost ([recipes.md](recipes.md)), `--scale coco --data COCO --processes 8` starts them."""


def write_report(
    ledger: Ledger, folder: Path, notes: Path = HERE, published_curves: Path | None = None, images: str = "../../docs"
) -> Path:
    """Writes the page, its pictures, and the notes with their CSV. The same ledger gives the same bytes.

    Pictures have the same bytes with the same version of Matplotlib.

    Args:
        ledger: the finished runs.
        folder: gets `experiments.md` and `images/experiments_*.png`.
        notes: gets `NOTES.md` and `epochs.csv`.
        published_curves: a copy of the authors' logs as CSV, drawn beside ours; without it that picture is left out, as
            in the committed page, since the figures of others are not part of this repository.
        images: `folder` as seen from `notes`, for links.

    Returns:
        The page.

    Raises:
        LedgerMismatch: an entry has other settings than the code.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    comparisons = {
        name: [compare(suite, SETTINGS[setting], ledger) for setting in suite.settings]
        for name, suite in SUITES.items()
    }
    runs = len(list(ledger.folder.glob("*/*-seed*.json")))
    parts, shown = [INTRODUCTION.format(runs=runs)], set()
    for name, found in comparisons.items():
        for comparison in found:
            if comparison.measured:
                save_curves(comparison, folder / picture_name(comparison), SUITES[name].in_short)
        if SUITES[name].question and any(comparison.measured for comparison in found):
            parts += _answer(found, shown)
            if len(found) > 1:  # photographs: a row is shown once
                shown |= {(comparison.setting.name, row.row.variant) for comparison in found for row in comparison.rows}
    if published_curves is not None:
        save_published(published_curves, folder / "images" / "experiments_published.png")
        parts.append("![The authors' published logs, AP by epoch](images/experiments_published.png)")
    page = folder / "experiments.md"
    page.write_text("\n\n".join([*parts, AFTER]) + "\n", encoding="utf-8")
    write_notes(ledger, comparisons, notes, images)
    return page


def _answer(found: Sequence[Comparison], shown: set[tuple[str, str]]) -> list[str]:
    """Question, table, verdicts and picture of a suite, of which `found` has a comparison for each setting."""
    suite = found[0].suite
    settings = {comparison.setting.name for comparison in found}
    variants = [row.variant for row in suite.rows if not any((name, row.variant) in shown for name in settings)]
    picture = next(picture_name(comparison) for comparison in found if comparison.measured)
    verdicts = "\n".join(text for comparison in found if (text := _verdicts(comparison)))
    parts = [f"## {suite.question}", _table(found, variants), verdicts]
    return [*filter(None, parts), f"![AP by epoch and by training time: {suite.title}]({picture})"]


def _table(found: Sequence[Comparison], variants: Sequence[str]) -> str:
    """A line for each variant that was run in any setting; columns for each setting."""
    suite, several = found[0].suite, len(found) > 1
    has_published = any(suite.metric in row.published for row in suite.rows)
    header = ["", *([f"published {suite.metric}"] if has_published else [])]
    for comparison in found:
        where = f", {comparison.setting.name}" if several else ""
        header += [f"{suite.metric}{where}", f"AP over epochs{where}"]
    body = []
    for row in suite.rows:
        rows = [comparison.of(row.variant) for comparison in found]
        if row.variant in variants and any(one.entries for one in rows):
            published = row.published.get(suite.metric)
            cells = [row.label, *([NO_VALUE if published is None else f"{published:.1f}"] if has_published else [])]
            for one, comparison in zip(rows, found, strict=True):
                cells += _cells(one, comparison)
            body.append(cells)
    return table(header, body)


def _cells(row: RowRuns, comparison: Comparison) -> list[str]:
    """The final metric and the mean AP over the epochs."""
    found = row.final(comparison.suite.metric), row.area_by_epoch()
    return [interval(estimate(list(values.values()))) if values else NO_VALUE for values in found]


def _verdicts(comparison: Comparison) -> str:
    """A paragraph: what holds, what is contradicted and what does not show, with differences in points of AP."""
    suite, parts = comparison.suite, []
    findings = [judge(claim, comparison) for claim in CLAIMS if claim.suite == suite.name and _is_on_page(claim, suite)]
    for verdict, words in VERDICTS.items():
        texts = [_sentence(finding, comparison) for finding in findings if finding.verdict == verdict]
        if texts:
            parts.append(f"**{words}:** {'; '.join(texts)}.")
    where = f"- {comparison.setting.title.capitalize()}: "
    return (where if len(suite.settings) > 1 else "") + " ".join(parts) if parts else ""


def _is_on_page(claim: Claim, suite: Suite) -> bool:
    """The final difference of rows that are drawn, and every claim in words but those about half of the epochs."""
    if claim.text is None:
        return claim.measure == "final" and {claim.better, claim.worse} <= set(suite.in_short)
    return claim.measure != "half"


def _sentence(finding: Finding, comparison: Comparison) -> str:
    claim = finding.claim
    words = claim.text or " over ".join(comparison.of(name).row.label for name in (claim.better, claim.worse))
    published = "" if claim.published is None else f", published {claim.published:+.1f}"
    return f"{words} ({interval(finding.difference, sign=True)}{published})"
