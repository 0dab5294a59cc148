"""Lets the paper's models learn eight photographs by heart: AP of at least 95 on these, or something is broken.

    python scripts/overfit.py --data FOLDER                          # every variant; minutes each on one core
    python scripts/overfit.py --data FOLDER --variants dc5 --seed 1 --json outputs/overfit/overfit.json

FOLDER is a set of any layout in docs/data.md. The first eight of its training photographs with at most five objects,
none of them small, are taken, and resized to 96 x 96 pixels. Exits with 1 where a variant does not get there.
"""

import argparse
import sys
from pathlib import Path

VARIANTS = ("single-scale", "smca", "dc5", "multi-scale", "dn")
"""As in `experiments.overfit`, which takes seconds to import."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/overfit"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where the results are kept; default: overfit.json in --output_dir")
    args = parser.parse_args()

    from experiments.overfit import ENOUGH, overfit
    from experiments.signs_page import save_runs
    from transformers_samdetr.data import load_detection_data

    try:
        data, results = load_detection_data(args.data), []
        for variant in args.variants:
            results.append(overfit(variant, data, args.output_dir / variant, args.seed))
            save_runs(args.json or args.output_dir / "overfit.json", [results[-1].to_dict()], ("variant", "seed"))
    except ValueError as error:
        parser.error(str(error))
    for result in results:
        reached = f"AP {ENOUGH:g} after {result.reached_after} steps" if result.reached_after else "not reached"
        print(f"{result.variant}: {reached}; AP {result.AP[-1]:.1f} after {result.steps[-1]}")
    sys.exit(0 if all(result.reached_after for result in results) else 1)


if __name__ == "__main__":
    main()
