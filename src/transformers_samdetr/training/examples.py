"""The training set as a trainer asks for it: augmented examples, and the order in which they come."""

from datasets import IterableDataset
from transformers.image_processing_utils import BaseImageProcessor

from ..data.augment import make_augmentation
from ..data.dataset import DetectionDataset
from ..data.schema import AnySet
from ..data.stream import StreamedExamples, require_length
from .order import WindowOrder
from .recipes import Recipe
from .stream_order import StreamOrder


def training_examples(
    data: AnySet, recipe: Recipe, processor: BaseImageProcessor, num_processes: int
) -> tuple[DetectionDataset | StreamedExamples, WindowOrder]:
    """Examples, and the order that says which of them each step asks for.

    Raises:
        ValueError: a stream does not know its length, or the batch size does not fit the processes.
    """
    augmentation = make_augmentation(recipe.augmentation, processor.size)
    slots = num_processes * recipe.accumulation_steps
    if isinstance(data, IterableDataset):
        order = StreamOrder(data, require_length(data), recipe.batch_size, slots, recipe.seed, recipe.shuffle_buffer)
        return StreamedExamples(augmentation, recipe.seed, recipe.max_corrupt), order
    examples = DetectionDataset(data, augmentation, recipe.seed, recipe.max_corrupt)
    return examples, WindowOrder(len(examples), recipe.batch_size, slots, recipe.seed)
