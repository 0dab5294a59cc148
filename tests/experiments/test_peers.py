"""Other libraries' detectors beside ours: same features, own losses, every parameter learns, evaluation and saving."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from experiments.peers import PEERS, PeerConfig, PeerForObjectDetection
from experiments.peers.detr_relatives import softmax_as_log_odds
from experiments.peers.faster_rcnn import _pixel_targets
from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.geometry import center_to_corners
from transformers_samdetr.training.loss_sums import weighted_terms
from transformers_samdetr.training.recipes import TINY
from transformers_samdetr.training.trainer import make_optimizer

from ..models import SMALL_BACKBONE, targets

SIZES = {
    **{"d_model": 32, "num_queries": 12, "encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 2},
    **{"decoder_ffn_dim": 32, "num_labels": 5},
}
LITE = {"model_type": "timm_backbone", "backbone": "tf_efficientnet_lite0", "out_indices": [3]}
SINGLE = {"backbone_config": {**SMALL_BACKBONE, "out_indices": [3]}}
SEVERAL = {"backbone_config": {**SMALL_BACKBONE, "out_indices": [2, 3, 4]}, "num_feature_levels": 3}
CASES = [(peer, SINGLE) for peer in PEERS] + [("deformable-detr", SEVERAL), ("faster-rcnn", SEVERAL)]
NAMES = [f"{peer}{' of several levels' if levels is SEVERAL else ''}" for peer, levels in CASES]


def make(peer, levels=SINGLE):
    torch.manual_seed(0)
    ours = SamDetrForObjectDetection(SamDetrConfig(**{**SIZES, **levels}))
    model = PeerForObjectDetection(PeerConfig.beside(ours.config, peer))
    extractor = ours.model.backbone.feature_extractor
    model.peer.extractor.feature_extractor.load_state_dict(extractor.state_dict())
    return ours, model


def batch(size=64):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    return {"pixel_values": pixels, "pixel_mask": torch.ones(2, size, size, dtype=torch.int64), "labels": targets(2, 1)}


@pytest.mark.parametrize(
    ("peer", "levels"),
    [*CASES, ("detr", {"backbone_config": LITE})],
    ids=[*NAMES, "detr with activations in its norms"],
)
def test_the_backbone_gives_the_features_of_ours(peer, levels):
    ours, model = make(peer, levels)
    pixels, seen = batch()["pixel_values"], []
    model.peer.extractor.register_forward_hook(lambda _, inputs, outputs: seen.extend(outputs.feature_maps))
    with torch.no_grad():
        expected = ours.model.backbone.feature_extractor(pixels).feature_maps
        model.eval()(pixels)
    assert len(seen) == len(expected)
    for found, wanted in zip(seen, expected, strict=True):
        largest = wanted.abs().max().item()
        assert largest > 0
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * largest)
    frozen = [{n for n, p in extractor.named_parameters() if not p.requires_grad} for extractor in (
        ours.model.backbone.feature_extractor, model.peer.extractor.feature_extractor
    )]  # fmt: skip
    assert frozen[0] == frozen[1] and frozen[0]


@pytest.mark.parametrize(
    ("peer", "levels"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] == "faster-rcnn")) for case in CASES],
    ids=NAMES,
)
def test_a_step_changes_every_parameter_and_steps_lower_the_loss(peer, levels):
    _, model = make(peer, levels)
    model.train()
    optimizer, inputs = make_optimizer(model, TINY), batch()
    assert len(optimizer.param_groups) == 2  # the backbone has its own learning rate
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    losses = []
    for _ in range(STEPS):
        torch.manual_seed(0)  # the same dropout and the same examples
        loss = model(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) == 2:  # the second step reaches what stands behind weights that start at 0
            same = [name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[name])]
            assert not [name for name in same if name not in UNUSED.get(peer, ())], same
    assert losses[-1] < 0.9 * losses[0]


STEPS = 20
UNUSED: dict[str, tuple[str, ...]] = {}
"""Parameters that Transformers' models have and never use."""


@pytest.mark.parametrize("peer", PEERS)
def test_the_loss_is_the_sum_of_its_weighted_terms(peer):
    _, model = make(peer)
    outputs = model.train()(**batch())
    terms = weighted_terms(outputs.loss_dict, model.config)
    torch.testing.assert_close(sum(terms.values()), outputs.loss.detach())


def given_to_loss(model, classes: int) -> tuple:
    """What Transformers' losses take, of two layers and two pictures."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 2, 12, classes, generator=generator)
    boxes = torch.rand(2, 2, 12, 4, generator=generator) * 0.4 + 0.2
    return logits[-1], targets(3, 2), logits.device, boxes[-1], model.peer.detector.config, logits, boxes


def test_focal_terms_are_those_of_transformers():
    from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss

    _, model = make("conditional-detr")
    given = given_to_loss(model, classes=5)
    theirs = DeformableDetrForObjectDetectionLoss(*given)[1]
    loss, ours, _ = model.peer.detector.loss_function(*given)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])
    # their total has the class terms once
    once = sum(value for name, value in theirs.items() if "loss_ce" in name)
    torch.testing.assert_close(loss, DeformableDetrForObjectDetectionLoss(*given)[0] + once)


def test_softmax_terms_are_those_of_transformers():
    _, model = make("detr")
    given = given_to_loss(model, classes=6)
    torch.testing.assert_close(model.peer.detector.loss_function(*given)[0], ForObjectDetectionLoss(*given)[0])


def test_softmax_scores_come_back_and_each_query_has_one_class():
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]])
    scores = softmax_as_log_odds(logits).sigmoid()
    expected = logits.softmax(-1)[..., :2]
    assert scores[0, 0, 0] == pytest.approx(expected[0, 0, 0].item()) and scores[0, 0, 1] == 0
    assert scores[0, 1, 1] == pytest.approx(expected[0, 1, 1].item()) and scores[0, 1, 0] == 0


@pytest.mark.parametrize("peer", PEERS)
def test_what_is_saved_predicts_the_same_and_evaluation_takes_it(peer, tmp_path):
    _, model = make(peer)
    model.eval().save_pretrained(tmp_path)
    again = PeerForObjectDetection.from_pretrained(tmp_path)
    inputs = batch()
    with torch.no_grad():
        state = torch.get_rng_state()
        first, second = model(**inputs), again(**inputs)
        assert torch.equal(state, torch.get_rng_state())  # training goes on with its own random numbers
    assert torch.equal(first.logits, second.logits) and torch.equal(first.pred_boxes, second.pred_boxes)
    assert first.loss.isfinite()
    found = SamDetrImageProcessor().post_process_object_detection(first, threshold=0.0, target_sizes=[(64, 64)] * 2)
    for result in found:
        assert len(result["scores"]) and (result["labels"] < 5).all() and (result["scores"].diff() <= 0).all()


def test_boxes_and_labels_go_to_torchvision_and_come_back():
    _, model = make("faster-rcnn")
    sizes, labels = torch.tensor([[64, 48], [32, 64]]), targets(3, 2)
    given = _pixel_targets(labels, sizes)
    # center 24 of 48 wide, 32 of 64 high
    half = _pixel_targets(
        [{"boxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]]), "class_labels": torch.tensor([4])}], sizes[:1]
    )
    assert half[0]["boxes"].tolist() == [[18, 16, 30, 48]] and half[0]["labels"].tolist() == [5]
    detections = [{**target, "scores": torch.linspace(0.9, 0.2, len(target["labels"]))} for target in given]
    logits, boxes = model.peer._as_queries(detections, sizes)
    for index, target in enumerate(labels):
        count = len(target["class_labels"])
        torch.testing.assert_close(boxes[index, :count], target["boxes"])
        assert torch.equal(logits[index, :count].argmax(-1), target["class_labels"])
        torch.testing.assert_close(logits[index, :count].sigmoid().amax(-1), detections[index]["scores"])
        assert (logits[index].sigmoid() > 0).sum() == count


@pytest.mark.slow
def test_faster_rcnn_learns_an_object_that_it_is_shown():
    _, model = make("faster-rcnn", {"backbone_config": LITE})
    inputs = batch(96)
    label = {"class_labels": torch.tensor([3]), "boxes": torch.tensor([[0.4, 0.5, 0.4, 0.5]])}
    inputs["labels"] = [label, label]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    for _ in range(25):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        outputs = model.eval()(inputs["pixel_values"], inputs["pixel_mask"])
    best = outputs.logits[0].amax(-1).argmax()
    assert outputs.logits[0, best].argmax() == 3
    corners = center_to_corners(torch.stack([outputs.pred_boxes[0, best], label["boxes"][0]]))
    assert box_iou(corners[:1], corners[1:]).item() > 0.5


def test_an_unknown_peer_is_refused():
    with pytest.raises(ValueError, match="peer='yolo' is unknown: choose one of detr, conditional-detr"):
        PeerConfig.beside(SamDetrConfig(**SIZES), "yolo")


@torch.no_grad()
@pytest.mark.parametrize("peer", ["detr", "conditional-detr", "dab-detr", "deformable-detr"])
def test_training_begins_where_the_authors_begin(peer):
    _, model = make(peer)
    detector, is_focal = model.peer.detector, peer != "detr"
    weights = dict(detector.model.named_parameters(remove_duplicate=False))
    bounds = {  # of Xavier-uniform weights: inputs and outputs, three times as many of what is one matrix
        "encoder.layers.0.self_attn.q_proj.weight": (32, 3 * 32),
        "encoder.layers.0.mlp.fc1.weight": (32, 32),
        "decoder.layers.1.self_attn.v_proj.weight": (32, 32 if peer == "conditional-detr" else 3 * 32),
        "decoder.layers.0.encoder_attn.o_proj.weight": (32, 32),
    }
    for name, sizes in bounds.items():
        if name in weights:  # others have other names
            bound = math.sqrt(6 / sum(sizes))
            assert 0.9 * bound < weights[name].abs().max() <= bound, name
    (queries,) = (weight for name, weight in weights.items() if name.startswith("query_"))
    assert 0.7 < queries.std() < 1.3

    outputs = detector.eval()(batch()["pixel_values"])
    assert outputs.pred_boxes[..., :2].std(1).min() > (0.05 if is_focal else 0), "queries look at one place"
    if is_focal:
        assert outputs.logits.sigmoid().mean() == pytest.approx(0.01, abs=0.005)
    if peer == "deformable-detr":
        torch.testing.assert_close(outputs.pred_boxes[..., 2:].mean(), torch.tensor(-2.0).sigmoid(), atol=0.05, rtol=0)


@torch.no_grad()
def test_centers_to_start_from_are_what_deformable_detr_predicts_first():
    _, model = make("deformable-detr")
    boxes = torch.rand(12, 4) * 0.8 + 0.1
    model.set_reference_boxes(boxes)
    found = model.eval()(batch()["pixel_values"]).pred_boxes[..., :2]
    torch.testing.assert_close(found, boxes[:, :2].expand(2, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("peer", ["detr", "conditional-detr", "dab-detr", "faster-rcnn"])
def test_where_there_are_none_it_says_so(peer):
    with pytest.raises(ValueError, match="no reference boxes"):
        make(peer)[1].set_reference_boxes(torch.rand(12, 4))
