"""The model card of a saved model: training data, metrics, how to use it, licence."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub import ModelCard as HubCard

from .modeling_sam_detr import SamDetrForObjectDetection

NOT_STATED = "not stated"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class ModelCard:
    """What the weights do not tell; a field left out reads "not stated" on the card.

    Attributes:
        name: heading of the card.
        source: a sentence or two on where the weights come from.
        training_data: in words.
        dataset_id: of the training data on the Hub, such as `"detection-datasets/coco"`, for its search.
        metrics: names and values, such as `{"COCO AP": 34.2}`.
        evaluation_data: what the metrics were measured on, in words.
        licence: identifier of the weights' licence as the Hub writes it, such as `"apache-2.0"`.
        repo_id: the Hub repository, for the example.
    """

    name: str | None = None
    source: str | None = None
    training_data: str | None = None
    dataset_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation_data: str | None = None
    licence: str | None = None
    repo_id: str | None = None

    def render(self, model: SamDetrForObjectDetection) -> str:
        """The card as Markdown, with the Hub's metadata in front."""
        results = None
        if self.metrics:
            dataset = self.dataset_id or "custom", self.evaluation_data or self.dataset_id or NOT_STATED  # type, name
            results = [EvalResult("object-detection", *dataset, name, value) for name, value in self.metrics.items()]
        data = ModelCardData(
            library_name="transformers",
            pipeline_tag="object-detection",
            license=self.licence,
            tags=["sam-detr", "object-detection", "vision", "custom_code"],
            datasets=[self.dataset_id] if self.dataset_id else None,
            eval_results=results,
            model_name=(self.name or "SAM-DETR") if results else None,
        )
        template = str(Path(__file__).with_name("model_card.md"))
        names = [name for _, name in sorted(model.config.id2label.items())]
        card = HubCard.from_template(data, template, card=self, model=model, names=names, not_stated=NOT_STATED)
        return card.content + "\n"


def parse_metric(text: str) -> tuple[str, float]:
    """The name and value of `NAME=VALUE`, or a ValueError.

    >>> parse_metric("COCO AP=41.9")
    ('COCO AP', 41.9)
    """
    name, separator, value = text.rpartition("=")
    try:
        if separator and name:
            return name.strip(), float(value)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not NAME=VALUE: give a name and a number, such as AP=41.9.")


def logged_metrics(folder: str | Path) -> tuple[dict[str, float], int | None]:
    """COCO AP, AP50 and AP75, in percent, that training logged for the weights in its output folder, and their epoch.

    The weights are the last epoch's if they were written after the log, as `keep="last"` does, and otherwise those of
    the epoch with the highest AP. Without a log with an AP, an empty dict and None.
    """
    log, weights = Path(folder) / "log.jsonl", Path(folder) / WEIGHTS_FILE
    if not (log.is_file() and weights.is_file()):
        return {}, None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not (lines := [line for line in lines if line.get("AP") is not None]):
        return {}, None
    is_last = weights.stat().st_mtime >= log.stat().st_mtime
    line = lines[-1] if is_last else max(lines, key=lambda line: line["AP"])
    return {f"COCO {name}": line[name] for name in ("AP", "AP50", "AP75") if line.get(name) is not None}, line["epoch"]
