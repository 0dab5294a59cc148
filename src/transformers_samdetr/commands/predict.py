"""Draws a model's detections on pictures and writes them as JSON.

    samdetr-predict photo.jpg FOLDER clip.mp4 --model outputs/digits --output_dir outputs/predictions
    samdetr-predict FOLDER --model outputs/digits --output_dir outputs/predictions --report predictions.html
    samdetr-predict photo.jpg --model outputs/digits --output_dir outputs/predictions --explain
    samdetr-predict clip.mp4 --model outputs/digits --output_dir outputs/tracks --track --formats csv yolo
    samdetr-predict rtsp://camera/stream --model outputs/digits --output_dir outputs/live --json

Folders are searched to any depth. Videos and streams need `pip install av`. Exits with 1 if a file could not be read.
"""

import glob
import json
import os
import sys

from .messages import CommandParser, check_detector, check_file, none_or

FIGURES = ("overview", "heads", "boxes", "alignment")
LISTS = ("coco", "csv", "yolo", "jsonl")
"""As in `transformers_samdetr.prediction`, which takes seconds to import."""


def build_parser(description: str | None = __doc__) -> CommandParser:
    parser = CommandParser(description)
    parser.checks["inputs"] = check_input
    inputs = "pictures, videos, folders of both, patterns, http(s) and rtsp addresses, a camera's number, - for stdin"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs)
    parser.add_argument("--model", required=True, help="folder, Hub name, or what samdetr-export has written")
    parser.checks["model"] = check_detector
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--device", help="such as cuda:1 or cpu; by default an accelerator where there is one")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures in a forward pass; default: %(default)s")

    group = parser.add_argument_group("detections")
    group.add_argument("--threshold", type=float, help="score threshold; default: saved with the model, or else 0.3")
    group.add_argument("--top_k", type=int, default=100, help="max detections of a picture; default: %(default)s")
    overlap = "drop the lower of two boxes of a class above this IoU, or 'none' to keep all; default: %(default)s"
    group.add_argument("--nms_threshold", type=none_or(float), default=0.7, metavar="IOU", help=overlap)
    group.add_argument("--one_label_per_query", action="store_true", help="only the best class of each query")

    group = parser.add_argument_group("videos, cameras and streams")
    group.add_argument("--frame_step", type=int, default=1, metavar="N", help="every N-th frame; default: %(default)s")
    group.add_argument("--max_frames", type=int, metavar="N", help="at most N frames of each input; default: all")
    group.add_argument("--track", action="store_true", help="ids that stay with objects (ByteTrack); extra `track`")
    group.add_argument("--show_fps", action="store_true", help="write the frames a second on each picture")

    group = parser.add_argument_group("what is written")
    group.add_argument("--formats", nargs="+", choices=LISTS, default=["coco"], help="of detections; default: coco")
    group.add_argument("--json", action="store_true", help="print a JSON line for each picture or frame, nothing else")
    group.add_argument("--save_crop", action="store_true", help="also the part of the picture in each box")
    group.add_argument("--report", metavar="FILE.html", help="a page with all pictures inside")
    figures = "figures of what the model looked at; default: overview. 'heads' is the paper's Fig. 5"
    group.add_argument("--explain", nargs="*", choices=FIGURES, help=figures)
    group.add_argument("--explain_top", type=int, default=3, help="detections of a picture; default: %(default)s")
    group.add_argument("--compare_with", metavar="MODEL", help="a second model, for --explain heads")
    return parser


def check_input(text: str) -> None:
    """That an input is there, unless it is an address, a camera or standard input."""
    if not (os.path.exists(text) or text == "-" or text.isdigit() or "://" in text or glob.glob(text, recursive=True)):
        check_file(text)


def main(description: str | None = __doc__) -> int:
    parser = build_parser(description)
    options = vars(parser.parse_args())
    options["explain"] = ["overview"] if options["explain"] == [] else options["explain"] or []
    prints_json = options.pop("json")
    if prints_json:
        options["on_picture"] = lambda line: print(json.dumps(line, ensure_ascii=False), flush=True)
    with parser.plain_messages():
        from ..prediction import EXPLAINED, about_duplicates, plural, predict_files

        try:
            result = predict_files(**options)
        except KeyboardInterrupt:  # the way to end a camera or a stream
            return 130
    if not prints_json:
        print(result.threshold, about_duplicates(options["nms_threshold"]), sep="\n")
        if result.legend:
            print(result.legend)
        count = plural(len(result.detections), "detection")
        print(f"{count} in {plural(len(result.pictures), 'picture')}: {options['output_dir']}")
        if options["explain"]:
            print(f"{plural(len(result.explanations), 'figure')}: {options['output_dir']}/{EXPLAINED}")
        if options["report"]:
            print(f"Report: {options['report']}")
    for path, reason in result.unreadable.items():
        print(f"{path} cannot be read: {reason}", file=sys.stderr)
    return 1 if result.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
