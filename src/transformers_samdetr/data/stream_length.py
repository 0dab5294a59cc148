"""How many pictures a stream has: what a schedule needs to know, and a stream does not say by itself."""

from collections.abc import Iterable

import pyarrow.parquet as pq
from datasets import IterableDataset
from datasets.splits import SplitDict, SplitInfo


def with_length(data: IterableDataset, length: int) -> IterableDataset:
    """The stream, with its length where the `datasets` library keeps it: in the information about its split.

    Raises:
        ValueError: the length is below 1.
    """
    if length < 1:
        raise ValueError(f"stream_length={length} is not possible: it counts the pictures of an epoch, at least 1.")
    name = str(data.split or "train")
    data.info.splits = SplitDict({name: SplitInfo(name, num_examples=length)})
    return data


def known_length(data: IterableDataset) -> int | None:
    """The number of pictures that the stream's information gives, or None."""
    split = (data.info.splits or {}).get(str(data.split or "train"))
    return split.num_examples if split is not None and split.num_examples else None


def require_length(data: IterableDataset) -> int:
    """The number of pictures of the stream.

    Raises:
        ValueError: nothing gives it; the message says what to do.
    """
    length = known_length(data)
    if length is None:
        raise ValueError(
            "The training stream does not say how many pictures it has, which the schedule of the learning rate needs: "
            "give their number with --stream_length N, load_detection_data(..., stream_length=N) in Python. A smaller "
            "number makes epochs of so many pictures."
        )
    return length


def rows_of_parquet(files: Iterable[str]) -> int | None:
    """Rows of files on this machine, from their last few bytes alone; None if one of them is something else."""
    files = list(map(str, files))
    if not all(file.endswith(".parquet") and "://" not in file for file in files):
        return None
    return sum(pq.read_metadata(file).num_rows for file in files)
