"""Fine-tunes a SAM-DETR.

    accelerate launch scripts/train.py --data digits --output_dir outputs/digits
    accelerate launch scripts/train.py --data FOLDER --model sam-detr-tiny --epochs 24 --image_size 384

`--data` is `digits`, a COCO folder, a folder of `datasets`, or a Hub name; `--model` a preset, a folder or a Hub name.
"""

import argparse
from dataclasses import fields, replace

from transformers_samdetr.data.read import load_detection_data
from transformers_samdetr.training import Trainer
from transformers_samdetr.training.recipes import TINY
from transformers_samdetr.training.start import load_model_and_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="sam-detr-tiny", help="preset, folder or Hub name to start from")
    parser.add_argument("--backbone_weights", help="file with backbone weights, or 'efficientnet-lite0' of its package")
    parser.add_argument("--image_size", type=int, help="fixed height and width in pixels; otherwise 800 to 1333")
    parser.add_argument("--output_dir", required=True)
    for field in fields(TINY):
        default = getattr(TINY, field.name)
        if isinstance(default, bool):
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(f"--{field.name}", type=type(default), default=default)
    args = parser.parse_args()

    recipe = replace(TINY, **{field.name: getattr(args, field.name) for field in fields(TINY)})
    data = load_detection_data(args.data, seed=args.seed)
    print(data.describe())
    model, processor = load_model_and_processor(
        args.model, data.names, args.backbone_weights, args.image_size, seed=args.seed, category_ids=data.category_ids
    )
    metrics = Trainer(model, processor, data.train, data.evaluation, recipe, args.output_dir).train()
    print(
        "COCO AP on the evaluation set: " + "  ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "AP50", "AP75"))
    )


if __name__ == "__main__":
    main()
