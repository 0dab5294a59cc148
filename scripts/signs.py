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

from transformers import AutoImageProcessor

from experiments.curves import compare_epoch, comparison_table
from experiments.digit_signs import RUNS, run_signs
from experiments.matched_queries import AttentionInBoxes, attention_in_set, attention_summary
from experiments.signs_page import DIGITS_FILE, FOLDER, HERE, save_runs, write_page
from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.data.load import load_detection_data


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
        try:
            print(attention_summary(_attention(args.attention, args.data)))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return
    if args.log is not None:
        if args.published is None or args.variant is None:
            parser.error("--log needs --published and --variant")
        try:
            print(comparison_table(compare_epoch(args.log, args.published, args.variant, args.epoch)))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return
    for seed in args.seeds:
        for name in args.runs:
            run = run_signs(name, seed, args.output_dir / f"{name} {seed}")
            save_runs(HERE / FOLDER / DIGITS_FILE, [run.to_dict()], ("name", "seed"))
    write_page(args.docs)


def _attention(model: str, data: str) -> AttentionInBoxes:
    detector, processor = SamDetrForObjectDetection.from_pretrained(model), AutoImageProcessor.from_pretrained(model)
    return attention_in_set(detector, processor, load_detection_data(data).evaluation)


if __name__ == "__main__":
    main()
