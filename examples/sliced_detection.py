"""Detects on a large picture in overlapping tiles, and draws what was found beside what the whole picture alone gives.

python examples/sliced_detection.py large.jpg --model outputs/digits --side 256 --output sliced.png

The tiles are as large as the pictures that the model was trained on, so that small objects have the size it knows.
"""

import argparse

from PIL import Image

from transformers_samdetr.pictures import open_picture, picture_to_array
from transformers_samdetr.prediction import Detector, SlicedDetector, choose_threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--side", type=int, default=640, help="of a tile, in pixels")
    parser.add_argument("--overlap", type=float, default=0.25, help="of neighbouring tiles, as a share of the side")
    parser.add_argument("--threshold", type=float, help="score threshold; default: the model's own, or 0.3")
    parser.add_argument("--batch_size", type=int, default=4, help="tiles that go through the model together")
    parser.add_argument("--output", default="sliced.png")
    args = parser.parse_args()

    detector = Detector(args.model)
    sliced = SlicedDetector(detector, args.side, args.overlap, batch_size=args.batch_size)
    threshold = choose_threshold(detector.model.config, args.threshold).value
    image = Image.fromarray(picture_to_array(open_picture(args.picture)))  # upright, RGB

    (whole,) = detector.detect([image], threshold)
    found = sliced.detect(image, threshold)
    for label, score, box in zip(found["labels"].tolist(), found["scores"], found["boxes"], strict=True):
        print(f"{detector.names[label]}  {score:.2f}  {[round(side) for side in box.tolist()]}")
    detector.draw(image, found).save(args.output)
    print(f"{len(found['scores'])} in tiles, {len(whole['scores'])} on the whole picture alone: {args.output}")


if __name__ == "__main__":
    main()
