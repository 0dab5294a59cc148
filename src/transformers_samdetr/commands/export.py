"""Writes a model as one file that runs without this package, and compares it with the model.

    samdetr-export --model outputs/digits --output outputs/digits.onnx
    samdetr-export --model outputs/digits --output outputs/digits.onnx --postprocess --top_k 50
    samdetr-export --model outputs/digits --output outputs/digits_openvino --format openvino
    samdetr-export --model outputs/digits --output outputs/digits_page --format web
    samdetr-export --model outputs/digits --output outputs/digits.pt2 --format torch_export
    samdetr-export --model outputs/digits --output outputs/digits_int8.onnx --precision int8 --data digits
    samdetr-export --model outputs/digits --output outputs/digits.onnx --benchmark 256x256 --threads 2

ONNX needs `pip install "transformers-samdetr[export]"`, OpenVINO the extra `openvino`, aot a C++ compiler. A file
whose outputs differ from the model's is deleted. web writes a folder with a page that detects in the browser.
"""

import os
import time

from .messages import CommandParser


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main(description: str | None = __doc__) -> None:
    parser = CommandParser(description)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--output", required=True, help="FILE.onnx, FILE.pt2, FOLDER_openvino, or a folder for web")
    parser.add_argument("--format", default="onnx", help="onnx, openvino, web, torch_export, aot; default: %(default)s")
    precisions = "float32, float16 (not aot), bfloat16 (torch_export, aot), int8 (onnx, web); default: %(default)s"
    parser.add_argument("--precision", default="float32", help=precisions)
    parser.add_argument("--postprocess", action="store_true", help="return scores, labels and boxes in pixels")
    parser.add_argument("--top_k", type=int, default=100, help="detections of a picture with --postprocess")
    parser.add_argument("--opset", type=int, default=20, help="of ONNX's operators; default: %(default)s")
    parser.add_argument("--runtime", metavar="FOLDER", help="of web: dist of npm's onnxruntime-web, else downloaded")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--data", help="also measure AP of file and model on this set, as in samdetr-train")
    parser.add_argument("--benchmark", type=size, metavar="HEIGHTxWIDTH", help="also time both on such a picture")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of --benchmark; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="of --benchmark; default: %(default)s")
    args = vars(parser.parse_args())
    data, benchmark, threads, rounds = (args.pop(name) for name in ("data", "benchmark", "threads", "rounds"))
    is_page = args["format"] == "web"
    if data and args["postprocess"]:
        parser.error("--data needs logits: leave --postprocess out, which changes no AP.")
    if is_page and (data or benchmark):
        parser.error("--data and --benchmark need --format onnx: the page has the same model.")
    for name in ("format", "postprocess") if is_page else ("runtime",):
        del args[name]
    with parser.plain_messages():
        from ..export import ExportedDetector, export_detector, export_page  # seconds, which --help need not wait for
        from ..export.exported_detector import measure_latency

        start = time.monotonic()
        export = (export_page if is_page else export_detector)(
            **args, progress=lambda stage: print(f"{time.monotonic() - start:5.0f} s  {stage}", flush=True)
        )
        files = [export.path] if export.path.is_file() else list(export.path.iterdir())
        print(f"Written: {export.path} ({sum(file.stat().st_size for file in files) / 2**20:.1f} MiB)")
        print(f"Against PyTorch: {export.difference}")
        if is_page:
            print(f"Open http://localhost:8000 after: python -m http.server --directory {export.path}")
        if benchmark:
            top_k = args["top_k"] if args["postprocess"] else None
            file, eager = measure_latency(export.path, args["model"], *benchmark, threads, rounds, top_k)
            times = f"{1000 * file:.0f} ms, PyTorch {1000 * eager:.0f} ms, ratio {file / eager:.2f}"
            print(f"Latency: {times} (medians of {rounds} rounds in turn, load {os.getloadavg()[0]:.1f})")
        if data:
            from .. import SamDetrForObjectDetection
            from ..evaluation.evaluate import compare_average_precision  # needs extras

            detector = SamDetrForObjectDetection.from_pretrained(args["model"])
            runners = {"exported": ExportedDetector(export.path), "model": detector}
            found = compare_average_precision(runners, args["model"], data)
            print("AP {exported:.2f}, PyTorch {model:.2f}, of {images} pictures".format(**found))


if __name__ == "__main__":
    main()
