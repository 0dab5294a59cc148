"""Detects on every N-th frame of a video, and writes the video with boxes and a JSON line for each such frame.

python examples/video_detection.py clip.mp4 --model outputs/digits --frame_step 5 --output detections.mp4

Frames between them keep their boxes. Needs pip install av.
"""

import argparse
import json
from pathlib import Path

import av
import numpy as np
from PIL import Image

from transformers_samdetr.prediction import Detector, choose_threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--frame_step", type=int, default=5, help="the model sees every N-th frame")
    parser.add_argument("--threshold", type=float, help="score threshold; default: the model's own, or 0.3")
    parser.add_argument("--output", type=Path, default=Path("detections.mp4"))
    args = parser.parse_args()

    detector = Detector(args.model)
    threshold = choose_threshold(detector.model.config, args.threshold).value
    lines, written = args.output.with_suffix(".jsonl"), None
    with av.open(args.video) as source, av.open(str(args.output), "w") as target, lines.open("w") as rows:
        rate = source.streams.video[0].average_rate or 25
        for index, frame in enumerate(source.decode(video=0)):
            # upright, as a phone's display matrix asks for, and of even sides, which the codec needs
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            image = Image.fromarray(np.ascontiguousarray(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]))
            if index % args.frame_step == 0:
                (found,) = detector.detect([image], threshold)
                columns = (found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
                objects = [{"label": detector.names[a], "score": b, "box": c} for a, b, c in zip(*columns, strict=True)]
                rows.write(json.dumps({"frame": index, "seconds": frame.time, "objects": objects}) + "\n")
            if written is None:
                written = target.add_stream("mpeg4", rate=rate)
                written.width, written.height, written.pix_fmt = *image.size, "yuv420p"
            target.mux(written.encode(av.VideoFrame.from_image(detector.draw(image, found))))
        if written is None:
            parser.error(f"{args.video} has no frame that can be decoded")
        target.mux(written.encode())
    print(f"{index + 1} frames, one of {args.frame_step} looked at: {args.output}, {lines}")


if __name__ == "__main__":
    main()
