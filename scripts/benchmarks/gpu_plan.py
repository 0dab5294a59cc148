"""What `--preset gpu` measures, in the order of its importance, and the bars that it judges."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .bars import Bar
from .work import PEERS, Work

SECONDS = 360
"""Of a run, from its start to its last line."""
SINGLE, DC5, MULTI = "sam-detr-r50", "sam-detr-r50-dc5-smca", "sam-detr-pp-r50-smca"
CONDITIONAL, DEFORMABLE = "conditional-detr-r50", "deformable-detr-r50"
PAIRS = (SINGLE, CONDITIONAL, MULTI, DEFORMABLE)
EVERYTHING = (*PAIRS, DC5, *(peer for peer in PEERS if peer not in PAIRS))
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Group:
    """Works that are measured in turn.

    Attributes:
        name: for the page.
        works: the most important ones first.
        seconds: its share of the run.
        least: the group is left out where fewer seconds are left.
        rounds: repetitions of each work; fewer where the share is used up.
        apart: each model is in a process of its own, so that all are compiled at once.
        counted: what each work asks of host and device is counted, in place of repetitions.
    """

    name: str
    works: tuple[Work, ...]
    seconds: int
    least: int
    rounds: int = 20
    apart: bool = False
    counted: bool = False


def _works(models: Sequence[str], task: str = "inference", dtype: str = "float32", batch: int = 1) -> tuple[Work, ...]:
    return tuple(Work(model, task, batch_size=batch, threads=8, dtype=dtype, device="cuda") for model in models)


def _compiled(models: Sequence[str], dtypes: Sequence[str], batch: int) -> tuple[Work, ...]:
    """Compiled, that as a graph, and what is not compiled as a graph."""
    ways = ({"compiled": True}, {"compiled": True, "graphs": True}, {"graphs": True})
    plain = [work for dtype in dtypes for work in _works(models, dtype=dtype, batch=batch)]
    return tuple(replace(work, **way) for work in plain for way in ways)


PLAN = (
    Group("inference, batch 1, float32", _works(EVERYTHING), seconds=50, least=15),
    Group("inference, batch 1, bfloat16", _works(EVERYTHING, dtype="bfloat16"), seconds=30, least=10),
    Group("training step, batch 4, bfloat16", _works(EVERYTHING, "step", "bfloat16", 4), 50, least=15, rounds=12),
    Group("compiled, batch 1", _compiled(PAIRS, ("bfloat16", "float32"), 1), seconds=130, least=50, apart=True),
    Group("training memory, batch 1, float32", _works(PAIRS, "training"), seconds=12, least=5, rounds=8),
    Group("inference, batch 8, bfloat16", _works(PAIRS, dtype="bfloat16", batch=8), seconds=15, least=6),
    Group("inference, batch 8, float32", _works(PAIRS, batch=8), seconds=15, least=6),
    Group("JPEG files to boxes, batch 8, bfloat16", _works(PAIRS, "pictures", "bfloat16", 8), seconds=15, least=6),
    Group("the host's share, float32", _works(PAIRS), seconds=15, least=8, counted=True),
    Group("compiled, batch 8", _compiled((MULTI, DEFORMABLE), DTYPES[::-1], 8), seconds=80, least=40, apart=True),
    Group(
        "compiled training step, batch 4, bfloat16",
        tuple(replace(work, compiled=True) for work in _works(PAIRS, "step", "bfloat16", 4)),
        seconds=100,
        least=60,
        rounds=12,
        apart=True,
    ),
)
"""Shares are upper limits: what one leaves over is for those after it."""


def _bars() -> tuple[Bar, ...]:
    def one(model: str, task: str = "inference", dtype: str = "float32", batch: int = 1, **how: bool) -> Work:
        return replace(_works([model], task, dtype, batch)[0], **how)

    def ratio(name: str, ours: str, other: str, bar: float, aim: float, task: str, dtype: str, batch: int) -> Bar:
        return Bar(name, (one(ours, task, dtype, batch),), one(other, task, dtype, batch), bar, aim)

    rows = [ratio(f"SAM-DETR-R50, {dtype}", SINGLE, CONDITIONAL, 1.0, 0.9, "inference", dtype, 1) for dtype in DTYPES]
    for dtype in DTYPES:
        graphs = [one(SINGLE, dtype=dtype, graphs=True), one(SINGLE, dtype=dtype, compiled=True, graphs=True)]
        other = one(CONDITIONAL, dtype=dtype, compiled=True, graphs=True)
        aim = 0.005 if dtype == "bfloat16" else None
        rows.append(Bar(f"SAM-DETR-R50, {dtype}, graphs", tuple(graphs), other, 1.0, None, aim_seconds=aim))
    for batch in (1, 8):
        for dtype in DTYPES:
            name = f"SAM-DETR++ w/ SMCA, {dtype}, batch {batch}"
            rows.append(ratio(name, MULTI, DEFORMABLE, 0.8, 0.5, "inference", dtype, batch))
            ours, other = (one(model, dtype=dtype, batch=batch, compiled=True) for model in (MULTI, DEFORMABLE))
            rows.append(Bar(f"{name}, both compiled", (ours,), other, 0.8, 0.5))
    rows.append(
        ratio("SAM-DETR-R50, training step, batch 4, bfloat16", SINGLE, CONDITIONAL, 0.9, 0.7, "step", "bfloat16", 4)
    )
    rows.append(
        ratio(
            "SAM-DETR++ w/ SMCA, training step, batch 4, bfloat16", MULTI, DEFORMABLE, 0.8, 0.5, "step", "bfloat16", 4
        )
    )
    ours, other = one(SINGLE, "training"), one(CONDITIONAL, "training")
    rows.append(Bar("SAM-DETR-R50, training memory, batch 1, float32", (ours,), other, 1.0, 0.8, memory=True))
    return tuple(rows)


GPU_BARS = _bars()
"""At 800 x 1066; of ours with graphs the faster one counts, compiled or not."""
EARLIER = {
    "SAM-DETR-R50, float32": "1.81",
    "SAM-DETR-R50, bfloat16": "1.76",
    "SAM-DETR++ w/ SMCA, float32, batch 1": "1.16",
    "SAM-DETR++ w/ SMCA, bfloat16, batch 1": "1.46",
    "SAM-DETR-R50, training step, batch 4, bfloat16": "0.97",
    "SAM-DETR-R50, training memory, batch 1, float32": "1.21",
}
"""Ratios on an H100, of code before these bars were set; that training step was without its optimizer."""
