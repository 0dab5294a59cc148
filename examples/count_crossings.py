"""Follows objects through a video by ByteTrack, and counts those that cross a line.

python examples/count_crossings.py clip.mp4 --model outputs/digits --line 0.5 0 0.5 1 --output counted.mp4

Needs pip install "transformers-samdetr[track]".
"""

import argparse

import av
import numpy as np
import supervision as sv
from PIL import Image

from transformers_samdetr.prediction import Detector, ObjectTracker, choose_threshold, to_supervision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument(
        "--line", type=float, nargs=4, default=(0.5, 0, 0.5, 1), help="x1 y1 x2 y2, as shares of the picture"
    )
    parser.add_argument("--threshold", type=float, help="score threshold; default: the model's own, or 0.3")
    parser.add_argument("--output", default="counted.mp4")
    args = parser.parse_args()

    detector = Detector(args.model)
    threshold = choose_threshold(detector.model.config, args.threshold).value
    tracker, zone, written = ObjectTracker(threshold), None, None
    annotator = sv.LineZoneAnnotator()
    with av.open(args.video) as source, av.open(args.output, "w") as target:
        for frame in source.decode(video=0):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            image = Image.fromarray(np.ascontiguousarray(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]))
            if zone is None:
                x1, y1, x2, y2 = np.array(args.line) * ([*image.size] * 2)
                anchors = [sv.Position.CENTER]
                zone = sv.LineZone(sv.Point(x1, y1), sv.Point(x2, y2), triggering_anchors=anchors)
                written = target.add_stream("mpeg4", rate=source.streams.video[0].average_rate or 25)
                written.width, written.height, written.pix_fmt = *image.size, "yuv420p"
            # weaker detections continue the track of an object, but begin none
            (found,) = detector.detect([image], threshold / 2)
            found = tracker.update(found)
            tracked = to_supervision(found, detector.model.config.id2label)
            tracked.tracker_id = found["track_ids"].numpy()
            zone.trigger(tracked[tracked.tracker_id >= 0])
            drawn = annotator.annotate(np.array(detector.draw(image, found)), zone)
            target.mux(written.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))
        if written is None:
            parser.error(f"{args.video} has no frame that can be decoded")
        target.mux(written.encode())
    print(f"{zone.in_count} in, {zone.out_count} out: {args.output}")


if __name__ == "__main__":
    main()
