"""Draws a model's detections on pictures and writes them as JSON.

    samdetr-predict photo.jpg FOLDER clip.mp4 --model outputs/digits --output_dir outputs/predictions
    samdetr-predict FOLDER --model outputs/digits --output_dir outputs/predictions --report predictions.html
    samdetr-predict photo.jpg --model outputs/digits --output_dir outputs/predictions --explain
    samdetr-predict photo.jpg --model WITH --output_dir outputs/both --explain heads --compare_with WITHOUT

Folders are searched to any depth. Videos need `pip install av`. Exits with 1 if a file could not be read.
"""

import argparse
import sys

from ..prediction import EXPLAINED, KINDS, NMS_THRESHOLD, about_duplicates, predict_files


def main(description: str | None = __doc__) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="IMAGES", help="pictures, videos, or folders of both")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument(
        "--threshold", type=float, help="lowest score of a detection; default: that saved with the model, or else 0.3"
    )
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default an accelerator where there is one")
    parser.add_argument("--top_k", type=int, default=100, help="at most so many detections a picture")
    parser.add_argument(
        "--nms_threshold",
        type=lambda word: None if word.lower() == "none" else float(word),
        default=NMS_THRESHOLD,
        help="drop the lower of two boxes of a class above this IoU, or 'none' to keep all; default: %(default)s",
    )
    parser.add_argument("--one_label_per_query", action="store_true", help="only the best class of each query")
    parser.add_argument("--frame_step", type=int, default=1, help="of videos, every so many-th frame")
    parser.add_argument(
        "--explain",
        nargs="*",
        choices=KINDS,
        help="figures of what the model looked at; default: overview. 'heads' is the paper's Fig. 5",
    )
    parser.add_argument("--explain_top", type=int, default=3, help="so many detections a picture; default: %(default)s")
    parser.add_argument("--compare_with", metavar="MODEL", help="a second model, for --explain heads")
    parser.add_argument("--report", metavar="FILE.html", help="a page with all pictures inside")
    args = parser.parse_args()
    args.explain = ["overview"] if args.explain == [] else args.explain or []

    try:
        result = predict_files(**vars(args))
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    print(result.threshold, about_duplicates(args.nms_threshold), sep="\n")
    print(f"{len(result.detections)} detections in {len(result.pictures)} pictures: {args.output_dir}")
    if args.explain:
        print(f"{len(result.explanations)} figures: {args.output_dir}/{EXPLAINED}")
    if args.report:
        print(f"Report: {args.report}")
    for path, reason in result.unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if result.unreadable:
        print(f"{len(result.unreadable)} files could not be read.", file=sys.stderr)
    return 1 if result.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
