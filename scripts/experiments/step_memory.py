"""How much a training step keeps for its backward, measured while a model runs."""

import torch

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection
from transformers_samdetr.training.recipes import Recipe


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
