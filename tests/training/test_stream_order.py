"""The order of a stream: a function of seed, epoch and place, from any step on, read and decoded once."""

import json
import logging

import pytest
from datasets import Dataset, Features, Image, IterableDataset, Value, load_dataset
from torch.utils.data import DataLoader

from transformers_samdetr.data import dataset as dataset_module
from transformers_samdetr.data.augment import make_augmentation
from transformers_samdetr.data.stream import StreamedExamples, require_length, with_length
from transformers_samdetr.training.order import ProcessBatches, StreamOrder

from ..data.test_batch import BAD, fingerprints, make_set, with_bad_pictures

COUNT = 53


def plain_stream(tmp_path, files=3):
    """Pictures that are their number; row groups of five."""
    rows = [{"image": {"bytes": bytes([i]), "path": f"{i}.png"}, "image_id": i} for i in range(COUNT)]
    data = Dataset.from_list(rows, features=Features({"image": Image(decode=False), "image_id": Value("int64")}))
    for index in range(files):
        part = data.shard(files, index, contiguous=True)
        part.to_parquet(tmp_path / f"train-{index}.parquet", batch_size=5)
    return load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=True)


def ids(windows):
    return [[place.candidates[0]["image_id"] for place in window] for window in windows]


def flat(lists):
    return [item for inner in lists for item in inner]


@pytest.mark.parametrize("files", [1, 3])
def test_an_epoch_has_each_picture_once_and_starts_anywhere(tmp_path, files, caplog):
    data = plain_stream(tmp_path, files)
    orders = {}
    for epoch in (0, 1):
        order = StreamOrder(data, COUNT, batch_size=4, seed=7, shuffle_buffer=10)  # blocks of three windows
        windows = list(order.windows(epoch))
        orders[epoch] = ids(windows)
        assert sorted(flat(orders[epoch])) == list(range(COUNT)) and order.steps_per_epoch == len(windows) == 14
        assert [place.index for window in windows for place in window] == list(range(COUNT))
        for start in range(order.steps_per_epoch + 1):
            position = json.loads(json.dumps(order.position(epoch, start)))
            resumed = StreamOrder(data, COUNT, 4, seed=7, shuffle_buffer=10)
            resumed.restore(position)
            assert ids(resumed.windows(epoch, start)) == orders[epoch][start:]
            # without its position the stream is read from the start
            again = StreamOrder(data, COUNT, 4, seed=7, shuffle_buffer=10)
            assert ids(again.windows(epoch, start)) == orders[epoch][start:]
    assert orders[0] != orders[1]
    assert ids(StreamOrder(data, COUNT, 4, seed=8, shuffle_buffer=10).windows(0)) != orders[0]
    # the library's row groups are shuffled too, also those of a single file
    assert max(orders[0][0]) - min(orders[0][0]) > 10
    assert "buffer" not in caplog.text


def test_a_resume_reads_on_where_the_block_begins():
    read = []

    def numbers(shards):
        for shard in shards:
            for i in range(shard * 5, shard * 5 + 5):
                read.append(i)
                yield {"image": {"bytes": bytes([i]), "path": None}, "image_id": i}

    features = Features({"image": Image(decode=False), "image_id": Value("int64")})
    data = IterableDataset.from_generator(numbers, features=features, gen_kwargs={"shards": list(range(10))})
    order = StreamOrder(data, 50, batch_size=2, shuffle_buffer=10)
    windows = order.windows(0)
    next(windows)
    assert len(read) == 10  # a block, and not the epoch
    for _ in range(19):
        next(windows)
    assert len(read) <= 48
    position = order.position(0, 20)
    read.clear()
    resumed = StreamOrder(data, 50, batch_size=2, shuffle_buffer=10)
    resumed.restore(position)
    assert ids(resumed.windows(0, 20)) == ids(windows) and len(read) <= 20  # a block, and files that it begins in


def test_processes_share_each_window_and_its_order(tmp_path):
    data = plain_stream(tmp_path)
    alone = ids(StreamOrder(data, COUNT, 4, shuffle_buffer=10).windows(1))
    taken = []
    for rank in range(2):
        batches = ProcessBatches(StreamOrder(data, COUNT, 4, slots=2, shuffle_buffer=10), 1, 2, rank, 2)
        taken.append(ids(batches))
        assert len(batches) == len(taken[-1]) == 12
        # the last window holds a single picture
        assert bool(batches.order.share(batches.order.window(1, 13), rank)) == (rank == 0)
    assert [first + second for first, second in zip(*taken, strict=True)][:-1] == alone[2:-1]
    assert taken[0][-1] == taken[1][-1] == alone[-1]


def test_a_length_that_is_missing_or_wrong(tmp_path):
    data = plain_stream(tmp_path)
    with pytest.raises(ValueError, match="--stream_length N"):
        require_length(data)
    assert require_length(with_length(data, 9)) == 9
    with pytest.raises(ValueError, match=f"ended after {COUNT} of 60 pictures: give --stream_length {COUNT}"):
        list(StreamOrder(data, 60, 4).windows(0))
    assert len(flat(ids(StreamOrder(data, 9, 4).windows(0)))) == 9
    with pytest.raises(ValueError, match="stream_length=0"):
        with_length(data, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_picture_is_decoded_once_by_whom_it_is_for(workers, monkeypatch):
    decoded, read_example = [], dataset_module.read_example
    monkeypatch.setattr(
        dataset_module, "read_example", lambda example: decoded.append(example["image_id"]) or read_example(example)
    )
    loaded = {}
    for rank in range(2):
        order = StreamOrder(make_set(12).to_iterable_dataset(num_shards=2), 12, 4, slots=2, shuffle_buffer=4)
        examples = StreamedExamples(make_augmentation("strong"), seed=5)
        batches = ProcessBatches(order, 0, 0, rank, 2)
        loader = DataLoader(examples, batch_sampler=batches, num_workers=workers, collate_fn=fingerprints)
        loaded |= {annotations["image_id"]: image for batch in loader for image, annotations in batch}
    assert sorted(loaded) == list(range(100, 112))
    if workers == 0:
        assert sorted(decoded) == list(range(100, 112))
    # the random numbers are those of the place, whoever draws them
    order = StreamOrder(make_set(12).to_iterable_dataset(num_shards=2), 12, 4, shuffle_buffer=4)
    examples = StreamedExamples(make_augmentation("strong"), seed=5)
    for place in flat(order.windows(0)):
        image, annotations = examples[place]
        assert image.tobytes() == loaded[annotations["image_id"]]


def test_an_unusable_picture_is_replaced_counted_once_and_named(caplog):
    data = with_bad_pictures().to_iterable_dataset(num_shards=2)
    examples = StreamedExamples(max_corrupt=2)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            order = StreamOrder(data, 10, 4, shuffle_buffer=100)
            examples.set_epoch(epoch)
            found = [examples[place][1]["image_id"] for place in flat(order.windows(epoch))]
            assert len(found) == 10 and set(found) == {100 + i for i in range(10) if i not in BAD}
    assert len(examples.unusable) == 2
    assert "Skipped image 103 (3.png) (" in caplog.text and caplog.text.count("Skipped image 104 (4.png)") == 1
    few = StreamedExamples(max_corrupt=1)
    with pytest.raises(RuntimeError, match=r"2 pictures cannot be used, more than max_corrupt=1. .*image 10[34] \("):
        [few[place] for place in flat(StreamOrder(data, 10, 4).windows(0))]
    none = make_set(2, bad={0: b"", 1: b""}).to_iterable_dataset()
    with pytest.raises(RuntimeError, match=r"None of 2 pictures in a row can be used, those with the ids \[10[01], "):
        StreamedExamples()[next(StreamOrder(none, 2, 2).windows(0))[0]]
