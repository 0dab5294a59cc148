"""Statistics for the frozen batch norms of a backbone with random weights.

Frozen at mean 0 and variance 1, they normalise nothing: after fifty random layers of ResNet-50 the features of any two
pictures are nearly the same. A pretrained backbone brings statistics that set its features apart.
"""

import torch
from torch import Tensor, nn

from transformers_samdetr.frozen_batch_norm import is_frozen_batch_norm
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection


def set_norm_statistics(model: SamDetrForObjectDetection, pixel_values: Tensor) -> None:
    """Sets mean and variance of the backbone's frozen batch norms to those of a batch, from the first norm to the last.

    Args:
        model: changed in place; its mode is restored.
        pixel_values: `(B, channels, height, width)`, as the image processor makes them, without padding.
    """
    extractor = model.model.backbone.feature_extractor

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [norm.register_forward_pre_hook(measure) for norm in extractor.modules() if is_frozen_batch_norm(norm)]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():  # without gradients convolutions would apply the norms themselves
            extractor(pixel_values)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
