import math
import warnings

import pytest
import torch

from transformers_samdetr import SamDetrConfig
from transformers_samdetr.geometry import center_to_corners, generalized_iou
from transformers_samdetr.loss import focal_loss, match, prepare_targets, sam_detr_loss

from ..models import TINY, targets, tiny_model

CONFIG = SamDetrConfig(**TINY)


def prepared(*labels, num_labels=5):
    return prepare_targets(list(labels), len(labels), num_labels, torch.device("cpu"))


def test_focal_loss_by_hand():
    probability = torch.tensor(0.2)
    logit = torch.log(probability / (1 - probability))
    expected = 0.25 * 0.8**2 * -math.log(0.2)
    assert focal_loss(logit, 0.25, present=True).item() == pytest.approx(expected, rel=1e-5)
    expected = 0.75 * 0.2**2 * -math.log(0.8)
    assert focal_loss(logit, 0.25, present=False).item() == pytest.approx(expected, rel=1e-5)


def test_giou_of_boxes_apart_and_inside():
    boxes = center_to_corners(torch.tensor([[1.0, 1, 2, 2], [4, 1, 2, 2], [1, 1, 1, 1]]))
    pairs = generalized_iou(boxes[:, None], boxes[None])
    assert pairs[0].tolist() == pytest.approx([1.0, -2 / 10, 0.25])


def test_matching_finds_the_objects():
    labels = targets(2, 1)
    boxes = torch.rand(2, 1, 6, 4)
    boxes[0, 0, 4], boxes[0, 0, 1], boxes[1, 0, 3] = *labels[0]["boxes"], labels[1]["boxes"][0]
    matches = match(torch.zeros(2, 1, 6, 5), boxes, prepared(*labels), CONFIG)
    pairs = {tuple(x) for x in torch.stack([matches.image, matches.query[0], matches.target[0]], 1).tolist()}
    assert pairs == {(0, 4, 0), (0, 1, 1), (1, 3, 0)}


def test_all_layers_and_images_are_matched_with_one_transfer(monkeypatch):
    transfers = []
    cpu = torch.Tensor.cpu
    labels = prepared(*targets(3, 2, 0))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self, *a, **k: transfers.append(1) or cpu(self, *a, **k))
    match(torch.randn(3, 6, 12, 5), torch.rand(3, 6, 12, 4), labels, CONFIG)
    assert len(transfers) == 1


def test_the_loss_is_the_weighted_sum_of_its_terms():
    loss, terms = sam_detr_loss(torch.randn(2, 3, 12, 5), torch.rand(2, 3, 12, 4), prepared(*targets(2, 3)), CONFIG)
    weights = {"ce": 2, "bbox": 5, "giou": 2}
    total = sum(weights[name.split("_")[1]] * value for name, value in terms.items())
    torch.testing.assert_close(loss, total)
    last_only = SamDetrConfig(**TINY, auxiliary_loss=False)
    torch.manual_seed(0)
    loss, terms = sam_detr_loss(torch.randn(2, 3, 12, 5), torch.rand(2, 3, 12, 4), prepared(*targets(2, 3)), last_only)
    assert set(terms) == {"loss_ce", "loss_bbox", "loss_giou"}
    torch.testing.assert_close(loss, 2 * terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"])


def test_class_weights_multiply_the_columns_of_their_classes():
    logits, boxes = torch.randn(2, 3, 12, 5, dtype=torch.float64), torch.rand(2, 3, 12, 4, dtype=torch.float64)
    noised = torch.randn(2, 3, 6, 5, dtype=torch.float64), torch.rand(2, 3, 6, 4, dtype=torch.float64)
    labels = prepared(*targets(2, 3))
    fields = TINY | {"num_denoising_groups": 2}

    def class_losses(*weights):
        config = SamDetrConfig(**fields, class_weights=list(weights) or None)
        return sam_detr_loss(logits, boxes, labels, config, *noised)[1]

    plain, ones = class_losses(), class_losses(1, 1, 1, 1, 1)
    assert all(torch.equal(plain[name], ones[name]) for name in plain)
    alone = [class_losses(*(float(label == column) for label in range(5))) for column in range(5)]
    weighted = class_losses(3, 0, 1, 0.5, 2)
    for name, value in weighted.items():
        by_column = [losses[name] for losses in alone]
        expected = sum(w * loss for w, loss in zip((3, 0, 1, 0.5, 2), by_column, strict=True))
        torch.testing.assert_close(value, expected if "_ce" in name else plain[name])
        if "_ce" in name:
            torch.testing.assert_close(sum(by_column), plain[name])


def test_class_weights_are_one_for_each_class():
    with pytest.raises(
        ValueError, match=r"^`class_weights=\[1, 2\]` is not possible: give one for each of the 5 classes.$"
    ):
        SamDetrConfig(**TINY, class_weights=[1, 2])
    with pytest.raises(ValueError, match="each must be a finite number"):
        SamDetrConfig(**TINY, class_weights=[1, 1, -1, 1, 1])
    saved = SamDetrConfig(**TINY, class_weights=[1, 2, 1, 1, 1]).to_dict()
    assert SamDetrConfig.from_dict(saved).class_weights == [1, 2, 1, 1, 1]
    assert SamDetrConfig.from_dict(saved, num_labels=3).class_weights is None


def test_a_batch_without_objects_has_only_a_class_loss():
    logits = torch.randn(2, 3, 12, 5)
    loss, terms = sam_detr_loss(logits, torch.rand(2, 3, 12, 4), prepared(*targets(0, 0)), CONFIG)
    assert terms["loss_bbox"] == terms["loss_giou"] == 0
    torch.testing.assert_close(loss, 2 * focal_loss(logits, 0.25, present=False).sum())


def test_more_objects_than_queries_warns_and_learns_the_rest():
    model = tiny_model(num_queries=3)
    with pytest.warns(UserWarning, match=r"image 0 of the batch \(image_id 100\) has 7 objects, more than the 3"):
        loss = model(torch.randn(1, 3, 64, 64), labels=targets(7)).loss
    assert torch.isfinite(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(1, 3, 64, 64), labels=targets(3))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_labels": torch.tensor([0, 5])}, r"image_id 100\) has the label 5, outside the 5 classes"),
        ({"class_labels": torch.tensor([-1, 0])}, "has the label -1"),
        ({"class_labels": torch.tensor([0.0, 1.0])}, "give integer class indices"),
        ({"class_labels": torch.tensor([0])}, "do not fit together"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 1.2, 0.1, 0.1]])}, r"image_id 100\) has the box"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, math.nan, 0.1, 0.1]])}, "not finite or not within"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0.2, -0.2], [0.5, 0.5, 0.1, 0.1]])}, "not finite or not within"),
        ({"boxes": None}, "lack the tensor 'boxes'"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_runs(change, message):
    model = tiny_model()
    model.model.backbone.forward = None  # would fail if it ran
    label = {**targets(2)[0], **change}
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, 3, 64, 64), labels=[label])
    with pytest.raises(ValueError, match="1 labels for 2 images"):
        model(torch.randn(2, 3, 64, 64), labels=targets(2))


def test_normaliser_sums_boxes_over_processes_and_divides_once(monkeypatch):
    from transformers_samdetr.loss import average_num_boxes

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(7))  # the three others have 7
    assert average_num_boxes(prepared(*targets(3, 2))).item() == 3
    assert average_num_boxes(prepared(*targets(0))).item() == pytest.approx(1.75)
