r"""Write the model card and the code that a saved model needs on the Hub, check the folder, and upload it.

    samdetr-push --model outputs/model --repo_id USER/NAME --licence apache-2.0 \
        --training_data "COCO train2017" --metric "COCO AP=41.9" --evaluation_data "COCO val2017"

Of a folder that training has written, the card states the AP of its log. What is not given reads "not stated".
`--dry_run` writes and checks without uploading.
"""

import os
import shutil
from pathlib import Path

from .messages import CommandParser, named


def main(description: str | None = __doc__) -> None:
    parser = CommandParser(description)
    parser.add_argument("--model", required=True, help="folder of a saved model")
    parser.add_argument("--repo_id", required=True, help="Hub repository, USER/NAME")
    parser.add_argument("--output_dir", help="folder to upload from (default: the model's own)")
    parser.add_argument("--name", help="heading of the card (default: the repository's name)")
    parser.add_argument("--source", help="where the weights come from")
    parser.add_argument("--training_data", help="in words")
    parser.add_argument("--dataset_id", help="of the training data on the Hub")
    metrics = "for the card, once or more (default: the AP of training's log)"
    parser.add_argument("--metric", action="append", type=named(float), metavar="NAME=VALUE", help=metrics)
    parser.add_argument("--evaluation_data", help="what the metrics were measured on")
    parser.add_argument("--onnx", metavar="FILE", help="a file of samdetr-export to upload too")
    parser.add_argument("--licence", help="of the weights, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="make the Hub repository private")
    parser.add_argument("--dry_run", action="store_true", help="write and check, but do not upload")
    args = parser.parse_args()
    with parser.plain_messages():
        from huggingface_hub.utils import validate_repo_id
        from transformers import AutoImageProcessor
        from transformers.utils import SAFE_WEIGHTS_NAME

        from .. import SamDetrForObjectDetection
        from ..hub import ModelCard, push_to_hub, save_for_hub
        from ..training.log import logged_metrics

        validate_repo_id(args.repo_id)
        weights = Path(args.model) / SAFE_WEIGHTS_NAME
        metrics, epoch = (dict(args.metric), None) if args.metric else logged_metrics(weights.parent)
        card = ModelCard(
            args.name or args.repo_id.split("/")[-1],
            metrics=metrics,
            evaluation_data=args.evaluation_data or epoch and f"the evaluation split of training, after epoch {epoch}",
            **{name: getattr(args, name) for name in ("source", "training_data", "dataset_id", "licence", "repo_id")},
        )
        written = weights.stat().st_mtime_ns if epoch else 0
        model = SamDetrForObjectDetection.from_pretrained(args.model)
        processor = AutoImageProcessor.from_pretrained(args.model)
        folder = save_for_hub(model, processor, args.output_dir or args.model, card)
        if epoch:  # weights keep their place in time beside the log, by which the next call finds the epoch
            os.utime(folder / SAFE_WEIGHTS_NAME, ns=(written, written))
        if args.onnx and Path(args.onnx).resolve().parent != folder.resolve():
            shutil.copy(args.onnx, folder)
        print(f"Written and checked: {folder}")
        if epoch:
            print(f"The card states the AP of epoch {epoch} in {Path(args.model) / 'log.jsonl'}; --metric replaces it.")
        if not args.dry_run:
            print(f"Uploaded: {push_to_hub(folder, args.repo_id, private=args.private)}")


if __name__ == "__main__":
    main()
