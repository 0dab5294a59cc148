"""Fine-tunes with Transformers' own `Trainer`, then measures COCO AP.

python examples/transformers_trainer.py --output_dir outputs/transformers_trainer
"""

import argparse
from dataclasses import replace

from transformers import Trainer, TrainingArguments

from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import DIGIT_NAMES, build_digit_scenes
from transformers_samdetr.evaluation import evaluate_detector
from transformers_samdetr.training import RECIPES, load_model_and_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--scenes", type=int, default=400, help="training pictures")
    parser.add_argument("--image_size", type=int, default=160, help="height and width in pixels")
    parser.add_argument("--epochs", type=float, default=4)
    args = parser.parse_args()

    scenes = build_digit_scenes(num_train=args.scenes, num_eval=max(args.scenes // 10, 4))
    recipe = replace(RECIPES["tiny"], image_size=args.image_size)
    model, processor = load_model_and_processor(recipe, DIGIT_NAMES, train=scenes["train"])
    evaluation_set = DetectionDataset(scenes["validation"])

    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=args.output_dir,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=4,
            learning_rate=5e-4,
            max_grad_norm=0.1,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,  # the collator needs pictures and annotations
            prediction_loss_only=True,  # AP is computed below, from pictures of any size
        ),
        data_collator=DetectionCollator(processor),
        train_dataset=DetectionDataset(scenes["train"]),
        eval_dataset=evaluation_set,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()  # the image processor too
    metrics = evaluate_detector(trainer.model, processor, evaluation_set, DIGIT_NAMES, batch_size=4).compute()
    print("  ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "AP50", "AP75")))


if __name__ == "__main__":
    main()
