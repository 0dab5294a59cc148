"""The Semantics Aligner in a DETR of somebody else: Transformers' DAB-DETR, one training step.

    python examples/aligner_in_dab_detr.py  # needs no data

Its queries have reference boxes already. Each decoder layer's cross-attention is replaced by one whose queries are
features sampled within those boxes. docs/aligner.md explains the lines.
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import DabDetrConfig, DabDetrForObjectDetection

from transformers_samdetr import SemanticsAligner


class AlignedCrossAttention(nn.Module):
    """In place of `DabDetrDecoderLayerCrossAttention`, with its arguments; `now` has boxes and size of this forward."""

    def __init__(self, config: DabDetrConfig, now: SimpleNamespace):
        super().__init__()
        self.now, self.num_heads = now, config.decoder_attention_heads
        self.aligner = SemanticsAligner(config.hidden_size, self.num_heads)
        self.value_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden_states, encoder_hidden_states, object_queries, encoder_attention_mask, **others):
        feature_map = encoder_hidden_states.unflatten(1, self.now.size)  # (B, H, W, C)
        aligned = self.aligner(hidden_states, self.now.boxes, feature_map)
        query = (aligned.content + aligned.positions).transpose(1, 2)  # (B, M, Q, C)
        key = (encoder_hidden_states + object_queries)[:, None].expand(-1, self.num_heads, -1, -1)
        value = self.value_proj(encoder_hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, encoder_attention_mask)
        return self.norm(hidden_states + self.o_proj(attended.transpose(1, 2).flatten(2))), None


def align(detector: DabDetrForObjectDetection) -> DabDetrForObjectDetection:
    """Replaces the cross-attention of every decoder layer, in place."""
    model, now = detector.model, SimpleNamespace()

    def start(_, args, named):
        now.boxes = named["query_position_embeddings"].sigmoid().detach()

    def refine(_, args, change):
        now.boxes = (change + torch.logit(now.boxes, eps=1e-3)).sigmoid().detach()

    model.input_projection.register_forward_hook(lambda _, args, features: setattr(now, "size", features.shape[-2:]))
    model.decoder.register_forward_pre_hook(start, with_kwargs=True)
    model.decoder.bbox_embed.register_forward_hook(refine)
    for layer in model.decoder.layers:
        layer.cross_attn = AlignedCrossAttention(detector.config, now)
    return detector


def main() -> None:
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [4]}
    config = DabDetrConfig(backbone_config=backbone, hidden_size=64, num_queries=20, num_labels=3, encoder_layers=1)
    detector = align(DabDetrForObjectDetection(config)).train()
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.6]])}]
    loss = detector(torch.randn(1, 3, 128, 160), labels=labels).loss
    loss.backward()
    torch.optim.AdamW(detector.parameters(), lr=1e-4).step()
    gradient = detector.model.decoder.layers[0].cross_attn.aligner.region_reduction.weight.grad
    print(f"loss {loss:.3f}, gradient of the first aligner {gradient.norm():.1e}")


if __name__ == "__main__":
    main()
