"""Fine-tunes in a loop of one's own: the model returns the loss, the rest is plain PyTorch.

    python examples/own_training_loop.py --output_dir outputs/own_loop

`scripts/train.py` has what this leaves out: several processes, checkpoints, schedules, an evaluation after each epoch.
"""

import argparse
from dataclasses import replace

import torch
from torch.utils.data import DataLoader

from transformers_samdetr.data.augment import make_augmentation
from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import DIGIT_NAMES, build_digit_scenes
from transformers_samdetr.training import RECIPES, load_model_and_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--scenes", type=int, default=400, help="training pictures")
    parser.add_argument("--image_size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()

    # a new head for these classes on a pretrained backbone; model="FOLDER" goes on from a saved detector
    recipe = replace(RECIPES["tiny"], image_size=args.image_size)
    scenes = build_digit_scenes(num_train=args.scenes, num_eval=0)["train"]
    model, processor = load_model_and_processor(recipe, DIGIT_NAMES, train=scenes)
    train_set = DetectionDataset(scenes, make_augmentation("none", processor.size))
    loader = DataLoader(train_set, batch_size=4, shuffle=True, collate_fn=DetectionCollator(processor))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=1e-4)
    for epoch in range(args.epochs):
        train_set.set_epoch(epoch)
        for batch in loader:
            # labels stay on the host, where the model checks them
            pixels = {name: batch[name].to(device) for name in ("pixel_values", "pixel_mask")}
            outputs = model(**pixels, labels=batch["labels"])
            outputs.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        terms = "  ".join(f"{name} {outputs.loss_dict[name]:.3f}" for name in ("loss_ce", "loss_bbox", "loss_giou"))
        print(f"epoch {epoch + 1}/{args.epochs}  loss {outputs.loss:.3f}  {terms}", flush=True)

    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    print(f"Saved for from_pretrained and pipeline: {args.output_dir}")


if __name__ == "__main__":
    main()
