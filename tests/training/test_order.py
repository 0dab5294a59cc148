import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers_samdetr.training.order import ProcessBatches, WindowOrder, position_seed


def windows(num_images, batch_size, processes, accumulation, epoch=0, start=0, seed=0):
    """The images of each window as the processes take them together, fillers left out, in the order of the slots."""
    order = WindowOrder(num_images, batch_size, processes * accumulation, seed)
    samplers = [ProcessBatches(order, epoch, start, rank, processes) for rank in range(processes)]
    taken = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in taken} == {len(samplers[0])}, "processes must take equally many micro-batches"
    found = []
    for index, step in enumerate(range(start, order.steps_per_epoch)):
        images = []
        for micro in range(accumulation):
            for rank, sampler in enumerate(samplers):
                batch = taken[rank][index * accumulation + micro]
                assert batch, "an empty batch would not go through a model"
                if order.share(order.window(epoch, step), sampler.my_slots[micro]):
                    images += batch
        found.append(images)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sampled_from([(4, 1), (2, 2), (1, 4), (1, 1)]), st.integers(1, 3), st.integers(0, 5))
def test_every_image_once_whatever_the_processes(num_images, split, size, epoch):
    processes, accumulation = split
    batch_size = 4 * size
    found = windows(num_images, batch_size, processes, accumulation, epoch)
    assert found == windows(num_images, batch_size, 1, 1, epoch)
    assert sorted(image for window in found for image in window) == list(range(num_images))
    assert all(len(window) == batch_size for window in found[:-1])


def test_an_epoch_can_start_at_any_step():
    whole = windows(23, 4, 2, 2, epoch=3)
    for start in range(len(whole) + 1):
        assert windows(23, 4, 2, 2, epoch=3, start=start) == whole[start:]


def test_epochs_and_seeds_differ_and_return():
    first = windows(50, 8, 1, 1)
    assert first != windows(50, 8, 1, 1, epoch=1) and first != windows(50, 8, 1, 1, seed=1)
    assert first == windows(50, 8, 1, 1)
    order = WindowOrder(50, 8)
    assert order.permutation(0) != order.permutation(1)
    assert order.permutation(0) == WindowOrder(50, 8).permutation(0)


def test_the_slots_do_not_depend_on_who_takes_them():
    two, one = WindowOrder(16, 8, 2), WindowOrder(16, 8, 2)
    of_two = [next(iter(ProcessBatches(two, 0, 0, rank, 2))) for rank in range(2)]
    assert of_two == list(ProcessBatches(one, 0, 0, 0, 1))[:2]


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size=10 .* 4 here"):
        WindowOrder(100, 10, 4)
    with pytest.raises(ValueError, match="num_images=0"):
        WindowOrder(0, 4)
    with pytest.raises(ValueError, match="3 slots cannot be shared by 2"):
        ProcessBatches(WindowOrder(9, 3, 3), 0, num_processes=2)


def test_seeds_of_positions_do_not_meet():
    positions = [(a, b, c) for a in range(10) for b in range(10) for c in range(10)]
    assert len({position_seed(*position) for position in positions}) == 1000
    assert all(0 <= position_seed(*position) < 2**63 for position in positions)


def test_an_order_is_drawn_once_an_epoch(monkeypatch):
    order, drawn = WindowOrder(10, 4), []
    monkeypatch.setattr(order, "_draw", lambda generator: drawn.append(generator) or torch.arange(10))
    for epoch in (0, 0, 1, 1, 0):
        list(order.windows(epoch))
    assert len(drawn) == 3
