"""Our models and their peers with random weights, all with COCO's 91 classes and a loss at each decoder layer."""

import torch
import transformers
from torch import nn

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection

from .work import PEERS, Work

NUM_LABELS = 91


def model_class(work: Work) -> type[nn.Module]:
    if work.is_ours:
        return SamDetrForObjectDetection
    return getattr(transformers, f"{PEERS[work.model]}ForObjectDetection")


def model_config(work: Work) -> transformers.PreTrainedConfig:
    """Without pretrained weights. All but the number of classes and the layers' losses is the class's default."""
    overrides = dict(work.overrides)
    if work.is_ours:
        return SamDetrConfig.from_preset(work.model, **overrides)
    config_class = getattr(transformers, f"{PEERS[work.model]}Config")
    return config_class(num_labels=NUM_LABELS, auxiliary_loss=True, **overrides)


def build_model(work: Work) -> nn.Module:
    """Every caller gets the same weights."""
    torch.manual_seed(0)
    model = model_class(work)(model_config(work)).to(work.device)
    return model.train(work.task == "training")
