"""Detects objects on a picture with an exported file: ONNX Runtime, NumPy and Pillow, neither PyTorch nor this package.

python scripts/export.py --model outputs/digits --output digits.onnx --postprocess
python examples/onnx_detect.py picture.jpg --model digits.onnx --threshold 0.5
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def resized_size(width: int, height: int, size: dict[str, int]) -> tuple[int, int]:
    """Width and height in pixels after resizing, as the model's image processor does it."""
    if "height" in size:
        return size["width"], size["height"]
    scale = min(size["shortest_edge"] / min(width, height), size["longest_edge"] / max(width, height))
    return round(width * scale), round(height * scale)


def to_inputs(image: Image.Image, settings: dict) -> dict[str, np.ndarray]:
    """A batch of one upright RGB picture; nothing of it is padding."""
    resized = image.resize(resized_size(*image.size, settings["size"]), settings["resample"])
    pixels = np.asarray(resized, dtype=np.float32) * np.float32(settings["rescale_factor"])
    pixels = (pixels - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
    return {
        "pixel_values": pixels.transpose(2, 0, 1)[None],
        "pixel_mask": np.ones((1, resized.height, resized.width), dtype=np.int64),
        "target_sizes": np.array([[image.height, image.width]], dtype=np.int64),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("--model", required=True, metavar="FILE.onnx", help="exported with --postprocess")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score of a detection")
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(args.model)
    about = session.get_modelmeta().custom_metadata_map  # what the export has written beside the weights
    names, settings = json.loads(about["id2label"]), json.loads(about["image_processor"])
    # upright, as a camera's EXIF rotation asks for
    image = ImageOps.exif_transpose(Image.open(args.picture)).convert("RGB")
    scores, labels, boxes = session.run(["scores", "labels", "boxes"], to_inputs(image, settings))

    keep = scores[0] > args.threshold
    for score, label, box in zip(scores[0][keep], labels[0][keep], boxes[0][keep], strict=True):
        print(f"{names[str(label)]}  {score:.2f}  {box.round(1).tolist()}")
    print(f"{keep.sum()} detections of a score from {args.threshold}")


if __name__ == "__main__":
    main()
