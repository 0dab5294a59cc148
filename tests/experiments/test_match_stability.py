"""Assignments by hand, and those of a model against its loss's own matching."""

import pytest
import torch

from experiments.matched_queries import Assignment, assign_queries, changed_objects, instability, predictions_by_layer
from transformers_samdetr.loss import match, prepare_targets

from ..models import SMALL_BACKBONE, targets, tiny_model


def assignment(*layers: list[int], images: int = 3, queries: int = 4) -> Assignment:
    """Two objects in the first image, none in the second, one in the third."""
    return Assignment(torch.tensor(layers), torch.tensor([0, 0, 2]), images, queries)


def test_changes_by_hand():
    before = assignment([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, -1, 2])
    # nothing; two objects exchange their queries; one moves to a free query; one has a query at last
    after = assignment([0, 1, 2], [1, 0, 2], [0, 3, 2], [0, 3, 2])
    assert changed_objects(before, after).tolist() == pytest.approx([0, 2 / 3, 1 / 3, 1 / 3])
    # an exchange concerns two queries, as does a move; one taken by an object that had none concerns one
    assert instability(before, after).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 1 / 3])
    assert torch.equal(changed_objects(after, before), changed_objects(before, after))
    assert torch.equal(instability(after, before), instability(before, after))


def test_the_same_query_of_another_image_is_another_query():
    before, after = assignment([0, 1, 1]), assignment([0, 2, 1])
    assert changed_objects(before, after).tolist() == pytest.approx([1 / 3])
    assert instability(before, after).tolist() == pytest.approx([2 / 3])


def test_nothing_changes_without_objects():
    none = Assignment(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 3, 4)
    assert changed_objects(none, none).tolist() == instability(none, none).tolist() == [0, 0]


def test_other_objects_are_refused():
    before = assignment([0, 1, 2])
    for other in (
        assignment([0, 1, 2], [0, 1, 2]),
        assignment([0, 1, 2], queries=5),
        Assignment(torch.tensor([[0, 1, 2]]), torch.tensor([0, 1, 2]), 3, 4),
    ):
        with pytest.raises(ValueError, match="3 objects at 1 layers in 3 images of 4 queries.*the same pictures"):
            changed_objects(before, other)


def test_a_model_is_matched_as_in_its_loss():
    model = tiny_model(backbone_config=SMALL_BACKBONE, num_queries=4).train()
    torch.manual_seed(1)
    batches = [
        {"pixel_values": torch.randn(len(counts), 3, 64, 64), "labels": targets(*counts, seed=seed)}
        for seed, counts in enumerate([(2, 0, 4), (1, 6)])  # the last image has more objects than queries
    ]
    with pytest.warns(UserWarning, match="more than the 4 queries"):
        found = assign_queries(model, batches)
    assert model.training
    assert found.image.tolist() == [0, 0, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4]
    assert (found.num_images, found.num_queries, found.query.shape) == (5, 4, (3, 13))
    assert (found.query < 0).sum(-1).tolist() == [2, 2, 2]
    model.eval()
    with torch.no_grad():
        logits, boxes = predictions_by_layer(model(batches[0]["pixel_values"]))
    matches = match(logits, boxes, prepare_targets(batches[0]["labels"], 3, 5, logits.device), model.config)
    first = {0: 0, 2: 2}  # of the objects of an image
    for layer in range(3):
        pairs = zip(matches.image.tolist(), matches.query[layer].tolist(), matches.target[layer].tolist(), strict=True)
        for image, query, target in pairs:
            assert found.query[layer, first[image] + target] == query
    assert not instability(found, found).any()


def test_without_every_layer_there_is_nothing_to_compare():
    model = tiny_model(backbone_config=SMALL_BACKBONE, auxiliary_loss=False)
    with pytest.raises(ValueError, match="auxiliary_loss=True"):
        predictions_by_layer(model(torch.randn(1, 3, 64, 64)))
