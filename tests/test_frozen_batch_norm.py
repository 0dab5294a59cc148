"""Folded batch norms against timm's frozen ones: same outputs, same gradients, same names."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d

from transformers_samdetr.frozen_batch_norm import (
    FoldedBatchNorm2d,
    FoldedConv2d,
    folded_norms,
    freeze_batch_norms,
    norms_together,
    scales_and_shifts,
)


def plain_and_folded(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same double-precision features, with statistics off their start values."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, out_indices=[4]).double()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for buffer in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                buffer.uniform_(0.5, 1.5)
    folded = freeze_batch_norms(copy.deepcopy(model))
    return freeze_batch_norm_2d(model).eval(), folded.eval()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("resnet18", 1),
        ("resnet26d", 0.95),
        ("efficientnet_lite0", 0.95),
        ("tf_efficientnet_lite0", 0.8),
        ("resnetv2_50", 0),
    ],
)
def test_folding_changes_nothing(name, share):
    plain, folded = plain_and_folded(name)
    assert plain.state_dict().keys() == folded.state_dict().keys()
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in folded.named_parameters()]
    is_norm = [hasattr(module, "running_var") for module in plain.modules()]
    assert sum(isinstance(m, FoldedBatchNorm2d) for m in folded.modules()) >= share * sum(is_norm)
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels), folded(pixels), rtol=1e-9, atol=1e-9)
    folded.train()
    for one, other in zip(plain(pixels), folded(pixels), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        one.square().mean().backward()
        other.square().mean().backward()
    for (key, one), other in zip(plain.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9, msg=key)


def test_a_copy_folds_its_own_norm():
    _, folded = plain_and_folded("resnet18")
    twin = copy.deepcopy(folded)
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = folded(pixels)[0]
    for module in twin.modules():
        if isinstance(module, FoldedConv2d):
            module._norm[0].weight.zero_()
            assert any(module._norm[0] is other for other in twin.modules())
    assert torch.equal(folded(pixels)[0], before) and not torch.equal(twin(pixels)[0], before)


def test_gradients_in_evaluation_mode_are_the_authors_to_the_last_bit():
    plain, folded = (model.float() for model in plain_and_folded("resnet26d"))
    pixels = torch.randn(1, 3, 64, 64)
    results = []
    for model in (plain, folded):
        (output,) = model(pixels)
        output.square().mean().backward()
        results.append([output, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    with torch.no_grad():
        assert not torch.equal(folded(pixels)[0], results[0][0])  # folded, and so rounded otherwise


def test_all_norms_at_once_are_what_each_is_alone():
    _, folded = plain_and_folded("resnet26d")
    norms = folded_norms(folded)
    together = scales_and_shifts(norms)
    assert len(together) == len(norms) > 20
    for norm in norms:
        assert all(torch.equal(*pair) for pair in zip(together[norm], norm.scale_and_shift(), strict=True))


def test_they_are_kept_for_one_pass_and_thread_alone():
    """On a device without numbers: the same tensors within; others after it, of another norm, in another thread."""
    _, folded = plain_and_folded("resnet18")
    norm, *more = folded_norms(folded.to("meta"))
    other = FoldedBatchNorm2d(norm)
    with norms_together([norm, *more], torch.device("meta")):
        assert norm.scale_and_shift()[0] is norm.scale_and_shift()[0]
        assert other.scale_and_shift()[0] is not other.scale_and_shift()[0]
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(norm.scale_and_shift).result()[0] is not norm.scale_and_shift()[0]
    assert norm.scale_and_shift()[0] is not norm.scale_and_shift()[0]
