"""docs/recipes.md: every recipe of the paper with its published AP and estimated memory and time.

python scripts/run_experiments.py --recipes > docs/recipes.md
"""

import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection
from transformers_samdetr.training.recipes import PAPER_RECIPES, Recipe

from .published import PUBLISHED


def bytes_kept_for_backward(
    recipe: Recipe, height: int = 800, width: int = 1333, objects: int = 7, images: int = 1
) -> int:
    """Bytes of all tensors that the forward of one step keeps, parameters not counted.

    Runs on the CPU, in the recipe's architecture with COCO's classes and random weights; tensors that share memory
    count once.

    Args:
        recipe: its model counts.
        height, width: of the images, in pixels.
        objects: in each image (COCO has about 7).
        images: of the step.
    """
    model = SamDetrForObjectDetection(SamDetrConfig.from_preset(recipe.model, **recipe.model_overrides)).train()
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other tensor can get its address
        return tensor

    boxes = torch.rand(objects, 4) * 0.4 + 0.2
    labels = [{"class_labels": torch.zeros(objects, dtype=torch.int64), "boxes": boxes}] * images
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(pixel_values=torch.randn(images, 3, height, width), labels=labels)
    return sum(storage.nbytes() for storage in kept.values())


GPUS = 8
PROCESSOR_MEMORY = 1.0
"""GiB of a CUDA context and its libraries, a usual figure."""
BYTES_A_PARAMETER = 4 * 5
"""Weight, gradient, AdamW's two moments, and the gradients' copy in the buckets of data parallelism, all in float32."""
WORKSPACE = {False: 1.05, True: 1.45}
"""By whether there are several scales, the factor on what is kept for the backward, for temporary tensors and what a
GPU's kernels keep beside: how much the peak of an H100 grew with each image (1 and 4 of 800 x 1066, 7 objects):
0.96 for R50, 1.04 for R50-DC5 w/ SMCA, 1.43 for ++ w/ SMCA. DETR is taken to be as the first two."""
DETR_HOURS_A_EPOCH = 28 / 60
"""DETR-R50 on 8 V100, as its authors' README says; 86 GFLOPs an image."""
DETR_GFLOPS = 86
FASTER_THAN_V100 = 2.0
"""A GPU with 80 GB against a V100, in float32 with TF32 convolutions and two images at a time; a guess."""

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

KEPT_BYTES: dict[str, int] = {
    "sam-detr-r50": 1_087_843_284,
    "sam-detr-r50-smca": 1_095_792_092,
    "sam-detr-r50-dc5": 1_776_622_284,
    "sam-detr-r50-dc5-smca": 1_792_289_492,
    "sam-detr-r50-dc5-dn": 1_839_124_831,
    "sam-detr-r50-dc5-smca-dn": 1_856_619_879,
    "sam-detr-pp-r50": 3_666_195_560,
    "sam-detr-pp-r50-smca": 3_684_397_184,
    "sam-detr-pp-r50-smca-dn": 3_769_967_251,
    "detr-r50": 801_282_428,
    "detr-r50-dc5": 1_340_890_028,
}
"""What the forward keeps for one picture of 800 x 1333, measured by `bytes_kept_for_backward` on a CPU."""

TEXT = """# Recipes of the paper

Made by `python scripts/run_experiments.py --recipes > docs/recipes.md`; a test compares the two.

Each is started by

    accelerate launch --num_processes 8 scripts/train.py --recipe NAME --data COCO --output_dir OUT

where `COCO` is a folder in COCO's layout or a name on the Hub. Any field can be overridden (`--epochs 24`,
`--mixed_precision bf16`). `--batch_size` counts the images of an optimizer step over all processes, so fewer GPUs need
`--accumulation_steps`: one GPU takes the same steps as eight with `--num_processes 1 --accumulation_steps 8`.

AP and its parts are **published** numbers on COCO val2017: those of the paper's Tables 1 and 2, and for single-scale
models of 50 epochs, which the tables lack, those of the last epoch of the conference version's logs. None of them has
been reproduced with this package yet. Parameters are those that are trained, with 91 classes.

{table}

## How memory and hours are estimated

They are estimates for 8 GPUs of 80 GB in float32; no machine has run these recipes.

- Memory of a GPU = {processor:.0f} GiB for CUDA
  + {bytes_a_parameter} bytes a parameter (weight, gradient, two moments, bucket)
  + {one_scale} ({several_scales} with several scales) x images of a GPU x what the forward keeps for its backward.
  That was measured on a CPU with random weights, one picture of 800 x 1333 and 7 objects (`bytes_kept_for_backward` in
  `scripts/experiments/recipes_page.py`; denoising queries included), the factors on an H100, by how much its peak grew
  with each image. A portrait and a landscape picture together are padded to 1333 x 1333 and take up to 1.7 times as
  much of this part, so leave room.
- Hours = epochs x 28 minutes x GFLOPs / {detr} / {faster:.0f}. DETR-R50 with {detr} GFLOPs takes 28 minutes an epoch on
  8 V100 (its authors' README); an epoch is taken to be proportional to the paper's GFLOPs of an image, and a GPU with
  80 GB to be {faster:.0f} times as fast as a V100. Both are rough: expect a factor of 2. Denoising queries and the
  evaluation after each epoch are not counted. On one H100 that others used too, forward and backward took 86 ms (R50),
  99 ms (R50-DC5 w/ SMCA) and 115 ms (++ w/ SMCA) for one image of 800 x 1066, and 110, 180 and 295 ms for four
  ([performance.md](performance.md#gpu)). With 2, 1 and 2 images a GPU, times between in proportion, these alone would
  make 2.3, 4.9 and 4.3 hours of 12 epochs.
"""


def memory_gib(recipe: Recipe, parameters: int) -> float:
    """Estimated peak memory of each of 8 GPUs, in GiB."""
    images = recipe.batch_size / GPUS / recipe.accumulation_steps
    kept = KEPT_BYTES[recipe.name.rsplit("-", 1)[0]]
    workspace = WORKSPACE["-pp-" in recipe.name]
    return PROCESSOR_MEMORY + (BYTES_A_PARAMETER * parameters + workspace * images * kept) / 2**30


def hours(recipe: Recipe) -> float:
    """Estimated hours of training on 8 GPUs of 80 GB."""
    return hours_for(recipe.epochs, PUBLISHED[recipe.name].gflops)


def hours_for(epochs: int, gflops: float) -> float:
    """The same of a model that takes so many GFLOPs an image, one multiply-add counted as one."""
    return epochs * DETR_HOURS_A_EPOCH * gflops / DETR_GFLOPS / FASTER_THAN_V100


def trained_parameters(recipe: Recipe) -> int:
    """Parameters that get a gradient, with the preset's classes; nothing is allocated."""
    import torch

    from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection

    with torch.device("meta"):
        model = SamDetrForObjectDetection(SamDetrConfig.from_preset(recipe.model, **recipe.model_overrides))
    return model.num_parameters(only_trainable=True)


def recipes_page() -> str:
    """The text of docs/recipes.md."""
    head = ("recipe", "epochs", "batch", "parameters", *AP_NAMES, "source", "GiB", "hours")
    rows = [head, ("---",) + ("--:",) * 9 + ("---", "--:", "--:")]
    for recipe in PAPER_RECIPES.values():
        published, parameters = PUBLISHED[recipe.name], trained_parameters(recipe)
        rows.append(
            (
                f"`{recipe.name}`",
                str(recipe.epochs),
                str(recipe.batch_size),
                f"{parameters / 1e6:.1f} M",
                *(f"{getattr(published, name):.1f}" for name in AP_NAMES),
                published.source,
                f"{memory_gib(recipe, parameters):.0f}",
                f"{hours(recipe):.1f}",
            )
        )
    return TEXT.format(
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        processor=PROCESSOR_MEMORY,
        bytes_a_parameter=BYTES_A_PARAMETER,
        one_scale=WORKSPACE[False],
        several_scales=WORKSPACE[True],
        faster=FASTER_THAN_V100,
        detr=DETR_GFLOPS,
    )


if __name__ == "__main__":
    print(recipes_page(), end="")
