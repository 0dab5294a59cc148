"""Draws a saved model's detections on held-out pictures of a set.

python scripts/show_predictions.py --model outputs/digits --output_dir outputs/digits/predictions
"""

import argparse
from pathlib import Path

from transformers_samdetr.commands.data_arguments import add_data_arguments, data_from
from transformers_samdetr.prediction import NMS_THRESHOLD, Detector, about_duplicates
from transformers_samdetr.prediction.samples import draw_samples
from transformers_samdetr.prediction.training_figures import draw_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    add_data_arguments(parser)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--threshold", type=float, help="lowest score of a detection; default: that saved with the model, or else 0.3"
    )
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the digit scenes")
    parser.add_argument(
        "--training_figures", action="store_true", help="also which query learns which object, and denoising queries"
    )
    args, _ = parser.parse_known_args()  # quickstart.sh passes on the arguments of training

    pictures, detector = data_from(args, seed=args.seed).evaluation, Detector(args.model)
    threshold = draw_samples(pictures, detector, args.output_dir, args.threshold, args.count)
    print(threshold, about_duplicates(NMS_THRESHOLD), sep="\n")
    if args.training_figures:
        print("Figures of training:", *draw_training(pictures, detector, args.output_dir, args.count))
    print(f"Pictures with predictions: {args.output_dir.resolve()}")


if __name__ == "__main__":
    main()
