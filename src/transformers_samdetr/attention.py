"""Dense attention and small layers. Masks `(B or 1, 1 or M, 1 or Q, S)` are added to logits: 0 for keys to attend."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_sam_detr import SamDetrConfig
from .operations import pixel_centers, shared_key_attention


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `allowed`, the lowest finite number elsewhere: without any key a query attends evenly, not to NaN."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


@dataclass
class AxisBias:
    """A bias of attention logits, the sum of an x and a y part, so that it need not be kept for every pixel."""

    along_x: Tensor  # (B, M, Q, W)
    along_y: Tensor  # (B, M, Q, H)

    def dense(self) -> Tensor:
        """`(B, M, Q, H·W)`, row by row."""
        return (self.along_y[..., :, None] + self.along_x[..., None, :]).flatten(-2)

    def chunk(self, count: int) -> list["AxisBias"]:
        """Up to `count` parts of the queries."""
        parts = zip(self.along_x.chunk(count, dim=2), self.along_y.chunk(count, dim=2), strict=True)
        return [AxisBias(*part) for part in parts]


def gaussian_bias(centers: Tensor, scales: Tensor, height: int, width: int) -> AxisBias:
    """SMCA's spatial prior (paper section 4.5.1): a Gaussian around each head's salient point, as logits.

    Centers (x, y) in pixels of the map and learned inverse widths s are `(B, Q, M, 2)`. At pixel (i, j) it is
    -(s_x² (x - j - ½)² + s_y² (y - i - ½)²) / 8.
    """
    x, y = centers.transpose(1, 2).split(1, dim=-1)  # (B, M, Q, 1) each
    x_scales, y_scales = scales.transpose(1, 2).split(1, dim=-1)
    along_x = (x_scales * (x - pixel_centers(width, centers))).square()  # (B, M, Q, W)
    along_y = (y_scales * (y - pixel_centers(height, centers))).square()  # (B, M, Q, H)
    return AxisBias(along_x / -8, along_y / -8)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of `(B, M, Q, D)` and twice `(B, M, S, D)`: `(B, Q, M, D)`, and the weights `(B, M, Q, S)`."""
    logits = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    weights = nn.functional.dropout(logits.softmax(-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> tuple[Tensor, Tensor | None]:
    """Runs the attention that `module.config` names; `(B·Q, C)`, and the weights where it keeps them."""
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention)
    if attention_mask is not None:
        attention_mask = attention_mask.to(query.dtype)
    dropout = module.attention_dropout if module.training else 0.0
    output, weights = interface(
        module, query, key, value, attention_mask, scaling=module.scaling, dropout=dropout, **kwargs
    )
    return output.reshape(-1, query.shape[1] * query.shape[3]), weights


def split_heads(rows: Tensor, batch_size: int, num_heads: int) -> Tensor:
    """`(B·S, M·D)` to `(B, M, S, D)`."""
    return rows.view(batch_size, -1, num_heads, rows.shape[1] // num_heads).transpose(1, 2)


class ZeroLinear(nn.Linear):
    """A linear layer whose weight and bias start at 0, and with them its output."""

    def initialize(self):
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class PackedLinear(nn.Linear):
    """Query, key or value, initialised as parts of the authors' one `(3C, C)` matrix."""

    GAIN = 0.5**0.5  # the Xavier bound of a (3C, C) matrix, √(6 / 4C), over that of a (C, C) matrix, √(6 / 2C)

    def initialize(self):
        init.xavier_uniform_(self.weight, gain=self.GAIN)
        init.zeros_(self.bias)


class SamDetrAttention(nn.Module):
    """DETR's multi-head attention, in the encoder, and in the decoder where there is no aligner."""

    is_causal = False

    def __init__(self, config: SamDetrConfig, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (config.d_model // num_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        width = config.d_model
        self.q_proj, self.k_proj, self.v_proj = (PackedLinear(width, width) for _ in range(3))
        self.o_proj = nn.Linear(width, width)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """`(B, Q, C)` queries and `(B, S, C)` keys, both with their positions added, and `(B, S, C)` values."""
        projections = ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        query, key, value = (
            split_heads(linear(x.flatten(0, 1)), x.shape[0], self.num_heads) for linear, x in projections
        )
        output, weights = attend(self, query, key, value, attention_mask, **kwargs)
        return self.o_proj(output).view(queries.shape), weights


class SamDetrQuerySelfAttention(nn.Module):
    """Self-attention among queries: content and position are projected apart, then added."""

    is_causal = False

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.decoder_attention_heads
        self.scaling = (config.d_model // self.num_heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.q_content_proj = nn.Linear(config.d_model, config.d_model)
        self.q_position_proj = nn.Linear(config.d_model, config.d_model)
        self.k_content_proj = nn.Linear(config.d_model, config.d_model)
        self.k_position_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self, queries: Tensor, query_positions: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """`(B, Q, C)` queries and the sine embeddings `(B, Q, C)` of their box centers."""
        content, positions = queries.flatten(0, 1), query_positions.flatten(0, 1)
        query = self.q_content_proj(content) + self.q_position_proj(positions)
        key = self.k_content_proj(content) + self.k_position_proj(positions)
        parts = (split_heads(rows, queries.shape[0], self.num_heads) for rows in (query, key, self.v_proj(content)))
        output, weights = attend(self, *parts, attention_mask, **kwargs)
        return self.o_proj(output).view(queries.shape), weights


class SamDetrSharedKeyAttention(nn.Module):
    """Cross-attention of aligned queries: M queries of C channels each, the same keys for all heads (equation 1)."""

    is_causal = False

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.decoder_attention_heads
        self.scaling = config.d_model**-0.5
        self.attention_dropout = config.attention_dropout
        self.q_content_proj = nn.Linear(config.d_model, config.d_model)
        self.q_position_proj = SamDetrMLP([config.d_model] * 3)
        self.k_content_proj = nn.Linear(config.d_model, config.d_model)
        self.k_position_proj = SamDetrMLP([config.d_model] * 3)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        aligned_queries: Tensor,
        aligned_positions: Tensor,
        features: Tensor,
        feature_positions: Tensor,
        attention_mask: Tensor,
        attention_bias: AxisBias | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Aligned `(B, Q, M, C)` content and positions, `(B, S, C)` features and positions, additive mask and bias.

        Returns:
            `(B, Q, C)`, and the weights `(B, M, Q, S)` where the attention implementation keeps them.
        """
        content, positions = aligned_queries.flatten(0, 2), aligned_positions.flatten(0, 2)
        query = (self.q_content_proj(content) + self.q_position_proj(positions)).view(aligned_queries.shape)
        content, positions = features.flatten(0, 1), feature_positions.flatten(0, 1)
        key = (self.k_content_proj(content) + self.k_position_proj(positions)).view(features.shape)  # (B, S, C)
        value = split_heads(self.v_proj(content), features.shape[0], self.num_heads)
        query = query.transpose(1, 2)  # (B, M, Q, C)
        output, weights = shared_key_attention(self, query, key, value, attention_mask, attention_bias)
        return self.o_proj(output), weights


class SamDetrMLP(nn.Module):
    """Linear layers with ReLU between them: `(..., widths[0])` to `(..., widths[-1])`."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        for layer in self.layers[:-1]:
            rows = layer(rows).relu()
        return self.layers[-1](rows).unflatten(0, x.shape[:-1])


class SamDetrFeedForward(nn.Module):
    """The feed-forward block of a transformer layer, with DETR's two dropouts."""

    def __init__(self, config: SamDetrConfig, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        self.activation = ACT2FN[config.activation_function]
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.activation_dropout(self.activation(self.fc1(x.flatten(0, -2))))
        return self.dropout(self.fc2(rows)).view(x.shape)
