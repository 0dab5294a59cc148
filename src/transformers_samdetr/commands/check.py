"""Checks a data set before it costs hours: files, boxes, classes, duplicates, leaks, rotation, and how much of what.

    samdetr-check --data FOLDER
    samdetr-check --data FOLDER --report check.html --augmented strong --image_size 384

Prints what was found and exits with 1 if an error is among it, 2 if the data cannot be read, otherwise 0. With --report
a page shows all of it with pictures; with --augmented also what training makes of them.
"""

import sys
from pathlib import Path

from ..training.recipes import AUGMENTATIONS
from .data_arguments import add_data_arguments, data_from
from .messages import CommandParser


def main(description: str | None = __doc__) -> int:
    parser = CommandParser(description)
    add_data_arguments(parser)
    parser.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page with all of it and pictures")
    show = "show augmented pictures in the page"
    parser.add_argument("--augmented", nargs="?", const="strong", choices=AUGMENTATIONS, help=show)
    parser.add_argument("--image_size", type=int, help="of training, for --augmented paper; default: 800 to 1333")
    parser.add_argument("--seed", type=int, default=0, help="of augmented pictures and digit scenes")
    args = parser.parse_args()
    if args.augmented and not args.report:
        parser.error("--augmented needs --report, the page in which to show the pictures")
    with parser.plain_messages():
        from tqdm.auto import tqdm

        from ..data.augment import make_augmentation
        from ..data.check_page import write_check_page
        from ..data.dataset_check import Severity, full_check

        data = data_from(args, seed=args.seed)
        print(data.describe())
        findings, tables, facts = full_check(data, lambda rows: tqdm(rows, desc="Reading pictures", leave=False))
        print(findings)
        if args.report:
            square = {"height": args.image_size, "width": args.image_size}
            size = square if args.image_size else {"shortest_edge": 800, "longest_edge": 1333}
            augmentation = make_augmentation(args.augmented, size) if args.augmented else None
            args.report.parent.mkdir(parents=True, exist_ok=True)
            write_check_page(args.report, data, findings, tables, facts, augmentation, args.seed)
            print(f"Page: {args.report.resolve()}")
    return 1 if findings.of(Severity.ERROR) else 0


if __name__ == "__main__":
    sys.exit(main())
