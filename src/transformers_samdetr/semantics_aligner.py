"""The Semantics Aligner: new queries re-sampled from the features they will be matched with (paper section 4.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import AxisBias, SamDetrMLP, gaussian_bias
from .backbone import FeatureLevel
from .box_ops import inverse_sigmoid
from .configuration_sam_detr import SamDetrConfig
from .position_encoding import embed_points
from .region_features import extract_region_features, suits_gpu_kernels

FEWER_PIXELS = 2
"""So many times fewer pixels than bins of regions make a map worth reducing before RoIAlign."""


@dataclass
class AlignedQueries:
    """What cross-attention matches with the features.

    Attributes:
        content: `(B, Q, M, C)`, one embedding for each head.
        positions: `(B, Q, M, C)`, the sine embeddings of the places they come from.
        salient_points: `(B, Q, P, 2)`, (x, y) normalised by the valid image; None with pooling.
        attention_bias: SMCA's Gaussian, or None.
    """

    content: Tensor
    positions: Tensor
    salient_points: Tensor | None
    attention_bias: AxisBias | None


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples, 0 outside the map.

    Args:
        maps: `(N, C, H, W)`.
        points: `(N, P, 2)`, (x, y) with -1 and 1 at the outer pixel edges.

    Returns:
        `(N, P, C)`.
    """
    grid = points[:, None].to(maps.dtype)  # (N, 1, P, 2)
    sampled = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def bilinear_weights(places: Tensor, length: int) -> Tensor:
    """How much each of `length` pixels counts at `(…)` places, -1 and 1 being the outer pixel edges: `(…, length)`.

    As products with regions these are `grid_sample` with zeros beyond the edges, its gradient on pixel centers, where
    salient points start, included; on a CPU its own backward runs channel by channel.
    """
    places = ((places + 1) * length - 1) / 2
    first = places.detach().floor()
    share = (places - first)[..., None]
    distance = torch.arange(length, device=places.device, dtype=places.dtype) - first[..., None]
    return torch.where(distance == 0, 1 - share, torch.where(distance == 1, share, 0.0))


class SemanticsAligner(nn.Module):
    """Region features of each reference box → salient points → aligned queries, reweighted by the previous queries."""

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.resampling = config.query_resampling
        self.mask_padding = config.mask_padding
        self.search_in_image = config.keypoint_search_range == "image"
        self.num_heads = config.decoder_attention_heads
        self.num_points = config.num_keypoints
        self.roi_size = config.roi_size
        self.smca = config.smca
        self.d_model = d_model = config.d_model
        if self.resampling == "keypoints":
            self.region_reduction = nn.Conv2d(d_model, d_model // 4, kernel_size=1)
            outputs = self.num_points * (4 if self.smca else 2)
            # a zero last weight, as box heads have, would keep SMCA's scales at 0 for ever: they enter squared
            self.keypoint_head = SamDetrMLP(
                [d_model // 4 * self.roi_size**2, d_model, 2 * d_model, 2 * d_model, outputs]
            )
        self.content_reweighting = self.position_reweighting = None
        if config.feature_reweighting:
            self.content_reweighting = nn.Linear(d_model, self.num_heads * d_model)
            self.position_reweighting = nn.Linear(d_model, self.num_heads * d_model)

    def forward(self, queries: Tensor, reference_boxes: Tensor, level: FeatureLevel) -> AlignedQueries:
        """
        Args:
            queries: `(B, Q, C)`, the previous queries, which reweight the new ones.
            reference_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
            level: the encoded feature level to match with.
        """
        feature_map = level.features.unflatten(1, level.size)  # (B, H, W, C)
        valid_size = level.valid_size
        if self.mask_padding:
            valid_size = valid_size.round()  # to the last bit what it is alone: the number of samples hangs on it
            if self.search_in_image:
                feature_map = torch.where(level.mask[..., None], feature_map, 0.0)  # points there find what is outside
        maps = [feature_map]
        if self._reduces_map(feature_map, queries.shape[1]):
            maps.append(self._reduce(feature_map))
        regions, *reduced = (
            regions.flatten(2, 3)  # (B, Q, roi², C or C/4)
            for regions in extract_region_features(
                maps, reference_boxes, valid_size, self.roi_size, ends_at_valid=self.mask_padding
            )
        )

        salient_points = attention_bias = None
        if self.resampling == "keypoints":
            reduced = reduced[0] if reduced else self._reduce(regions.to(queries.dtype))
            offsets, scales = self._predict_keypoints(reduced, queries)
            salient_points = self._place(offsets, reference_boxes)
            if self.search_in_image:
                content = self._sample_image(feature_map.to(regions.dtype), salient_points, level.valid_ratio)
            else:
                content = self._sample_regions(regions, offsets)
            places = salient_points
            if self.smca:
                centers, scales = self._for_heads(salient_points * valid_size[:, None, None]), self._for_heads(scales)
                attention_bias = gaussian_bias(centers, scales, *level.size)
        else:
            content = regions.mean(2, keepdim=True) if self.resampling == "average" else regions.amax(2, keepdim=True)
            places = reference_boxes[..., None, :2]

        content = self._for_heads(content).to(queries.dtype)
        positions = self._for_heads(embed_points(places, self.d_model)).to(queries.dtype)
        if self.content_reweighting is not None:
            content = content * self._weights(self.content_reweighting, queries)  # equation 7
            positions = positions * self._weights(self.position_reweighting, queries)  # equation 8
        return AlignedQueries(content, positions, salient_points, attention_bias)

    def _reduces_map(self, feature_map: Tensor, num_queries: int) -> bool:
        """Whether `region_reduction` comes before RoIAlign, with which it can change places, both being linear.

        On a CPU that is faster where a map has far fewer pixels than its regions together. Elsewhere RoIAlign of C/4
        more channels costs more than the product.
        """
        if self.resampling != "keypoints" or feature_map.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        height, width = feature_map.shape[1:3]
        return FEWER_PIXELS * height * width <= num_queries * self.roi_size**2

    def _reduce(self, x: Tensor) -> Tensor:
        """The 1x1 convolution of `(…, C)` maps or regions without its bias, `(…, C/4)`."""
        return nn.functional.linear(x, self.region_reduction.weight.flatten(1))

    def _predict_keypoints(self, reduced: Tensor, queries: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets of the salient points and, with SMCA, two scales of each, `(B, Q, P, 2)` float32 each (equation 4).

        Offsets are -1 and 1 at the edges of the box or, where points are searched in the image, of any size.

        Args:
            reduced: `(B, Q, roi², C/4)`, the regions after `region_reduction`, but for its bias.
            queries: give the precision.
        """
        reduced = reduced.transpose(2, 3).contiguous()  # once, and not in each pass of what follows
        reduced = (reduced + self.region_reduction.bias[:, None]).relu().to(queries.dtype)
        outputs = self.keypoint_head(reduced.flatten(2))  # (B, Q, C/4·roi²), channel-major
        outputs = outputs.unflatten(-1, (-1, self.num_points, 2))
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        offsets = outputs[:, :, 0] if self.search_in_image else outputs[:, :, 0].tanh()
        return offsets, outputs[:, :, 1] if self.smca else None

    def _place(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        """Salient points in the valid image, within their boxes or, searched in the image, anywhere."""
        center, size = boxes[:, :, None].split(2, dim=-1)
        if self.search_in_image:
            return (inverse_sigmoid(center) + offsets).sigmoid()
        return center + size / 2 * offsets

    def _sample_image(self, feature_map: Tensor, salient_points: Tensor, valid_ratio: Tensor) -> Tensor:
        """Features of salient points anywhere in the image, `(B, Q, P, C)`: a region covers its box alone."""
        grid = 2 * salient_points * valid_ratio[:, None, None] - 1
        return sample_points(feature_map.permute(0, 3, 1, 2), grid.flatten(1, 2)).unflatten(1, grid.shape[1:3])

    def _sample_regions(self, regions: Tensor, offsets: Tensor) -> Tensor:
        """Features of salient points, `(B, Q, P, C)`, from their boxes' `(B, Q, roi², C)` regions (equation 5)."""
        if suits_gpu_kernels(regions):  # one kernel instead of twenty
            maps = regions.unflatten(2, (self.roi_size, -1)).permute(0, 1, 4, 2, 3)
            return sample_points(maps.flatten(0, 1), offsets.flatten(0, 1)).unflatten(0, regions.shape[:2])
        x, y = bilinear_weights(offsets, self.roi_size).unbind(-2)  # (B, Q, P, roi) each
        weights = (y[..., :, None] * x[..., None, :]).flatten(-2)  # (B, Q, P, roi²)
        return weights.to(regions.dtype) @ regions

    def _for_heads(self, x: Tensor) -> Tensor:
        """`(B, Q, P, …)` to `(B, Q, M, …)`: head m takes point ⌊m P / M⌋."""
        return x if x.shape[2] == self.num_heads else x.repeat_interleave(self.num_heads // x.shape[2], dim=2)

    def _weights(self, projection: nn.Linear, queries: Tensor) -> Tensor:
        return projection(queries).sigmoid().unflatten(-1, (self.num_heads, self.d_model))
