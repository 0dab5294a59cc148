"""A random backbone whose frozen batch norms have been given the statistics of a batch."""

import pytest
import torch

from experiments.overfit import set_norm_statistics
from transformers_samdetr.operations import is_frozen_batch_norm

from ..models import tiny_model


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_every_norm_normalises_this_batch(backbone):
    model = tiny_model(
        backbone_config={"model_type": "timm_backbone", "backbone": backbone, "out_indices": [4]}
    ).train()
    torch.manual_seed(3)
    pixels = torch.randn(4, 3, 96, 96) + 2
    set_norm_statistics(model, pixels)
    extractor = model.model.backbone.feature_extractor
    assert model.training and not any(module._forward_pre_hooks for module in extractor.modules())
    norms = [module for module in extractor.modules() if is_frozen_batch_norm(module)]
    seen = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, inputs: seen.__setitem__(norm, inputs[0].detach()))
    model.eval()
    extractor(pixels)
    assert len(seen) == len(norms) > 3
    for norm, x in seen.items():
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3), correction=0), atol=1e-4, rtol=1e-3)
    # and so the kernels of training and inference, which have them folded into convolutions, compute the same
    exact = extractor(pixels).feature_maps[-1]
    with torch.no_grad():
        folded = extractor(pixels).feature_maps[-1]
    torch.testing.assert_close(folded, exact, atol=1e-4, rtol=1e-3)


def test_pictures_become_less_alike():
    model = tiny_model(backbone_config={"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [4]})
    torch.manual_seed(4)
    pixels = torch.randn(4, 3, 64, 64) * torch.linspace(0.2, 2, 4)[:, None, None, None]

    @torch.no_grad()
    def alike() -> float:
        features = model.model.backbone.feature_extractor(pixels).feature_maps[-1].flatten(1)
        cosines = torch.corrcoef(features)
        return ((cosines.sum() - 4) / 12).item()

    before = alike()
    set_norm_statistics(model, pixels)
    assert alike() < before - 0.2
