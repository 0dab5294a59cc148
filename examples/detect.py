"""Detects objects on a picture and draws them.

python examples/detect.py picture.jpg --model outputs/digits --output detections.png
"""

import argparse

from PIL import Image, ImageOps
from transformers import pipeline

import transformers_samdetr  # noqa: F401 (makes pipelines know SAM-DETR)
from transformers_samdetr.visualization import draw_detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--threshold", type=float, help="score threshold; default: the model's own, or 0.3")
    parser.add_argument("--output", default="detections.png")
    args = parser.parse_args()

    detector = pipeline("object-detection", model=args.model)
    # upright, as a camera's EXIF rotation asks for
    image = ImageOps.exif_transpose(Image.open(args.picture)).convert("RGB")
    # pipelines use 0.5 unless told otherwise; training saves the score with the best F1 in the configuration
    own = getattr(detector.model.config, "detection_threshold", None) or 0.3
    threshold = own if args.threshold is None else args.threshold
    found = detector(image, threshold=threshold)

    boxes = [[one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for one in found]  # pixels
    labels, scores = [one["label"] for one in found], [one["score"] for one in found]
    for label, score, box in zip(labels, scores, boxes, strict=True):
        print(f"{label}  {score:.2f}  {box}")
    draw_detections(image, boxes, labels, scores).save(args.output)
    print(f"{len(found)} detections with a score above {threshold:g}: {args.output}")


if __name__ == "__main__":
    main()
