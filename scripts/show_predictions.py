"""Draws a saved model's detections on held-out pictures of a set.

python scripts/show_predictions.py --model outputs/digits --output_dir outputs/digits/predictions
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers_samdetr.commands.data_arguments import add_data_arguments, data_from
from transformers_samdetr.commands.messages import CommandParser

if TYPE_CHECKING:
    from transformers_samdetr.prediction import Detector

SHORTEST_SIDE = 448
"""Pixels that a smaller picture is enlarged to before its boxes are drawn."""
MAX_DENOISED = 4
"""Pictures in the figure of the denoising queries, a row each."""


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    add_data_arguments(parser)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--threshold", type=float, help="score threshold; default: the one saved with the model, or else 0.3"
    )
    parser.add_argument("--count", type=int, default=8, help="number of pictures; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the digit scenes")
    parser.add_argument(
        "--training_figures", action="store_true", help="also which query learns which object, and denoising queries"
    )
    args, _ = parser.parse_known_args()  # quickstart.sh passes on the arguments of training
    if args.count < 1:
        parser.error(f"--count {args.count} must be at least 1")

    with parser.plain_messages():
        from transformers_samdetr.prediction import NMS_THRESHOLD, Detector, about_duplicates, choose_threshold

        examples, detector = data_from(args, seed=args.seed).evaluation, Detector(args.model)
        count = min(args.count, len(examples))
        threshold = choose_threshold(detector.model.config, args.threshold)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        draw_samples(examples, detector, threshold.value, count, args.output_dir)
        print(threshold, about_duplicates(NMS_THRESHOLD), sep="\n")
        if args.training_figures:
            print("Figures of training:", *draw_training(examples, detector, count, args.output_dir))
        print(f"Pictures with predictions: {args.output_dir.resolve()}")


def draw_samples(examples: Sequence[dict], detector: Detector, threshold: float, count: int, folder: Path) -> None:
    """Writes `000.png`, `001.png`, … of the first pictures, and all of them as `overview.png`."""
    from experiments.training_figures import contact_sheet

    pictures = []
    for index in range(count):
        image = examples[index]["image"].convert("RGB")
        (found,) = detector.detect([image], threshold)
        pictures.append(detector.draw(image, found, SHORTEST_SIDE))
        pictures[-1].save(folder / f"{index:03d}.png")
    contact_sheet(pictures).save(folder / "overview.png")


def draw_training(examples: Sequence[dict], detector: Detector, count: int, folder: Path) -> list[Path]:
    """Writes `matches.png` and, for a model with denoising queries, `denoising.png`; returns their paths."""
    import torch

    from experiments import training_figures
    from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
    from transformers_samdetr.visualization import explain

    model, dataset = detector.model, DetectionDataset(examples)
    batch = DetectionCollator(detector.processor)([dataset[index] for index in range(count)])
    images = training_figures.batch_pictures(batch, detector.processor)
    inputs = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
    written = [folder / "matches.png"]
    with torch.inference_mode():
        outputs = model(**inputs)
    training_figures.draw_matches(images, outputs, batch["labels"], model.config).save(written[0])
    if model.config.num_denoising_groups:
        few = {name: values[:MAX_DENOISED] for name, values in (inputs | {"labels": batch["labels"]}).items()}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)  # the same noise each time
            denoised = training_figures.denoise(model, few)
        figure = training_figures.denoising_figure(images[:MAX_DENOISED], denoised)
        written.append(folder / "denoising.png")
        explain.figure_to_picture(figure).save(written[1])
    return written


if __name__ == "__main__":
    main()
