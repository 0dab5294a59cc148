"""Counts Transformers' common model tests: of our models, and of Conditional DETR as the measure of them.

    python -m tests.transformers_suite.counts

prints how many passed, failed and were skipped in each class, and the reasons for what is skipped here but not there.
It exits with 1 if one of ours failed, if more are skipped than for Conditional DETR, or if one is so without a reason.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
REFERENCE, OURS = "tests/transformers_suite/reference.py", "tests/model/test_modeling_common.py"
Outcomes = dict[str, tuple[str, str]]
"""Outcome and reason by the name of the test."""


def run(file: str) -> dict[str, Outcomes]:
    """The outcomes of a test file by test class."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            file,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not report.is_file():
            raise RuntimeError(f"{file} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    classes: dict[str, Outcomes] = {}
    for case in cases:
        # a test with subtests has several entries; a failure among them counts
        outcomes = classes.setdefault(case.get("classname", "").split(".")[-1], {})
        name = case.get("name", "")
        if outcomes.get(name, ("", ""))[0] != "failed":
            outcomes[name] = _outcome(case)
    return classes


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return outcome, found.get("message") or ""
    return "passed", ""


def main() -> int:
    (name, reference), *others = run(REFERENCE).items()
    if others:
        raise RuntimeError(f"{REFERENCE} has more than one class of tests.")
    allowed = _print_counts(name, reference)["skipped"]
    exit_code = 0
    for name, outcomes in run(OURS).items():
        counts = _print_counts(name, outcomes)
        skipped = {test: reason for test, (outcome, reason) in outcomes.items() if outcome == "skipped"}
        for test, reason in skipped.items():
            if reference.get(test, ("",))[0] != "skipped":
                print(f"  skipped here only: {test}: {reason}")
        complete = reference.keys() <= outcomes.keys()
        if counts["failed"] or counts["skipped"] > allowed or not all(skipped.values()) or not complete:
            print(f"  {name} does not meet the bar: none failed, at most {allowed} skipped, each with a reason.")
            exit_code = 1
    return exit_code


def _print_counts(name: str, outcomes: Outcomes) -> Counter:
    counts = Counter(outcome for outcome, _ in outcomes.values())
    print(f"{name}: {counts['passed']} passed, {counts['skipped']} skipped, {counts['failed']} failed")
    return counts


if __name__ == "__main__":
    sys.exit(main())
