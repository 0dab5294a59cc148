"""Runs the experiments of the paper's tables and figures; finished ones are passed over, interrupted ones go on.

python scripts/run_experiments.py --suite table3 --jobs 2
python scripts/run_experiments.py --suite table3 --variants keypoints-8 max average detr --seeds 0 1 2
"""

import argparse
import sys
from pathlib import Path

from transformers_samdetr.experiments.ledger import LEDGER, Ledger
from transformers_samdetr.experiments.plan import plan
from transformers_samdetr.experiments.progress_table import ProgressTable
from transformers_samdetr.experiments.report import write_report
from transformers_samdetr.experiments.schedule import FAILED, Schedule
from transformers_samdetr.experiments.settings import SEEDS
from transformers_samdetr.experiments.suites import SUITES
from transformers_samdetr.training.interruption import on_stop_signal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--report", action="store_true", help="write the page, its CSV and its pictures")
    parser.add_argument("--report_dir", type=Path, default=Path("docs"), help="default: %(default)s")
    parser.add_argument("--published_curves", type=Path, help="CSV of the authors' logs, to be drawn in the report")
    parser.add_argument("--variants", nargs="+", help="of the suite; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--data_dir", type=Path, help="folder with the real sets, as bccd and cards")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="default: %(default)s")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/experiments"), help="default: %(default)s")
    args = parser.parse_args()

    if args.suite is None and not args.report:
        parser.error("Say what to do: --suite NAME, --report, or both.")
    code = make_runs(args) if args.suite else 0
    if args.report:
        print(f"Written: {write_report(Ledger(args.ledger), args.report_dir, args.published_curves)}")
    sys.exit(code)


def make_runs(args: argparse.Namespace) -> int:
    """Makes the runs of a suite and returns the exit code: 0, 1 if any failed, or that of a stop."""
    suite, ledger = SUITES[args.suite], Ledger(args.ledger)
    with ProgressTable() as progress:
        schedule = Schedule(
            lambda: plan(suite, ledger, args.seeds, args.variants),
            ledger,
            args.output_dir,
            args.data_dir,
            args.jobs,
            progress.show,
        )
        with on_stop_signal(schedule.request_stop) as received:
            jobs = schedule.make()
    failed = [job for job in jobs if job.state == FAILED]
    for job in failed:
        print(f"\n{job.run.name} failed: {job.reason}", file=sys.stderr)
    return received.exit_code if schedule.stop_requested else 1 if failed else 0


if __name__ == "__main__":
    main()
