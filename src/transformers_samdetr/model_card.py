"""The model card of a saved model: training data, metrics, how to use it, licence."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from .modeling_sam_detr import SamDetrForObjectDetection

NOT_STATED = "not stated"
WEIGHTS_FILE = "model.safetensors"
_TEMPLATE = """---
{front_matter}
---

# {name}

{kind} object detector with {parameters:,} parameters, of which {trainable:,} are trainable, for {num_labels} classes.
{source}

## How to use

```python
from transformers import pipeline

detector = pipeline("object-detection", model="{repo_id}", trust_remote_code=True)
for detection in detector("picture.jpg", threshold={threshold:g}):
    print(detection["label"], detection["score"], detection["box"])
```

The code that `trust_remote_code=True` runs lies in this repository. With the package `transformers-samdetr` installed,
`import transformers_samdetr` takes its place.

## Training data

{training_data}

## Metrics

{metrics}{threshold_note}

## Classes

{classes}

## Licence

{licence}

## Citation

Gongjie Zhang, Zhipeng Luo, Yingchen Yu, Jiaxing Huang, Kaiwen Cui, Shijian Lu, Eric P. Xing: Semantic-Aligned Matching
for Enhanced DETR Convergence and Multi-Scale Feature Fusion.
"""


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
        config = model.config
        names = [config.id2label[index] for index in sorted(config.id2label)]
        results, table, threshold_note = None, NOT_STATED, ""
        if self.metrics:
            dataset = self.dataset_id or "custom", self.evaluation_data or self.dataset_id or NOT_STATED  # type, name
            results = [EvalResult("object-detection", *dataset, name, value) for name, value in self.metrics.items()]
            rows = "\n".join(f"| {name} | {value:g} |" for name, value in self.metrics.items())
            table = f"Measured on: {self.evaluation_data or NOT_STATED}.\n\n| metric | value |\n|---|---|\n{rows}"
        threshold = getattr(config, "detection_threshold", None)
        if threshold is not None:
            threshold_note = (
                f"\n\nDetections with a score above {threshold:g} had the highest F1 in that evaluation; "
                "`pipeline` uses this threshold by default."
            )
        front_matter = ModelCardData(
            library_name="transformers",
            pipeline_tag="object-detection",
            license=self.licence,
            tags=["sam-detr", "object-detection", "vision", "custom_code"],
            datasets=[self.dataset_id] if self.dataset_id else None,
            eval_results=results,
            model_name=(self.name or "SAM-DETR") if results else None,
        )
        return _TEMPLATE.format(
            front_matter=front_matter.to_yaml(),
            name=self.name or "SAM-DETR",
            kind="SAM-DETR++" if config.num_feature_levels > 1 else "SAM-DETR",
            parameters=model.num_parameters(),
            trainable=model.num_parameters(only_trainable=True),
            num_labels=config.num_labels,
            source=self.source or f"Origin of the weights: {NOT_STATED}.",
            repo_id=self.repo_id or "PATH_OR_REPOSITORY",
            training_data=self.training_data or self.dataset_id or NOT_STATED,
            metrics=table,
            threshold=0.5 if threshold is None else threshold,
            threshold_note=threshold_note,
            classes=", ".join(name for name in names if name != "N/A") or NOT_STATED,
            licence=self.licence or NOT_STATED,
        )


def parse_metric(text: str) -> tuple[str, float]:
    """The name and value of `NAME=VALUE`, or a ValueError.

    >>> parse_metric("COCO AP=41.9")
    ('COCO AP', 41.9)
    """
    name, separator, value = text.rpartition("=")
    if not separator or not name:
        raise ValueError(f"{text!r} is not NAME=VALUE.")
    return name.strip(), float(value)


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
