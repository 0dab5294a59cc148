"""Times our models beside Transformers' own in one interleaved run, and writes docs/performance.md.

python scripts/benchmark.py --preset bars                        # the table of bars; about ten minutes
python scripts/benchmark.py --preset bars --groups loss load     # some of its groups
python scripts/benchmark.py --preset quick                       # all models once at 480x640
python scripts/benchmark.py --preset full                        # everything; hours, and memory for batches of 8
python scripts/benchmark.py --preset gpu                         # on a GPU, in the order of importance; six minutes
python scripts/benchmark.py --preset gpu --seconds 120           # the most important of it
python scripts/benchmark.py --models sam-detr-r50 conditional-detr-r50 --sizes 480x640 800x1066 --threads 1 2
python scripts/benchmark.py --growth sam-detr-r50                # time over pixels, queries, keypoints, objects
python scripts/benchmark.py --stages sam-detr-r50                # multiply-adds and time of each stage
python scripts/benchmark.py --lines sam-detr-r50                 # the slowest lines of the package
python scripts/benchmark.py --bf16_ap outputs/digits --data digits
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from benchmarks.work import DTYPES, GRIDS, TASKS, Grid, Work, growth_axes

BEGAN = time.monotonic()
HERE = Path(__file__).parent / "benchmarks"
BARS = ("single-scale", "multi-scale", "faster", "training-single", "training-multi", "loss", "processor", "load")
"""As in `benchmarks.bars`, which takes seconds to import."""


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("bars", *GRIDS, "gpu"))
    parser.add_argument("--groups", nargs="+", choices=BARS, default=BARS, help="of --preset bars")
    parser.add_argument("--seconds", type=float, help="for --preset gpu; default: six minutes")
    parser.add_argument("--growth", nargs="+", metavar="MODEL", default=[])
    parser.add_argument("--stages", nargs="+", metavar="MODEL", default=[])
    parser.add_argument("--lines", nargs="+", metavar="MODEL", default=[])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each work")
    parser.add_argument("--output_dir", type=Path, default=Path("docs"), help="of the page; default: %(default)s")
    parser.add_argument("--notes_dir", type=Path, default=HERE, help="of NOTES.md and performance.json")
    grid = parser.add_argument_group("a grid of your own, or in place of the preset's values")
    grid.add_argument("--models", nargs="+")
    grid.add_argument("--tasks", nargs="+", choices=TASKS)
    grid.add_argument("--sizes", nargs="+", type=size, metavar="HEIGHTxWIDTH")
    grid.add_argument("--batch_sizes", nargs="+", type=int)
    grid.add_argument("--threads", nargs="+", type=int)
    grid.add_argument("--dtypes", nargs="+", choices=DTYPES)
    grid.add_argument("--compiled", nargs="+", type=int, choices=(0, 1))
    bf16 = parser.add_argument_group("precision on a trained model")
    bf16.add_argument("--bf16_ap", metavar="MODEL", help="compare AP in bf16 autocast with float32")
    bf16.add_argument("--data", default="digits", help="as of scripts/train.py")
    args = parser.parse_args()
    grid_names = [field.name for field in dataclasses.fields(Grid)]
    others = [name for name in ("growth", "stages", "lines", "bf16_ap", *grid_names) if getattr(args, name, None)]
    if args.preset == "gpu" and others:
        parser.error(f"--preset gpu measures a plan of its own: run it without --{', --'.join(others)}.")
    if args.seconds is not None and args.preset != "gpu":
        parser.error("--seconds must be with --preset gpu: other measurements take --rounds.")
    return args


def report_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_on_gpu(args: argparse.Namespace) -> None:
    from benchmarks.gpu import Run
    from benchmarks.gpu_page import gpu_text
    from benchmarks.gpu_plan import PLAN, SECONDS
    from benchmarks.performance_page import write_report

    def save(gpu: dict) -> None:
        write_report({"gpu": gpu}, args.output_dir, args.notes_dir)

    run = Run(args.seconds or SECONDS, save, report_progress, began=BEGAN)
    print(gpu_text(run.measure(PLAN)))


def main() -> None:
    args = parse()

    if args.preset == "gpu":
        measure_on_gpu(args)
        return
    from benchmarks.bars import measure_bars
    from benchmarks.machine import describe_machine
    from benchmarks.measure import interleave
    from benchmarks.performance_page import (
        bars_table,
        growth_table,
        lines_table,
        measurements_table,
        stages_table,
        write_report,
    )
    from benchmarks.profiles import lines_report, stage_report

    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(Grid)}
    given = {name: tuple(values) for name, values in given.items() if values is not None}
    grid = dataclasses.replace(GRIDS.get(args.preset, Grid()), **given)
    results: dict = {}
    if args.preset == "bars":
        results["machine"] = describe_machine()  # the page's: other figures are in the notes
        rows, measurements = [], []
        for group in args.groups:
            judged, found = measure_bars([group], args.rounds, report_progress)
            rows, measurements = rows + judged, measurements + [entry.to_dict() for entry in found]
            # what has been measured is not lost if a later group fails
            write_report(results | {"bars": judged, "measurements": measurements}, args.output_dir, args.notes_dir)
        results |= {"bars": rows, "measurements": measurements}
        print(bars_table(rows))
    elif args.preset or given:
        found = [entry for works in grid.groups() for entry in interleave(works, args.rounds, report_progress)]
        results["measurements"] = [entry.to_dict() for entry in found]
        print(measurements_table(results["measurements"]))
    for model in args.growth:
        axes = growth_axes(model)
        for axis in axes:
            axis.measurements = interleave(axis.works, args.rounds, report_progress)
        results.setdefault("growth", []).extend(axis.to_dict() | {"model": model} for axis in axes)
        print(growth_table(results["growth"]))
    for model in args.stages:
        results.setdefault("stages", []).append(stage_report(Work(model), args.rounds))
        print(stages_table(results["stages"]))
    for model in args.lines:
        results.setdefault("lines", []).append(lines_report(Work(model, threads=1), args.rounds))
        print(lines_table(results["lines"]))
    if args.bf16_ap:
        from benchmarks.bars import compare_precision

        results["bf16_ap"] = compare_precision(args.bf16_ap, args.data)
        print("AP in float32 {float32:.2f}, in bf16 autocast {bfloat16:.2f}".format(**results["bf16_ap"]))
    if results:
        write_report(results, args.output_dir, args.notes_dir)


if __name__ == "__main__":
    main()
