"""What `load_detection_data` returns."""

from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset

from .stream_length import known_length


@dataclass(frozen=True)
class DetectionData:
    """Training and evaluation pictures of a source with their classes.

    Attributes:
        source: what was asked for.
        train: training set in the schema of `detection_features`; an `IterableDataset` when streamed.
        evaluation: evaluation set, likewise.
        names: class name of each label.
        category_ids: the source's own category id of each label.
        box_format: in which the source has its boxes, one of `BOX_FORMATS`; here they are (x, y, width, height) in
            pixels.
        fingerprint: changes with any annotation and with the list of pictures; of a stream only with its name,
            version, columns and shards.
        notes: what was decided without being told, such as a detected box format or an evaluation set split off.
    """

    source: str
    train: Dataset | IterableDataset
    evaluation: Dataset | IterableDataset
    names: list[str]
    category_ids: list[int]
    box_format: str
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Sizes, classes and box format in a line, and a line for each note."""

        def size(data: Dataset | IterableDataset) -> str:
            if isinstance(data, IterableDataset):
                return f"a stream of {known_length(data) or ''}".rstrip()
            return str(len(data))

        head = (
            f"{self.source}: {size(self.train)} training and {size(self.evaluation)} evaluation images, "
            f"{len(self.names)} {'class' if len(self.names) == 1 else 'classes'}, boxes {self.box_format}"
        )
        return "\n".join([head, *(f"  {note}" for note in self.notes)])
