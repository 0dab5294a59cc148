"""Serves a model: send an image, get its detections as JSON. Waiting images are processed as one batch.

python examples/serve/serve.py --model outputs/digits --port 8000
curl --data-binary @picture.jpg "http://127.0.0.1:8000/detect?threshold=0.5"

Needs pip install "transformers-samdetr[serve]". It listens on this machine only; for others, put a proxy with TLS and
authentication before it. An answer does not depend on the other images of the batch (mask_padding=True).
"""

import argparse

import uvicorn
from app import RequestLimits, make_app
from batcher import Batcher

from transformers_samdetr.prediction import Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--device", help="such as cuda:1 or cpu; default: an accelerator if there is one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max_batch", type=int, default=8, help="maximum images of a batch")
    parser.add_argument("--max_wait", type=float, default=0.01, help="seconds that the first image waits for others")
    parser.add_argument("--max_waiting", type=int, default=64, help="more are answered with 503 and Retry-After")
    parser.add_argument("--max_bytes", type=int, default=RequestLimits.bytes, help="of an upload")
    parser.add_argument("--max_pixels", type=int, default=RequestLimits.pixels, help="of its picture")
    parser.add_argument(
        "--timeout", type=float, default=RequestLimits.seconds, help="seconds of upload and answer, each"
    )
    args = parser.parse_args()

    detector = Detector(args.model, args.device, mask_padding=True)
    limits = RequestLimits(args.max_bytes, args.max_pixels, seconds=args.timeout, requests=2 * args.max_waiting)

    def detect(images):
        return detector.detect(images, threshold=0.0)  # each request has a threshold of its own

    with Batcher(detect, args.max_batch, args.max_wait, args.max_waiting) as batcher:
        uvicorn.run(make_app(batcher, detector.names, limits), host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
