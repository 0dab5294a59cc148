"""COCO AP of a saved model with 🤗 Evaluate: works for the predictions of any detector.

python examples/coco_ap_metric.py --model outputs/digits --data digits
"""

import argparse
from pathlib import Path

import evaluate
import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection

import transformers_samdetr  # noqa: F401 (makes the Auto classes know SAM-DETR)
from transformers_samdetr.data.dataset import DetectionDataset
from transformers_samdetr.data.load import load_detection_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name, with the classes of the data")
    parser.add_argument("--data", default="digits", help="see docs/data.md; its evaluation set is used")
    args = parser.parse_args()

    processor = AutoImageProcessor.from_pretrained(args.model)
    model = AutoModelForObjectDetection.from_pretrained(args.model).eval()
    data = load_detection_data(args.data)
    names = list(model.config.id2label.values())
    if names != data.names:
        parser.error(f"{args.model} has the classes {names}, {args.data} has {data.names}: they must be the same.")
    metric = evaluate.load(str(Path(__file__).with_name("coco_ap")))  # a folder: no download

    for image, annotations in DetectionDataset(data.evaluation):
        with torch.no_grad():
            outputs = model(**processor(images=image, return_tensors="pt"))
        # AP needs all detections: the threshold is for pictures, not for measuring
        prediction = processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=[(image.height, image.width)]
        )[0]
        metric.add(prediction=prediction, reference=annotations)

    result = metric.compute(id2label=model.config.id2label)
    for name, value in result.items():
        print(f"{name:12} {value:.3f}" if value >= 0 else f"{name:12} nothing to find")


if __name__ == "__main__":
    main()
