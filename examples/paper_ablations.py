"""The paper's ablations as configurations: each row of Tables 3 and 4 is a field or two, and trains.

    python examples/paper_ablations.py --steps 200                    # a small model, on digit scenes
    python examples/paper_ablations.py --preset sam-detr-r50 --image_size 800

A run on COCO takes the same fields: scripts/train.py --model sam-detr-r50 --model_overrides '{"num_keypoints": 1}'.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import DIGIT_NAMES, build_digit_scenes

PLAIN = {"smca": False, "num_denoising_groups": 0, "dropout": 0.1, "feature_reweighting": False}
# fields, and the published AP of a ResNet-50 after 12 epochs on COCO
ROWS = {
    "DETR's decoder": ({"query_resampling": "none"}, 22.3),
    "average pooling": ({"query_resampling": "average"}, 25.2),
    "max pooling": ({"query_resampling": "max"}, 27.0),
    "1 keypoint": ({"num_keypoints": 1}, 28.6),
    "8 keypoints": ({"num_keypoints": 8}, 30.3),
    "8 keypoints, reweighted": ({"feature_reweighting": True}, 33.1),
    "the same in the whole image": ({"feature_reweighting": True, "keypoint_search_range": "image"}, 30.0),
    "SAM-DETR: no dropout": ({"feature_reweighting": True, "dropout": 0.0}, 34.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sam-detr-tiny")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps of each row")
    parser.add_argument("--image_size", type=int, default=128, help="height and width in pixels")
    args = parser.parse_args()

    processor = SamDetrImageProcessor(size={"height": args.image_size, "width": args.image_size})
    scenes = DetectionDataset(build_digit_scenes(num_train=4 * args.steps, num_eval=0)["train"])
    id2label = dict(enumerate(DIGIT_NAMES))
    options = {"id2label": id2label, "label2id": {name: label for label, name in id2label.items()}}
    print(f"{'row':28} {'parameters':>10} {'last loss':>9} {'published AP':>12}")
    for name, (fields, published) in ROWS.items():
        torch.manual_seed(0)
        config = SamDetrConfig.from_preset(args.preset, **options, **(PLAIN | fields))
        model = SamDetrForObjectDetection(config).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for batch in DataLoader(scenes, batch_size=4, collate_fn=DetectionCollator(processor)):
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(f"{name:28} {count:10,} {loss.item():9.3f} {published:12}", flush=True)


if __name__ == "__main__":
    main()
