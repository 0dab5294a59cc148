"""Draws a model's detections on pictures and writes them as JSON.

    python scripts/predict.py photo.jpg FOLDER clip.mp4 --model outputs/digits --output_dir outputs/predictions

Folders are searched to any depth. Videos need `pip install av`. Exits with 1 if a file could not be read.
"""

import argparse
import sys

from transformers_samdetr.prediction import predict_files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="IMAGES", help="pictures, videos, or folders of both")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score of a detection")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default an accelerator where there is one")
    parser.add_argument("--top_k", type=int, default=100, help="at most so many detections a picture")
    parser.add_argument("--nms_threshold", type=float, help="drop the lower of two boxes of a class above this IoU")
    parser.add_argument("--one_label_per_query", action="store_true", help="only the best class of each query")
    parser.add_argument("--frame_step", type=int, default=1, help="of videos, every so many-th frame")
    args = parser.parse_args()

    try:
        result = predict_files(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(result.detections)} detections in {len(result.pictures)} pictures: {args.output_dir}")
    for path, reason in result.unreadable.items():
        print(f"unreadable: {path}: {reason}", file=sys.stderr)
    if result.unreadable:
        print(f"{len(result.unreadable)} files could not be read.", file=sys.stderr)
    return 1 if result.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
