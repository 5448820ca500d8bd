"""Location filter that traces with dynamic image sizes."""

from typing import NamedTuple

import torch
from torch import Tensor

from ga_detectron2.modeling.anchors import make_guided_anchors
from ga_detectron2.modeling.feature_adaption import FeatureRows
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring


class Level(NamedTuple):
    """One level of one image.

    Attributes:
        kept: (H * W,) bool, cells that pass the location filter.
        shape_deltas: (H * W, 2), the shape outputs.
        height, width: size of the map in cells; scalar tensors in a trace.
        stride: pixels from a cell to the next.
    """

    kept: Tensor
    shape_deltas: Tensor
    height: int
    width: int
    stride: int

    def guided_anchors(self, guided_anchoring: GuidedAnchoring, cells: Tensor) -> Tensor:
        """(K, 4) guided anchors, in pixels, of cells (K,)."""
        # A cached grid of all cells would be a constant of the trace.
        position = torch.stack([cells % self.width, cells // self.width], dim=1)
        centers = position.to(torch.float32) * self.stride
        return make_guided_anchors(
            centers,
            torch.full_like(centers[:, 0], self.stride),
            self.shape_deltas[cells],
            guided_anchoring.base_scale,
            guided_anchoring.shape_weights,
        )


def levels_by_image(
    guided_anchoring: GuidedAnchoring,
    features: list[FeatureRows],
    loc_logits: Tensor,
    shape_deltas: Tensor,
) -> list[list[Level]]:
    """Split the outputs of the two branches by image and level.

    Args:
        guided_anchoring: settings of the model.
        features: L levels of N images.
        loc_logits: (N, R).
        shape_deltas: (N, R, 2).

    Returns:
        N lists of L levels. N is fixed in a trace, the number of cells is not.
    """
    counts = [x.height * x.width for x in features]
    kept = guided_anchoring.kept_cells(loc_logits).split(counts, dim=1)
    deltas = shape_deltas.split(counts, dim=1)
    return [
        [
            Level(k[n], d[n], x.height, x.width, stride)
            for k, d, x, stride in zip(
                kept, deltas, features, guided_anchoring.strides, strict=True
            )
        ]
        for n in range(features[0].rows.shape[0])
    ]


def of_image(features: FeatureRows, n: int) -> FeatureRows:
    """Features of the ``n``-th image of a batch."""
    return features._replace(rows=features.rows[n : n + 1])
