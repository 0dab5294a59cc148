"""Runs the experiments of the paper's tables and figures; finished ones are passed over, interrupted ones go on.

python scripts/run_experiments.py --suite table3 --jobs 2                        # small: digit scenes, on a CPU
python scripts/run_experiments.py --suite real --data_dir ../shared/data         # small: photographs
python scripts/run_experiments.py --suite table1 --scale coco --dry_run          # commands and cost
python scripts/run_experiments.py --suite table1 --scale coco --data COCO --processes 8
python scripts/run_experiments.py --suite table3 --latency                       # of models, in turn
python scripts/run_experiments.py --suite table3 --training_cost                 # of all that was run, in turn
python scripts/run_experiments.py --report                                       # docs/experiments.md and the notes
python scripts/run_experiments.py --recipes > docs/recipes.md
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent / "experiments"
LEDGER = HERE / "ledger"
PROCESSES, SEEDS = 8, (0, 1, 2)
SUITES = ("real", "table1", "table2", "table3", "scales", "table4", "table5", "figure6", "figure7", "additions")
"""As in `experiments.definitions`, `coco` and `runs`, which take seconds to import."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--scale", choices=("small", "coco"), default="small", help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", help="of the suite; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, help=f"default: {SEEDS} at small scale, 0 on COCO")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="default: %(default)s")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/experiments"), help="default: %(default)s")
    small = parser.add_argument_group("small scale")
    small.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    small.add_argument("--latency", action="store_true", help="measure inference in turn, in place of training")
    small.add_argument("--training_cost", action="store_true", help="measure training in turn, in place of runs")
    small.add_argument("--data_dir", type=Path, help="folder with the real sets, as bccd and cards")
    coco = parser.add_argument_group("COCO")
    coco.add_argument("--data", help="folder in COCO's layout, or a name on the Hub")
    coco.add_argument("--processes", type=int, default=PROCESSES, help="GPUs: 8, 4, 2 or 1; default: %(default)s")
    coco.add_argument("--dry_run", action="store_true", help="say commands and cost, start nothing")
    coco.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the recipe")
    report = parser.add_argument_group("report")
    report.add_argument("--report", action="store_true", help="write the page, its pictures, the notes and their CSV")
    report.add_argument("--report_dir", type=Path, default=Path("docs"), help="default: %(default)s")
    report.add_argument("--notes_dir", type=Path, default=HERE, help="of NOTES.md and epochs.csv; default: %(default)s")
    report.add_argument("--published_curves", type=Path, help="CSV of the authors' logs, to be drawn in the report")
    report.add_argument("--recipes", action="store_true", help="print the page of recipes, docs/recipes.md")
    args = parser.parse_args()
    if not (args.suite or args.report or args.recipes):
        parser.error("Say what to do: --suite NAME, --report, or both.")

    from experiments import definitions
    from experiments.coco import coco_runs, make_coco_runs, setting
    from experiments.experiments_page import write_report
    from experiments.launch import make_small_runs
    from experiments.recipes_page import recipes_page
    from experiments.runs import Ledger
    from experiments.timing import measure_latency, measure_training_cost

    if args.recipes:
        print(recipes_page(), end="")
        return
    code, ledger, suite = 0, Ledger(args.ledger), definitions.SUITES.get(args.suite)
    try:
        fields = dict(map(setting, args.set))
        if args.suite and args.scale == "coco":
            code = make_coco_runs(
                coco_runs(suite, args.variants),
                args.data,
                args.output_dir,
                ledger,
                args.processes,
                args.seeds or (0,),
                fields,
                args.dry_run,
            )
        elif args.latency and args.suite:
            for name in suite.settings:
                print(f"Written: {measure_latency(suite, definitions.SETTINGS[name], ledger)}")
        elif args.training_cost and args.suite:
            for name in suite.settings:
                data = definitions.SETTINGS[name].load_data(args.data_dir)
                print(f"Written: {measure_training_cost(definitions.SETTINGS[name], ledger, data)}")
        elif args.suite:
            code = make_small_runs(
                suite,
                ledger,
                args.output_dir,
                args.data_dir,
                args.jobs,
                args.seeds or SEEDS,
                args.variants,
            )
        if args.report:
            print(f"Written: {write_report(ledger, args.report_dir, args.notes_dir, args.published_curves)}")
    except (argparse.ArgumentTypeError, ValueError) as error:
        parser.error(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
