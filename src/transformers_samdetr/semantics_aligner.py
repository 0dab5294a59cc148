"""The Semantics Aligner: new queries re-sampled from the features they will be matched with (paper section 4.2).

Plain tensors in and out, for any decoder with reference boxes (docs/aligner.md). The paper's ablations stand below it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import AxisBias, SamDetrMLP, gaussian_bias
from .configuration_sam_detr import SamDetrConfig
from .geometry import box_to_pixel_corners, embed_points, inverse_sigmoid
from .operations import align_and_reduce, at_least_float32, region_align, sample_points, sample_regions


class AlignedQueries(NamedTuple):
    """What cross-attention matches with the features.

    Attributes:
        content, positions: `(B, Q, M, C)`, an embedding for each head, and the sine embedding of the place it is from.
        salient_points: `(B, Q, P, 2)`, (x, y) normalised by the valid image; None with pooling.
        attention_bias: SMCA's Gaussian, to be added to the attention logits; or None.
    """

    content: Tensor
    positions: Tensor
    salient_points: Tensor | None = None
    attention_bias: AxisBias | None = None


class AlignerBase(nn.Module):
    """What all aligners share: boxes in pixels, one embedding a head, and reweighting by the previous queries.

    Args:
        d_model: C, channels of queries, of features, and of the embedding that each head gets.
        num_heads: M, heads of the cross-attention.
        feature_reweighting: False leaves new queries as they are (paper Table 3).
        ends_at_valid: each image's features end where its valid part ends, as if there were no padding.
    """

    def __init__(self, d_model: int, num_heads: int, feature_reweighting: bool = True, ends_at_valid: bool = False):
        super().__init__()
        self.d_model, self.num_heads, self.ends_at_valid = d_model, num_heads, ends_at_valid
        self.content_reweighting = self.position_reweighting = None
        if feature_reweighting:
            self.content_reweighting = nn.Linear(d_model, num_heads * d_model)
            self.position_reweighting = nn.Linear(d_model, num_heads * d_model)

    def reweight(self, content: Tensor, positions: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, Q, P, C)` content and positions to `(B, Q, M, C)` each, by `(B, Q, C)` previous queries."""
        content, positions = (self.for_heads(x).to(queries.dtype) for x in (content, positions))
        if self.content_reweighting is None:
            return content, positions
        content = self.content_reweighting(queries).sigmoid().view(content.shape) * content  # equation 7
        positions = self.position_reweighting(queries).sigmoid().view(content.shape) * positions  # equation 8
        return content, positions

    def for_heads(self, x: Tensor) -> Tensor:
        """`(B, Q, P, …)` to `(B, Q, M, …)`: head m takes point ⌊m P / M⌋."""
        return x if x.shape[2] == self.num_heads else x.repeat_interleave(self.num_heads // x.shape[2], dim=2)

    def to_pixels(
        self, feature_map: Tensor, boxes: Tensor, valid_size: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What RoIAlign takes: the map in float32 at least, boxes in its pixels, where it is valid, where it ends.

        Corner boxes `(B, Q, 4)` carry no gradient. The map ends at its `(B, 2)` valid size with `ends_at_valid`.
        """
        if valid_size is None:
            height, width = (boxes.new_full((len(boxes), 1), length) for length in feature_map.shape[1:3])
            valid_size = torch.cat([width, height], dim=1)
        # rounded, so that float error in a batch cannot change the number of samples of RoIAlign
        valid_size = valid_size.round() if self.ends_at_valid else valid_size
        feature_map = at_least_float32(feature_map)
        corners = box_to_pixel_corners(boxes.detach().to(valid_size.dtype), valid_size).to(feature_map.dtype)
        crop_size = valid_size.to(corners.dtype) if self.ends_at_valid else None
        return feature_map, corners, valid_size, crop_size


class RegionReduction(nn.Conv2d):
    """Region features (equation 2), and these again after a 1x1 convolution to a quarter of the channels and a ReLU."""

    def __init__(self, d_model: int):
        super().__init__(d_model, d_model // 4, kernel_size=1)

    def forward(self, feature_map: Tensor, corners: Tensor, size: int, crop: Tensor | None) -> tuple[Tensor, Tensor]:
        """Arguments as in [`operations.region_align`]; `(B, Q, size, size, C)` and `(B, Q, C/4·size²)`."""
        regions, reduced = align_and_reduce(self, feature_map, corners, size, crop)
        return regions, reduced.flatten(1).relu().unflatten(0, corners.shape[:2])


class SemanticsAligner(AlignerBase):
    """Region features of each reference box → salient points → queries sampled there, reweighted by the previous ones.

    Args:
        num_points: P, salient points of each query; each serves M / P heads.
        roi_size: height and width of the region features.
        smca: also predicts a Gaussian around each point, a prior for the cross-attention (paper section 4.5.1).
        others: see [`AlignerBase`].
    """

    def __init__(
        self,
        d_model: int = 256,
        num_heads: int = 8,
        num_points: int = 8,
        roi_size: int = 7,
        smca: bool = False,
        **others,
    ):
        super().__init__(d_model, num_heads, **others)
        self.num_points, self.roi_size, self.smca = num_points, roi_size, smca
        self.region_reduction = RegionReduction(d_model)
        outputs = num_points * (4 if smca else 2)
        # a zero last weight, as box heads have, would keep SMCA's scales at 0 for ever: they enter squared
        self.keypoint_head = SamDetrMLP([d_model // 4 * roi_size**2, d_model, 2 * d_model, 2 * d_model, outputs])

    def forward(
        self, queries: Tensor, reference_boxes: Tensor, feature_map: Tensor, valid_size: Tensor | None = None
    ) -> AlignedQueries:
        """
        Args:
            queries: `(B, Q, C)`, the previous queries, which reweight the new ones.
            reference_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
            feature_map: `(B, H, W, C)`, the encoded features that the new queries are to be matched with.
            valid_size: `(B, 2)`, width and height of what is not padding, in pixels of the map; by default all of it.
        """
        feature_map, corners, valid_size, crop_size = self.to_pixels(feature_map, reference_boxes, valid_size)
        regions, reduced = self.region_reduction(feature_map, corners, self.roi_size, crop_size)  # equation 2
        offsets, scales = self.search(reduced.to(queries.dtype))  # equation 4
        points = self.place(offsets, reference_boxes)
        content = self.sample(regions, offsets, feature_map, points, valid_size)  # equations 3 and 5
        positions = embed_points(points, self.d_model)  # equation 6
        content, positions = self.reweight(content, positions, queries)  # equations 7 and 8
        bias = None
        if self.smca:
            centers = self.for_heads(points * valid_size[:, None, None])
            bias = gaussian_bias(centers, self.for_heads(scales), *feature_map.shape[1:3])
        return AlignedQueries(content, positions, points, bias)

    def search(self, reduced: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets of salient points and, with SMCA, their scales, `(B, Q, P, 2)` float32 each (equation 4)."""
        outputs = at_least_float32(self.keypoint_head(reduced)).view(*reduced.shape[:2], -1, self.num_points, 2)
        return self.bound(outputs[:, :, 0]), outputs[:, :, 1] if self.smca else None

    def bound(self, offsets: Tensor) -> Tensor:
        """Offsets within [-1, 1], the edges of the box."""
        return offsets.tanh()

    def place(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        """Salient points `(B, Q, P, 2)` in the valid image, within their boxes."""
        center, size = boxes[:, :, None].split(2, dim=-1)
        return torch.addcmul(center, size, offsets, value=0.5)

    def sample(
        self, regions: Tensor, offsets: Tensor, feature_map: Tensor, points: Tensor, valid_size: Tensor
    ) -> Tensor:
        """Features at the salient points, `(B, Q, P, C)`, of regions as `sample_regions` takes them (eq. 3, 5)."""
        return sample_regions(regions, offsets)


class ImageSearchAligner(SemanticsAligner):
    """Salient points anywhere in the image instead of within their boxes (paper Table 4)."""

    def bound(self, offsets: Tensor) -> Tensor:
        """Offsets of any size."""
        return offsets

    def place(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        """Salient points, moved from the centers of their boxes in logit space."""
        return (inverse_sigmoid(boxes[:, :, None, :2]) + offsets).sigmoid()

    def sample(
        self, regions: Tensor, offsets: Tensor, feature_map: Tensor, points: Tensor, valid_size: Tensor
    ) -> Tensor:
        """Those of the map, since a region covers its box alone."""
        height, width = feature_map.shape[1:3]
        if self.ends_at_valid:
            is_valid = torch.arange(height, device=points.device)[:, None] < valid_size[:, None, None, 1]
            is_valid = is_valid & (torch.arange(width, device=points.device) < valid_size[:, None, None, 0])
            feature_map = torch.where(is_valid[..., None], feature_map, 0.0)
        ratio = torch.stack([valid_size[:, 0] / width, valid_size[:, 1] / height], dim=-1)[:, None, None]
        grid = 2 * points * ratio - 1
        return sample_points(feature_map.permute(0, 3, 1, 2), grid.flatten(1, 2)).unflatten(1, points.shape[1:3])


class PooledAligner(AlignerBase):
    """One vector of each region, its `pooling` "average" or "max", serves all heads, at the box center (Table 3)."""

    def __init__(self, d_model: int, num_heads: int, pooling: str, roi_size: int = 7, **others):
        super().__init__(d_model, num_heads, **others)
        self.pooling, self.roi_size = pooling, roi_size

    def forward(
        self, queries: Tensor, reference_boxes: Tensor, feature_map: Tensor, valid_size: Tensor | None = None
    ) -> AlignedQueries:
        """See [`SemanticsAligner.forward`]."""
        feature_map, corners, _, crop_size = self.to_pixels(feature_map, reference_boxes, valid_size)
        regions = region_align(feature_map, corners, self.roi_size, crop_size).flatten(2, 3)
        content = regions.mean(2, keepdim=True) if self.pooling == "average" else regions.amax(2, keepdim=True)
        positions = embed_points(reference_boxes[..., None, :2], self.d_model)
        return AlignedQueries(*self.reweight(content, positions, queries))


def make_aligner(config: SamDetrConfig) -> SemanticsAligner | PooledAligner:
    """The aligner that the configuration names."""
    fields = {
        "d_model": config.d_model,
        "num_heads": config.decoder_attention_heads,
        "roi_size": config.roi_size,
        "feature_reweighting": config.feature_reweighting,
        "ends_at_valid": config.mask_padding,
    }
    if config.query_resampling != "keypoints":
        return PooledAligner(pooling=config.query_resampling, **fields)
    aligner = ImageSearchAligner if config.keypoint_search_range == "image" else SemanticsAligner
    return aligner(num_points=config.num_keypoints, smca=config.smca, **fields)
