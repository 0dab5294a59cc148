"""The performance bars of this package: ratios against Transformers' models, and AP in bf16 against float32."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForObjectDetection

from .measure import Measurement, Progress, interleave
from .work import Work


@dataclass(frozen=True)
class Bar:
    """The largest allowed ratio of our time or memory to another model's, on the same work.

    Attributes:
        name: of the row.
        ours: alternatives, of which the best counts.
        other: the work to compare with.
        bar, aim: the largest ratio that passes, and the ratio that we aim at; None: for information only.
        memory: compares peak memory instead of time.
        aim_seconds: an aim of ours alone, in place of a ratio.
    """

    name: str
    ours: tuple[Work, ...]
    other: Work
    bar: float | None
    aim: float | None
    memory: bool = False
    aim_seconds: float | None = None

    def judge(self, measurements: dict[Work, Measurement]) -> dict[str, Any]:
        """Name, both figures (seconds or bytes), ratio, bar, aim and verdict: `aim`, `bar`, `missed`, `no figure`."""

        def figure(work: Work) -> float | None:
            found = measurements[work]
            if found.error is not None:
                return None
            return found.peak_bytes if self.memory else found.median

        ours = {work: value for work in self.ours if (value := figure(work)) is not None}
        best, other = min(ours, key=ours.get, default=None), figure(self.other)
        row = {"name": self.name, "against": self.other.label, "bar": self.bar, "aim": self.aim, "memory": self.memory}
        if best is None or other is None:
            errors = [f"{work.label}: {measurements[work].error}" for work in (*self.ours, self.other)]
            return {**row, "ours": None, "other": other, "ratio": None, "verdict": "no figure", "errors": errors}
        ratio = ours[best] / other
        verdict = "for information"
        if self.bar is not None:
            aimed = self.aim is not None and ratio <= self.aim
            aimed |= self.aim_seconds is not None and ours[best] <= self.aim_seconds
            verdict = "missed" if ratio > self.bar else "aim" if aimed else "bar"
        return {**row, "work": best.label, "ours": ours[best], "other": other, "ratio": ratio, "verdict": verdict}


def _bars() -> dict[str, tuple[Bar, ...]]:
    conditional, deformable = Work("conditional-detr-r50"), Work("deformable-detr-r50")
    r50, dc5, multi_scale = Work("sam-detr-r50"), Work("sam-detr-r50-dc5-smca"), Work("sam-detr-pp-r50-smca")
    faster = (Work(multi_scale.model, dtype="bfloat16"), Work(multi_scale.model, compiled=True))

    def step(model: str) -> Work:
        return Work(model, "training", height=480, width=640, batch_size=2)

    def loss(model: str) -> Work:
        return Work(model, "loss", batch_size=8, objects=50)

    def others(task: str, model: str) -> Work:
        return Work(model, task, batch_size=8 if task == "processor" else 1)

    return {
        "single-scale": (
            Bar("SAM-DETR-R50 latency", (r50,), conditional, 1.2, 1.0),
            Bar("SAM-DETR-R50-DC5 w/ SMCA latency", (dc5,), r50, 3.0, 2.3),
            Bar("SAM-DETR-R50 peak memory", (r50,), conditional, 0.8, 0.6, memory=True),
            Bar("SAM-DETR-R50-DC5 w/ SMCA peak memory", (dc5,), r50, None, None, memory=True),
        ),
        "multi-scale": (
            Bar("SAM-DETR++-R50 w/ SMCA latency", (multi_scale,), deformable, 0.8, 0.5),
            Bar("SAM-DETR++-R50 w/ SMCA peak memory", (multi_scale,), deformable, 0.8, 0.6, memory=True),
        ),
        "faster": (Bar("SAM-DETR++-R50 w/ SMCA in bf16 or compiled", faster, deformable, 0.45, 0.25),),
        "training-single": (
            Bar("SAM-DETR-R50 training step", (step(r50.model),), step(conditional.model), 1.2, 1.0),
            Bar("SAM-DETR-R50 training memory", (step(r50.model),), step(conditional.model), None, None, memory=True),
        ),
        "training-multi": (
            Bar("SAM-DETR++-R50 w/ SMCA training step", (step(multi_scale.model),), step(deformable.model), 0.8, 0.5),
            Bar(
                "SAM-DETR++-R50 w/ SMCA training memory",
                (step(multi_scale.model),),
                step(deformable.model),
                None,
                None,
                memory=True,
            ),
        ),
        "loss": (Bar("Matcher and loss", (loss(r50.model),), loss(deformable.model), 0.5, 0.2),),
        "processor": (
            Bar("Image processor", (others("processor", r50.model),), others("processor", conditional.model), 1.0, 0.7),
        ),
        "load": (
            Bar(
                "Import and from_pretrained", (others("load", r50.model),), others("load", conditional.model), 1.1, 0.8
            ),
        ),
    }


BARS = _bars()
"""Bars by group; works of a group are measured together."""


def measure_bars(
    groups: Sequence[str] = tuple(BARS), rounds: int = 5, progress: Progress = lambda line: None
) -> tuple[list[dict[str, Any]], list[Measurement]]:
    """Measures group by group; returns the judged rows and every measurement.

    Raises:
        ValueError: there is no such group.
    """
    unknown = sorted(set(groups) - BARS.keys())
    if unknown:
        raise ValueError(f"There is no group of bars {unknown[0]!r}: choose from {', '.join(BARS)}.")
    rows, measurements = [], []
    for group in groups:
        works = list(dict.fromkeys(work for bar in BARS[group] for work in (*bar.ours, bar.other)))
        found = interleave(works, rounds, progress)
        measurements += found
        rows += [bar.judge({entry.work: entry for entry in found}) | {"group": group} for bar in BARS[group]]
    return rows, measurements


ALLOWED_LOSS = 0.3
"""Largest allowed difference in AP points between bf16 and float32."""


class InAutocast(nn.Module):
    """A model whose forward runs in bf16 autocast."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return self.model(**inputs)


def compare_precision(model: str, data: str) -> dict[str, Any]:
    """AP of a saved model on a set's evaluation pictures.

    Args:
        model: folder or Hub name.
        data: as in `load_detection_data`.

    Returns:
        `float32` and `bfloat16`, COCO's AP in percent; `images`, how many; `passed`, whether the two differ by no more
        than `ALLOWED_LOSS`.
    """
    # here: a machine on which only time is measured need not have what evaluation takes
    from transformers_samdetr.evaluation.evaluate import compare_average_precision

    detector = AutoModelForObjectDetection.from_pretrained(model)
    runners = {"float32": detector, "bfloat16": InAutocast(detector)}
    found = compare_average_precision(runners, model, data)
    return {**found, "passed": abs(found["float32"] - found["bfloat16"]) <= ALLOWED_LOSS}
