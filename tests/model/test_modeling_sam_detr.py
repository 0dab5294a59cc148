import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoBackbone

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.backbone import SamDetrBackbone
from transformers_samdetr.modeling_sam_detr import SamDetrClassHead
from transformers_samdetr.operations import freeze_batch_norms

from ..models import MULTI_SCALE, VARIANTS, targets, tiny_model

variants = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)


@variants
def test_batch_equals_single(fields):
    model = tiny_model(**fields)
    sizes = [(96, 64), (70, 120), (128, 128)]
    images = [torch.randn(3, *size) for size in sizes]
    pixels, mask = torch.zeros(3, 3, 128, 128), torch.zeros(3, 128, 128, dtype=torch.int64)
    for index, image in enumerate(images):
        pixels[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = 1
    with torch.no_grad():
        together = model(pixels, mask)
        # an image alone is padded to the same multiple of the stride: what lies beside it must not matter
        for index in range(3):
            alone = model(pixels[index : index + 1], mask[index : index + 1])
            torch.testing.assert_close(together.pred_boxes[index], alone.pred_boxes[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.logits[index], alone.logits[0], atol=1e-4, rtol=0)


@variants
def test_padding_to_one_size_makes_predictions_independent_of_the_batch(fields):
    """From pictures to boxes. Padded otherwise they differ: convolutions and GroupNorm see it, as the authors'."""
    model = tiny_model(**fields)
    processor = SamDetrImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128}, pad_size={"height": 128, "width": 128}
    )
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((60, 80), (90, 50))]
    with torch.no_grad():
        together = model(**processor(images, return_tensors="pt"))
        for index, image in enumerate(images):
            alone = model(**processor(image, return_tensors="pt"))
            torch.testing.assert_close(together.pred_boxes[index], alone.pred_boxes[0], atol=1e-4, rtol=0)


@variants
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=str)
def test_every_trainable_parameter_gets_a_gradient(fields, counts):
    model = tiny_model(**fields).train()
    outputs = model(torch.randn(2, 3, 64, 96), labels=targets(*counts))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_outputs_come_in_order_and_in_the_trainers_order():
    outputs = tiny_model()(torch.randn(1, 3, 64, 64), labels=targets(2), output_attentions=False)
    assert list(outputs.keys()) == [
        "loss",
        "loss_dict",
        "logits",
        "pred_boxes",
        "intermediate_logits",
        "intermediate_boxes",
        "last_hidden_state",
        "reference_boxes",
        "salient_points",
        "encoder_last_hidden_state",
    ]
    assert set(outputs.loss_dict) == {
        f"loss_{term}{layer}" for term in ("ce", "bbox", "giou") for layer in ("", "_0", "_1")
    }
    assert outputs.salient_points.shape == (1, 3, 12, 8, 2)


def test_salient_points_lie_in_their_reference_boxes():
    outputs = tiny_model()(torch.randn(1, 3, 64, 64))
    center, size = outputs.reference_boxes[..., None, :].split(2, dim=-1)
    assert ((outputs.salient_points - center).abs() <= size / 2 + 1e-6).all()


def test_a_fresh_model_predicts_its_reference_boxes_at_the_prior():
    torch.manual_seed(0)
    model = SamDetrForObjectDetection(SamDetrConfig.from_preset("sam-detr-tiny", num_labels=7))
    outputs = model.eval()(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(outputs.pred_boxes[0], model.model.query_reference_boxes.sigmoid(), atol=1e-5, rtol=0)
    assert all(torch.allclose(head.bias, torch.tensor(-math.log(99.0))) for head in model.class_heads)
    assert SamDetrClassHead.PRIOR == 0.01


def test_deformable_attention_starts_on_rays():
    attention = tiny_model(**MULTI_SCALE).model.encoder.layers[0].self_attn
    assert attention.sampling_offsets.weight.abs().max() == attention.attention_weights.weight.abs().max() == 0
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    torch.testing.assert_close(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[3, 2, 1], torch.tensor([-2.0, 2]), atol=1e-6, rtol=0)


def test_no_frozen_norm_silences_its_block():
    buffers = tiny_model().model.backbone.feature_extractor.named_buffers()
    assert all(buffer.abs().min() > 0 for name, buffer in buffers if name.endswith("weight"))


def test_denoising_needs_training_and_labels_and_leaves_matching_alone():
    model = tiny_model(num_denoising_groups=3)
    pixels, labels = torch.randn(2, 3, 64, 64), targets(4, 1)
    evaluated = model(pixels, labels=labels)
    assert not any(name.startswith("dn_") for name in evaluated.loss_dict)
    trained = model.train()(pixels, labels=labels)  # no dropout: the ordinary queries compute the same
    assert trained.logits.shape == evaluated.logits.shape
    torch.testing.assert_close(trained.logits, evaluated.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trained.pred_boxes, evaluated.pred_boxes, atol=1e-5, rtol=1e-4)
    for name, value in evaluated.loss_dict.items():
        torch.testing.assert_close(trained.loss_dict[name], value, atol=1e-5, rtol=1e-4)
        assert f"dn_{name}" in trained.loss_dict
    assert trained.loss > evaluated.loss


def test_denoising_queries_see_only_their_group():
    """The noise of one group, and the slots that pad an image, change nothing in another one."""
    from transformers_samdetr.loss import attention_allowed

    allowed = attention_allowed(torch.tensor([[True, True], [True, False]]), num_groups=2, num_queries=3)[:, 0]
    assert allowed.shape == (2, 7, 7)
    assert not allowed[:, 4:, :4].any() and allowed[:, 4:, 4:].all()  # ordinary ones see ordinary ones alone
    assert not allowed[:, :2, 2:4].any() and not allowed[:, 2:4, :2].any()  # groups are apart
    assert allowed[:, :4, 4:].all()  # noised ones see ordinary ones
    assert allowed[0, :2, :2].all()
    assert allowed[1, :2, :2].tolist() == [[True, False], [True, True]]  # padding is seen by itself alone


@pytest.mark.parametrize("smca", [False, True])
def test_gradient_checkpointing_changes_nothing(smca):
    model = tiny_model(smca=smca).train()
    pixels, labels = torch.randn(1, 3, 64, 64), targets(3)
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable()
    for each in (plain, model):
        each(pixels, labels=labels).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize(
    "fields", [{}, {**MULTI_SCALE, "smca": True, "num_denoising_groups": 2}], ids=["single", "all"]
)
def test_bfloat16_autocast_keeps_boxes_and_loss_in_float32(fields):
    model = tiny_model(**fields).train()
    pixels, labels = torch.randn(2, 3, 64, 64), targets(3, 0)
    exact = model(pixels, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pixels, labels=labels)
    assert outputs.pred_boxes.dtype == outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.pred_boxes, exact.pred_boxes, atol=0.05, rtol=0)
    outputs.loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_inference(dtype):
    model = tiny_model(**{**MULTI_SCALE, "smca": True})
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(pixels).pred_boxes
        half = model.to(dtype)(pixels.to(dtype)).pred_boxes
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("resampling", ["keypoints", "none"])
def test_resize_num_queries_keeps_the_first(count, resampling):
    model = tiny_model(query_resampling=resampling)
    name = "query_reference_boxes" if resampling == "keypoints" else "query_positions"
    before = getattr(model.model, name).detach().clone()
    model.resize_num_queries(count)
    after = getattr(model.model, name)
    kept = min(count, 12)
    assert torch.equal(after[:kept], before[:kept]) and model.config.num_queries == count
    assert model(torch.randn(1, 3, 64, 64)).logits.shape[1] == count
    with pytest.raises(ValueError, match="num_queries=0"):
        model.resize_num_queries(0)


def test_freezing_the_backbone():
    model = tiny_model()
    stem = model.model.backbone.feature_extractor._backbone.conv1.weight
    assert not stem.requires_grad  # never trained
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    model.freeze_backbone()
    frozen = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("feature_extractor" in name for name in frozen) and any("input_projections" in n for n in frozen)
    model.unfreeze_backbone()
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("backbone", "last_frozen", "first_trained"),
    [
        ({"backbone": "resnet50"}, "layer1.2.conv3", "layer2.0.conv1"),
        ({"backbone": "tf_efficientnet_lite0"}, "blocks.1.1.conv_pwl", "blocks.2.0.conv_pw"),
        ({"backbone": "convnext_atto"}, "stages_0.blocks.1.mlp.fc2", "stages_1.downsample.0"),
    ],
)
def test_stages_up_to_stride_4_are_not_trained(backbone, last_frozen, first_trained):
    config = SamDetrConfig(backbone_config={"model_type": "timm_backbone", "out_indices": [-1], **backbone})
    parameters = list(SamDetrBackbone(config).feature_extractor.named_parameters())
    count = sum(not parameter.requires_grad for _, parameter in parameters)
    assert not any(parameter.requires_grad for _, parameter in parameters[:count])
    assert parameters[count - 1][0].rpartition(".")[0] == f"_backbone.{last_frozen}"
    assert parameters[count][0].rpartition(".")[0] == f"_backbone.{first_trained}"


@pytest.mark.parametrize(
    "backbone",
    [
        {"model_type": "timm_backbone", "backbone": "tf_efficientnet_lite0", "out_indices": [3]},
        {"model_type": "timm_backbone", "backbone": "mobilenetv3_small_050", "out_indices": [1, 2, 3]},
        {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [3]},
        {"model_type": "resnet", "layer_type": "basic", "depths": [1] * 4, "out_indices": [1, 2, 3]},
    ],
    ids=str,
)
def test_stages_that_nothing_reads_are_dropped(backbone):
    config = SamDetrConfig(backbone_config=backbone, num_feature_levels=len(backbone["out_indices"]))
    extractor = SamDetrBackbone(config).feature_extractor
    whole = freeze_batch_norms(AutoBackbone.from_config(config.backbone_config))
    assert not whole.load_state_dict(extractor.state_dict(), strict=False).unexpected_keys
    pixels = torch.randn(1, 3, 64, 64)
    levels = extractor(pixels).feature_maps
    for level, same in zip(levels, whole(pixels).feature_maps, strict=True):
        torch.testing.assert_close(level, same)
    sum(level.square().mean() for level in levels).backward()
    assert [name for name, p in extractor.named_parameters() if p.requires_grad and p.grad is None] == []


def test_fixed_reference_boxes_are_not_trained():
    model = tiny_model(reference_boxes="fixed")
    assert not model.model.query_reference_boxes.requires_grad


def test_reference_boxes_are_set():
    model = tiny_model()
    boxes = torch.rand(12, 4) * 0.9 + 0.05
    model.set_reference_boxes(boxes)
    outputs = model(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(outputs.reference_boxes[0, 0], boxes)
    for wrong in (boxes[:5], boxes * 3):
        with pytest.raises(ValueError, match="do not fit"):
            model.set_reference_boxes(wrong)
    with pytest.raises(ValueError, match="no reference boxes"):
        tiny_model(query_resampling="none").set_reference_boxes(boxes)


def test_batch_norms_stay_frozen_and_keep_their_activation():
    fields = {"backbone_config": {"model_type": "timm_backbone", "backbone": "tf_efficientnet_lite0"}}
    model = tiny_model(**fields).train()
    before = {name: b.clone() for name, b in model.named_buffers()}
    pixels = torch.randn(1, 3, 64, 64)
    features = model.model.backbone.feature_extractor(pixels).feature_maps[-1]
    assert features.abs().max() < 1e4
    model(pixels, labels=targets(2)).loss.backward()
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())


def test_backbone_weights_that_do_not_fit_are_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"do not fit the backbone.*conv1.weight needs \(64, 3, 7, 7\), found nothing"):
        model.load_backbone_weights({})
    with pytest.raises(FileNotFoundError, match="no file with backbone weights"):
        model.load_backbone_weights(tmp_path / "none.pth")
    weights = tiny_model(seed=1).model.backbone.feature_extractor._backbone.state_dict()
    torch.save({**weights, "fc.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    model.load_backbone_weights(tmp_path / "weights.pth")
    loaded = model.model.backbone.feature_extractor._backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_eager_and_sdpa_attention_agree_where_padding_is_masked():
    pixels, mask = torch.randn(2, 3, 96, 96), torch.ones(2, 96, 96, dtype=torch.long)
    mask[1, :, 64:] = 0
    with torch.no_grad():
        eager, sdpa = (
            tiny_model(attn_implementation=name)(pixels, pixel_mask=mask).logits for name in ("eager", "sdpa")
        )
    torch.testing.assert_close(eager, sdpa, rtol=1e-4, atol=1e-5)
