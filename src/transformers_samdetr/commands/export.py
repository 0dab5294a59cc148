"""Writes a model as one file that runs without this package, and compares it with the model.

    samdetr-export --model outputs/digits --output outputs/digits.onnx
    samdetr-export --model outputs/digits --output outputs/digits.onnx --postprocess --top_k 50
    samdetr-export --model outputs/digits --output outputs/digits.pt2 --format torch_export
    samdetr-export --model outputs/digits --output outputs/digits_int8.onnx --precision int8 --data digits
    samdetr-export --model outputs/digits --output outputs/digits.onnx --benchmark 256x256 --threads 2

ONNX needs `pip install "transformers-samdetr[export]"`, aot a C++ compiler. A file that is off is not left.
"""

import argparse
import os

from .. import SamDetrForObjectDetection
from ..exporting import FORMATS, PRECISIONS, ExportedDetector, export_detector
from ..exporting.latency import measure_latency
from ..exporting.onnx_file import DEFAULT_OPSET


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main(description: str | None = __doc__) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output", required=True, help="the file: .onnx, or .pt2 of the other formats")
    parser.add_argument("--format", default="onnx", help=f"{', '.join(FORMATS)}; default: %(default)s")
    precisions = "; ".join(f"{name}: {', '.join(values)}" for name, values in PRECISIONS.items())
    parser.add_argument("--precision", default="float32", help=f"{precisions}; default: %(default)s")
    parser.add_argument("--postprocess", action="store_true", help="scores, labels and boxes in pixels come out")
    parser.add_argument("--top_k", type=int, default=100, help="of --postprocess: detections a picture")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="of onnx; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--data", help="also measure AP of file and model on this set, as of scripts/train.py")
    parser.add_argument("--benchmark", type=size, metavar="HEIGHTxWIDTH", help="also time both on such a picture")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of --benchmark; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="of --benchmark; default: %(default)s")
    args = vars(parser.parse_args())
    data, benchmark, threads, rounds = (args.pop(name) for name in ("data", "benchmark", "threads", "rounds"))
    if data and args["postprocess"]:
        parser.error("--data needs logits: leave --postprocess out, which changes no AP.")

    try:
        export = export_detector(**args)
        print(f"Written: {export.path} ({export.path.stat().st_size / 2**20:.1f} MiB)")
        print(f"Against PyTorch: {export.difference}")
        if benchmark:
            top_k = args["top_k"] if args["postprocess"] else None
            print(f"Latency: {measure_latency(export.path, args['model'], *benchmark, threads, rounds, top_k)}")
        if data:
            from ..evaluation.evaluate import compare_average_precision  # needs extras

            detector = SamDetrForObjectDetection.from_pretrained(args["model"])
            runners = {"exported": ExportedDetector(export.path), "model": detector}
            found = compare_average_precision(runners, args["model"], data)
            print("AP {exported:.2f}, PyTorch {model:.2f}, of {images} pictures".format(**found))
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
