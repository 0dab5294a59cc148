"""With `mask_padding` a picture in a batch gets what the authors' arithmetic gives it alone, without any padding.

`-s` prints how far each model is off.
"""

import copy

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrModel
from transformers_samdetr.geometry import box_to_pixel_corners
from transformers_samdetr.operations import align_and_reduce, region_align
from transformers_samdetr.padding_masks import extract_masked_features, group_norm, hook_masks
from transformers_samdetr.presets import PRESETS

from ..models import targets, tiny_model
from ..parity_fixtures import CONFIGURED, TINY, rule_tensor

SIZES = ((96, 64), (70, 121), (133, 94), (33, 47))
"""Heights and widths in pixels: multiples of 32, even, odd, one more or less than a multiple of 32; none fills the
batch in both directions."""
SMALL = {"d_model": 64, "num_queries": 20, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_labels": 7}


def small_preset(name: str) -> dict:
    """The fields of a preset with its own backbone, and everything else that can be small."""
    layers = {"encoder_layers": min(2, PRESETS[name].get("encoder_layers", 2)), "decoder_layers": 3}
    return {"backbone_config": None, **PRESETS[name], **SMALL, **layers}


def with_backbone(name: str, *stages: int) -> dict:
    config = {"model_type": "timm_backbone", "backbone": name, "out_indices": list(stages)}
    return {**TINY, "backbone_config": config, "num_feature_levels": len(stages)}


MODELS = {
    **{(name, weights): small_preset(name) for name in PRESETS for weights in ("random", "by rule")},
    **{(name, "by rule"): {**TINY, **fields} for name, fields in CONFIGURED.items()},
    ("no norm", "by rule"): {**TINY, "input_projection_norm": False},
    ("resnet18", "by rule"): with_backbone("resnet18", 4),
    ("lite, three levels", "by rule"): with_backbone("tf_efficientnet_lite0", 2, 3, 4) | {"smca": True},
    ("lite, symmetric", "by rule"): with_backbone("efficientnet_lite0", 3),
}
"""Fields by name and weights; those by rule tell places apart as trained ones do."""
SINGLE, MULTI = ({**TINY, **CONFIGURED[name]} for name in ("keypoints_2_smca", "dn_smca_ms"))


models = pytest.mark.parametrize(
    "fields", [SINGLE, MULTI, small_preset("sam-detr-tiny")], ids=["single", "multi", "tiny"]
)


def masking_and_plain(fields: dict, weights: str = "by rule") -> tuple[SamDetrForObjectDetection, ...]:
    """The same model with and without `mask_padding`."""
    masking, plain = tiny_model(**{**fields, "mask_padding": True}), tiny_model(**fields)
    if weights == "by rule":
        masking.load_state_dict({key: rule_tensor(key, t.shape) for key, t in masking.state_dict().items()})
    plain.load_state_dict(masking.state_dict())
    return masking, plain


def batch(sizes=SIZES, padding: float = 0.0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Pictures, and the pixels and mask of their batch."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, *size, generator=generator) for size in sizes]
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    pixels = torch.full((len(sizes), 3, height, width), padding)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.int64)
    for index, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        pixels[index, :, :height, :width] = image[0]
        mask[index, :height, :width] = 1
    return images, pixels, mask


def off(together, alone: list) -> dict[str, float]:
    """The largest differences, in all layers, between pictures in a batch and alone."""
    largest = {"pred_boxes": 0.0, "logits": 0.0}
    for name in largest:
        for index, single in enumerate(alone):
            layers = [
                (together, single),
                *zip(together.auxiliary_outputs or (), single.auxiliary_outputs or (), strict=True),
            ]
            largest[name] = max(largest[name], *((a[name][index] - b[name][0]).abs().max().item() for a, b in layers))
    return largest


@pytest.mark.parametrize(("name", "weights"), MODELS, ids=lambda text: text)
@torch.no_grad()
def test_batch_equals_alone(name, weights):
    masking, plain = masking_and_plain(MODELS[name, weights], weights)
    images, pixels, mask = batch()
    alone = [plain(image) for image in images]
    # whatever stands in the padding
    largest = off(masking(pixels.where(mask[:, None] == 1, float("nan")), mask), alone)
    print(f"\n{name}, weights {weights}: {largest['pred_boxes']:.1e} in boxes, {largest['logits']:.1e} in logits")
    assert largest["pred_boxes"] <= 1e-4 and largest["logits"] <= 1e-4
    # the field is what does it: with the authors' arithmetic the same comparison differs
    assert off(plain(pixels, mask), alone)["pred_boxes"] > 1e-3
    # which a picture alone is left to
    assert max(off(masking(images[1]), alone[1:2]).values()) <= 1e-4


@pytest.mark.parametrize(
    ("part", "without", "fields"),
    [
        ("padding_masks._align_same_padding", lambda x, mask, has_room: x, small_preset("sam-detr-tiny")),
        ("padding_masks._repeat_edge", lambda x, mask: x, SINGLE),
        ("backbone.group_norm", lambda x, mask, norm: norm(x), SINGLE),
        ("semantics_aligner.align_and_reduce", lambda *arguments: align_and_reduce(*arguments[:4]), MULTI),
    ],
    ids=["SAME padding", "mean pooling", "group norm", "regions"],
)
@torch.no_grad()
def test_each_part_is_needed(part, without, fields, monkeypatch):
    masking, plain = masking_and_plain(fields)
    images, pixels, mask = batch()
    alone = [plain(image) for image in images]
    monkeypatch.setattr(f"transformers_samdetr.{part}", without)
    assert off(masking(pixels, mask), alone)["pred_boxes"] > 1e-3


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@models
def test_loss_and_gradients_of_a_batch_are_those_of_its_pictures(fields, training):
    """In double precision: in single, a sampled place or a ReLU now and then falls on the other side of its kink."""
    masking, plain = (
        model.double().train(training) for model in masking_and_plain({**fields, "num_denoising_groups": 0})
    )
    images, pixels, mask = batch(SIZES[1:3])
    labels = [{**label, "boxes": label["boxes"].double()} for label in targets(3, 2, num_labels=7)]
    together = masking(pixels.double(), mask, labels=labels).loss
    alone = sum(
        plain(image.double(), labels=[label]).loss * len(label["boxes"]) / 5  # its share of the objects
        for image, label in zip(images, labels, strict=True)
    )
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)
    together.backward()
    alone.backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    largest = max(gradient.norm() for gradient in gradients.values())
    found = dict(masking.named_parameters())
    for name, gradient in gradients.items():
        assert (found[name].grad - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8 * largest, name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    _, pixels, mask = batch(SIZES[1:3])
    model = tiny_model(**{**SINGLE, "mask_padding": True}).train()
    checkpointed = copy.deepcopy(model)  # with its hooks
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for each in (model, checkpointed):
        each(pixels, mask, labels=targets(3, 2)).loss.backward()
    pairs = zip(model.named_parameters(), checkpointed.parameters(), strict=True)
    found = [(name, one.grad, other.grad) for (name, one), other in pairs if one.requires_grad]
    largest = max(gradient.norm() for _, gradient, _ in found)
    for name, one, other in found:  # a forward without a graph rounds otherwise in some kernels
        assert (one - other).norm() <= 1e-5 * one.norm() + 1e-8 * largest, name


@models
def test_bfloat16_autocast(fields):
    masking, _ = masking_and_plain(fields, "random")
    _, pixels, mask = batch(SIZES[1:3])
    exact = masking(pixels, mask).pred_boxes
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = masking.train()(pixels, mask, labels=targets(3, 2))
    assert outputs.pred_boxes.dtype == outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.pred_boxes, exact, atol=0.1, rtol=0)
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in masking.parameters() if p.grad is not None)


@torch.no_grad()
def test_export_finds_no_branch_on_data():
    """`torch.export` refuses whatever has to be read back from the device; this backbone has the most to compute."""
    model, _ = masking_and_plain({**small_preset("sam-detr-tiny"), "decoder_layers": 1})
    _, pixels, mask = batch(SIZES[1:3])
    exported = torch.export.export(model, (pixels, mask), strict=False).module()(pixels, mask)
    torch.testing.assert_close(exported.pred_boxes, model(pixels, mask).pred_boxes, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_one_compilation_serves_all_sizes(fields, training):
    torch._dynamo.reset()
    fields = {**fields, "decoder_layers": 1, "decoder_feature_levels": [0]}
    model, counter = masking_and_plain(fields)[0].train(training), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.set_grad_enabled(training):
        for sizes in (SIZES[:2], SIZES[2:], ((64, 96), (128, 128))):
            _, pixels, mask = batch(sizes)
            logits = compiled(pixels, mask).logits
            assert counter.frame_count == 1, sizes
            torch.testing.assert_close(logits, model(pixels, mask).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("seresnet50", "layer 'layer1.0.se' of the backbone, SEModule,"),
        ("tf_efficientnet_b0", "layer 'blocks.0.0.se' of the backbone, SqueezeExcite,"),
        ("resnetblur50", "layer 'maxpool.1' of the backbone, BlurPool2d"),
        ("resnet50_gn", "layer 'bn1' of the backbone, GroupNorm"),
        ("convnext_atto", "layer 'stem_0' of the backbone, Conv2d.*kernel_size=.4, 4.,"),
        ("vgg11_bn", "layer 'features_3' of the backbone, MaxPool2d"),
        ("vit_tiny_patch16_224", "the backbone as a whole, FeatureGetterNet,"),
    ],
)
def test_backbones_that_are_not_known_are_refused(backbone, layer):
    config = {"model_type": "timm_backbone", "backbone": backbone, "out_indices": [-1]}
    config = SamDetrConfig(**{**TINY, "backbone_config": config, "mask_padding": True})
    with pytest.raises(ValueError, match=f"^`mask_padding=True` is not possible: {layer}.*resnet50.*pad_size"):
        SamDetrModel(config)


def test_transformers_backbones_are_refused():
    with pytest.raises(ValueError, match="^`mask_padding=True` is not possible: .*'resnet'.*timm.*pad_size"):
        SamDetrConfig(mask_padding=True, backbone_config={"model_type": "resnet"})


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(3, 3, 2, stride=2),
        torch.nn.Conv2d(3, 3, 3),
        torch.nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        torch.nn.AvgPool2d(2, 2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Softmax(dim=-1),
    ],
    ids=str,
)
def test_layers_whose_border_would_be_another_are_refused(layer):
    with pytest.raises(ValueError, match="layer '1' of the backbone, "):
        hook_masks(torch.nn.Sequential(torch.nn.ReLU(), layer))


def test_the_field_is_saved_and_an_option_of_loading(tmp_path):
    masking, plain = masking_and_plain(SINGLE)
    images, pixels, mask = batch(SIZES[1:3])
    plain.save_pretrained(tmp_path / "plain")
    masking.save_pretrained(tmp_path / "masking")
    assert not SamDetrConfig.from_pretrained(tmp_path / "plain").mask_padding
    option = SamDetrForObjectDetection.from_pretrained(tmp_path / "plain", mask_padding=True)
    with torch.no_grad():
        expected = masking(pixels, mask)
        for model in (option, SamDetrForObjectDetection.from_pretrained(tmp_path / "masking")):
            assert model.config.mask_padding and torch.equal(model(pixels, mask).pred_boxes, expected.pred_boxes)


@torch.no_grad()
def test_the_extractor_by_itself_takes_whole_pictures():
    """The mask of one call is forgotten after it, an interrupted one's too."""
    masking, plain = (model.model.backbone.feature_extractor for model in masking_and_plain(SINGLE))
    images, pixels, mask = batch(SIZES[:2])
    with pytest.raises(RuntimeError):
        extract_masked_features(masking, pixels, mask[:, :50] == 1)
    for image in images:
        torch.testing.assert_close(masking(image).feature_maps, plain(image).feature_maps, rtol=0, atol=0)


@torch.no_grad()
def test_group_norm_of_valid_positions():
    norm = torch.nn.GroupNorm(4, 8)
    norm.weight.normal_(), norm.bias.normal_()
    x, mask = torch.randn(2, 8, 5, 6) * 3 + 1, torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0], mask[1, :3, :4] = True, True
    found = group_norm(x, mask, norm)
    torch.testing.assert_close(found[:1], norm(x[:1]))
    torch.testing.assert_close(found[1:, :, :3, :4], norm(x[1:, :, :3, :4]))
    assert group_norm(x.half(), mask, norm).dtype == torch.half and group_norm(x, mask & False, norm).isfinite().all()


def test_regions_of_a_map_that_ends_at_its_valid_part():
    boxes = torch.rand(2, 30, 4, generator=torch.Generator().manual_seed(0))  # some reach beyond the picture
    maps, valid = torch.randn(2, 9, 12, 3), torch.tensor([[12.0, 5.0], [7.0, 9.0]])
    corners = box_to_pixel_corners(boxes, valid)
    together = region_align(maps, corners, 4, valid)
    for index, (width, height) in enumerate(valid.int().tolist()):
        one = slice(index, index + 1)
        alone = region_align(maps[one, :height, :width], corners[one], 4)
        torch.testing.assert_close(together[one], alone)
