"""Draws a saved model's detections on held-out pictures of a set, through `pipeline("object-detection")`.

python scripts/show_predictions.py --model outputs/digits --output_dir outputs/digits/predictions
"""

import argparse
from pathlib import Path

from PIL import Image
from transformers import pipeline

from transformers_samdetr.data.arguments import add_data_arguments, data_from
from transformers_samdetr.visualization.contact_sheet import contact_sheet
from transformers_samdetr.visualization.detections import class_colors, draw_detections

SHORTEST_SIDE = 448
"""Of a drawn picture, in pixels, if it has to be enlarged for that."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    add_data_arguments(parser)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the digit scenes")
    args, _ = parser.parse_known_args()  # quickstart.sh passes on the arguments of training

    evaluation = data_from(args, seed=args.seed).evaluation
    detector = pipeline("object-detection", model=args.model)
    colors = class_colors(detector.model.config.label2id)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(min(args.count, len(evaluation))):
        image = evaluation[index]["image"].convert("RGB")
        found = detector(image, threshold=args.threshold)
        enlarged = max(1, round(SHORTEST_SIDE / min(image.size)))  # small pictures, so that names can be read
        boxes = [[enlarged * one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for one in found]
        image = image.resize((enlarged * image.width, enlarged * image.height), Image.Resampling.LANCZOS)
        labels, scores = [one["label"] for one in found], [one["score"] for one in found]
        pictures.append(draw_detections(image, boxes, labels, scores, colors))
        pictures[-1].save(args.output_dir / f"{index:03d}.png")
    contact_sheet(pictures).save(args.output_dir / "overview.png")
    print(f"Pictures with predictions: {args.output_dir.resolve()}")


if __name__ == "__main__":
    main()
