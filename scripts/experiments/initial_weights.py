"""Paired runs start from the same weights wherever two architectures have the same tensor."""

import torch
from torch import nn


@torch.no_grad()
def share_initial_weights(model: nn.Module, reference: nn.Module) -> list[str]:
    """Copies the reference's tensors to where the model has one of the same name and shape.

    Args:
        model: of the variant; changed in place.
        reference: of the same setting and seed, freshly made.

    Returns:
        Names of the tensors that are now the same.
    """
    given, shared = reference.state_dict(), []
    for name, tensor in model.state_dict().items():
        if name in given and given[name].shape == tensor.shape:
            tensor.copy_(given[name])
            shared.append(name)
    return shared
