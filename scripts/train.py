"""Fine-tunes a SAM-DETR, or trains one of the paper's.

    accelerate launch scripts/train.py --data digits --output_dir outputs/digits
    accelerate launch scripts/train.py --data FOLDER --model sam-detr-tiny --epochs 24 --image_size 384
    accelerate launch scripts/train.py --data NAME --streaming --output_dir outputs/streamed
    accelerate launch --num_processes 8 scripts/train.py --recipe sam-detr-r50-12e --data COCO --output_dir outputs/r50

`--data` is `digits`, a folder of any layout in docs/data.md, or a Hub name; `--model` a preset, a folder or a Hub name.
Every field of a recipe can be overridden; docs/recipes.md has all recipes.
"""

from transformers_samdetr.commands.train import main

if __name__ == "__main__":
    main(__doc__)
