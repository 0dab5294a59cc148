"""Measures how stable the matching is and how alike queries and their regions are, and renews docs/signs.md.

    python scripts/signs.py                                            # tables and pictures from signs/*.json
    python scripts/signs.py --runs keypoints none --seeds 0 1 2        # trains on digit scenes and measures first
    python scripts/signs.py --log outputs/pp-r50/log.jsonl --published CSV --variant r50_ms_e12
    python scripts/signs.py --attention outputs/birds --data birds     # where a trained model looks

The last two do nothing else: one shows the losses of a run on COCO beside those of the authors' logs, the other how
much of a model's cross-attention lies in the boxes of the set's evaluation pictures.
"""

import argparse
from pathlib import Path

RUNS = ("keypoints", "keypoints-dn", "none")
"""As in `experiments.digit_signs`, which takes seconds to import."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[], metavar="RUN", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/signs"), help="logs; default: %(default)s")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page; default: %(default)s")
    published = parser.add_argument_group("beside the published logs")
    published.add_argument("--log", type=Path, metavar="log.jsonl", help="of a run of ours")
    published.add_argument("--published", type=Path, metavar="CSV")
    published.add_argument("--variant", help="what the published file calls the model")
    published.add_argument("--epoch", type=int, default=1)
    looking = parser.add_argument_group("where a trained model looks")
    looking.add_argument("--attention", metavar="MODEL", help="folder, or a name on the Hub")
    looking.add_argument("--data", help="as scripts/train.py has it")
    args = parser.parse_args()

    if args.attention is not None:
        if args.data is None:
            parser.error("--attention needs --data")
        from transformers import AutoImageProcessor

        from experiments.matched_queries import attention_in_set, attention_summary
        from transformers_samdetr import SamDetrForObjectDetection
        from transformers_samdetr.data.load import load_detection_data

        try:
            model = SamDetrForObjectDetection.from_pretrained(args.attention)
            processor = AutoImageProcessor.from_pretrained(args.attention)
            print(attention_summary(attention_in_set(model, processor, load_detection_data(args.data).evaluation)))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return
    if args.log is not None:
        if args.published is None or args.variant is None:
            parser.error("--log needs --published and --variant")
        from experiments.curves import compare_epoch, comparison_table

        try:
            print(comparison_table(compare_epoch(args.log, args.published, args.variant, args.epoch)))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return
    from experiments.signs_page import DIGITS_FILE, FOLDER, HERE, save_runs, write_page

    for seed in args.seeds if args.runs else ():
        from experiments.digit_signs import run_signs

        for name in args.runs:
            run = run_signs(name, seed, args.output_dir / f"{name} {seed}")
            save_runs(HERE / FOLDER / DIGITS_FILE, [run.to_dict()], ("name", "seed"))
    write_page(args.docs)


if __name__ == "__main__":
    main()
