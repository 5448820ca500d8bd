"""Guided anchors with their targets and losses, shared by GA-RPN and GA-RetinaNet."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ga_detectron2.config import guided_anchor_node

from .anchors import (
    CellGrid,
    approximate_anchor_offsets,
    cells_inside_images,
    make_cell_grid,
    make_guided_anchors,
    nearest_cells,
)
from .losses import LOCATION_NORMALIZER, bounded_iou_loss, location_loss, mean_over_workers
from .matching import Matches, MatchRule, match_approximate_anchors
from .targets import GroundTruth, LocationTargets, box_levels, location_targets, sample_cells

logger = logging.getLogger(__name__)


TRACEABLE: dict[type, type] = {}
"""Wrappers for inference within ``torch.jit.trace``, by the wrapped class; set by ``export``."""

WRITER_PERIOD = 20
"""Iterations after which detectron2's trainer writes scalars."""


class GuidedAnchors(NamedTuple):
    """Outputs of the location and shape branches for a batch. Naming as in ``anchors.py``.

    Attributes:
        grid: the cells; ``grid.split_levels`` splits the following tensors into maps.
        loc_logits: (N, R), log odds that an object's centre lies near the cell.
        shape_deltas: (N, R, 2), the shape outputs (dw, dh).
        anchors: (N, R, 4) float32 guided anchors in pixels, without gradient.
    """

    grid: CellGrid
    loc_logits: Tensor
    shape_deltas: Tensor
    anchors: Tensor

    def loc_probability_maps(self) -> list[Tensor]:
        """L location probability maps (N, Hi, Wi)."""
        return self.grid.split_levels(self.loc_logits.sigmoid())


class GuidedAnchoring(nn.Module):
    """Guided anchors from the outputs of the two branches, and the branches' losses.

    It holds the settings and has no weights. :func:`record_guided_anchors` records its outputs.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int],
        base_scale: float,
        scales_per_octave: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        center_ratio: float = 0.2,
        ignore_ratio: float = 0.5,
        shape_weights: Sequence[float] = (1.0, 1.0),
        shape_rule: MatchRule,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        loc_filter_thresh: float = 0.01,
        loc_loss_weight: float = 1.0,
        shape_loss_weight: float = 1.0,
        shape_loss_beta: float = 0.2,
    ):
        """
        Args:
            strides: distance of neighbouring cells in pixels, by level.
            base_scale: side of the squares in strides.
            scales_per_octave, aspect_ratios: shapes of the approximate anchors.
            center_ratio, ignore_ratio: shares of a box's width and height that its regions take.
            shape_weights: divisors of the shape outputs (dw, dh) before exp.
            shape_rule: positive and negative cells of the shape branch.
            batch_size_per_image, positive_fraction: cells sampled per image for the shape loss, and
                the largest share of positives.
            loc_filter_thresh: least location probability of cells that inference keeps.
            loc_loss_weight, shape_loss_weight: factors of the two losses.
            shape_loss_beta: transition point of the shape loss from quadratic to linear.
        """
        super().__init__()
        for key, value, valid, wanted in (
            ("OCTAVE_BASE_SCALE", base_scale, 0 < base_scale < math.inf, "above 0"),
            ("SCALES_PER_OCTAVE", scales_per_octave, scales_per_octave >= 1, "at least 1"),
            ("ASPECT_RATIOS", aspect_ratios, _all_positive(aspect_ratios), "above 0"),
            ("CENTER_RATIO", center_ratio, center_ratio >= 0, "at least 0"),
            (
                "IGNORE_RATIO",
                ignore_ratio,
                center_ratio <= ignore_ratio <= 1,
                f"between CENTER_RATIO {center_ratio} and 1",
            ),
            (
                "SHAPE_REG_WEIGHTS",
                shape_weights,
                len(shape_weights) == 2 and _all_positive(shape_weights),
                "two numbers above 0, for dw and dh",
            ),
            ("BATCH_SIZE_PER_IMAGE", batch_size_per_image, batch_size_per_image >= 1, "at least 1"),
            ("POSITIVE_FRACTION", positive_fraction, 0 <= positive_fraction <= 1, "from 0 to 1"),
            ("LOC_FILTER_THRESH", loc_filter_thresh, 0 <= loc_filter_thresh <= 1, "from 0 to 1"),
        ):
            if not valid:
                raise ValueError(f"MODEL.GUIDED_ANCHOR.{key} {value} must be {wanted}")
        doubled = [strides[0] * 2**i for i in range(len(strides))]
        if list(strides) != doubled:
            raise ValueError(
                f"IN_FEATURES are levels of strides {list(strides)}, but each level must have "
                f"twice the stride of the one before: {doubled}"
            )
        if len(strides) < 3:
            # A box of the same shape as an approximate anchor reaches the IoU at these shares.
            sides = [base_scale * s for s in (strides[0], strides[-1] * 2)]
            root = max(shape_rule.min_positive_iou, 1e-3) ** 0.5
            logger.warning(
                "Guided anchoring on the strides %s: objects smaller than about %d or larger than "
                "about %d pixels get no shape target. Use more levels (a feature pyramid), or "
                "adapt MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE, now %g.",
                list(strides),
                sides[0] * root,
                sides[1] * 2 ** (-1 / scales_per_octave) / root,
                base_scale,
            )
        self.strides = tuple(strides)
        self.base_scale = base_scale
        self.scales_per_octave = scales_per_octave
        self.aspect_ratios = tuple(aspect_ratios)
        self.center_ratio = center_ratio
        self.ignore_ratio = ignore_ratio
        self.shape_weights = tuple(shape_weights)
        self.shape_rule = shape_rule
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.loc_filter_thresh = loc_filter_thresh
        self.loc_loss_weight = loc_loss_weight
        self.shape_loss_weight = shape_loss_weight
        self.shape_loss_beta = shape_loss_beta

    @classmethod
    def from_config(cls, cfg: CfgNode, strides: Sequence[int]) -> "GuidedAnchoring":
        """Create from ``cfg.MODEL.GUIDED_ANCHOR``, for levels of the given strides."""
        ga = guided_anchor_node(cfg)
        return cls(
            strides=strides,
            base_scale=ga.OCTAVE_BASE_SCALE,
            scales_per_octave=ga.SCALES_PER_OCTAVE,
            aspect_ratios=ga.ASPECT_RATIOS,
            center_ratio=ga.CENTER_RATIO,
            ignore_ratio=ga.IGNORE_RATIO,
            shape_weights=ga.SHAPE_REG_WEIGHTS,
            shape_rule=MatchRule.from_config(cfg, "GUIDED_ANCHOR", ga.MIN_POSITIVE_IOU),
            batch_size_per_image=ga.BATCH_SIZE_PER_IMAGE,
            positive_fraction=ga.POSITIVE_FRACTION,
            loc_filter_thresh=ga.LOC_FILTER_THRESH,
            loc_loss_weight=ga.LOC_LOSS_WEIGHT,
            shape_loss_weight=ga.SHAPE_LOSS_WEIGHT,
            shape_loss_beta=ga.SHAPE_LOSS_BETA,
        )

    def forward(
        self,
        sizes: Sequence[tuple[int, int]],
        loc_logits: Tensor,
        shape_deltas: Tensor,
        image_size: Sequence[int] | None = None,
    ) -> GuidedAnchors:
        """
        Args:
            sizes: (Hi, Wi) of each level.
            loc_logits: (N, R).
            shape_deltas: (N, R, 2).
            image_size: (height, width) of the padded batch in pixels.

        Raises:
            ValueError: the sizes of images and maps contradict the strides.
        """
        for i, (size, stride) in enumerate(zip(sizes, self.strides, strict=True)):
            # Backbones round up or down where the stride does not divide a side.
            if image_size is not None and any(
                abs(cells - pixels / stride) > 1
                for cells, pixels in zip(size, image_size, strict=True)
            ):
                raise ValueError(
                    f"level {i} has maps of {size[0]}x{size[1]} cells for images of "
                    f"{image_size[0]}x{image_size[1]} pixels, which is not a stride of {stride}: "
                    f"set the strides {list(self.strides)} to those of in_features"
                )
        grid = self.cell_grid(sizes, loc_logits.device)
        anchors = make_guided_anchors(
            grid.centers, grid.stride, shape_deltas.detach(), self.base_scale, self.shape_weights
        )
        return GuidedAnchors(grid, loc_logits, shape_deltas, anchors)

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            "a model with guided anchors cannot be scripted: trace it, with torch.jit.trace, "
            "ga_detectron2.export or tools/export_model.py"
        )

    # ------------------------------------------------------------------------------------ geometry

    def cell_grid(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> CellGrid:
        """Cells of levels of the given sizes (Hi, Wi)."""
        return make_cell_grid(tuple(sizes), self.strides, device)

    def box_levels(self, boxes: Tensor) -> Tensor:
        """Levels to which boxes belong by their size: (..., 4) to (...) int64."""
        return box_levels(boxes, len(self.strides), self.strides[0], self.base_scale)

    def nearest_cells(
        self, grid: CellGrid, boxes: Tensor, image_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cell nearest to the centre of each box, on the level of the box.

        Args:
            grid: the cells.
            boxes: (..., 4) in pixels.
            image_size: (height, width) in pixels; only cells within the image are considered.

        Returns:
            (...) int64 into R.
        """
        height, width, first, stride = grid.levels[self.box_levels(boxes)].unbind(dim=-1)
        limits = torch.stack([width, height], dim=-1) * stride[..., None]
        if image_size is not None:
            limits = torch.minimum(limits, limits.new_tensor(image_size[::-1]))
        column, row = nearest_cells(boxes, stride, limits).unbind(dim=-1)
        return first + row * width + column

    def approximate_anchors(self, grid: CellGrid, cells: Tensor) -> Tensor:
        """Approximate anchors of cells (...) int64 into R as (..., A, 4)."""
        offsets = approximate_anchor_offsets(
            grid.strides,
            self.base_scale,
            self.scales_per_octave,
            self.aspect_ratios,
            grid.centers.device,
        )
        centers = grid.centers[cells][..., None, :]
        return offsets[grid.level_of(cells)] + torch.cat([centers, centers], dim=-1)

    # ------------------------------------------------------------------------------------- targets

    def location_targets(self, grid: CellGrid, ground_truth: GroundTruth) -> LocationTargets:
        """Targets and weights of the location branch; see :func:`.targets.location_targets`."""
        return location_targets(
            grid, ground_truth, self.base_scale, self.center_ratio, self.ignore_ratio
        )

    def match_cells(self, grid: CellGrid, inside: Tensor, ground_truth: GroundTruth) -> Matches:
        """Match cells with the boxes whose shape they learn.

        Args:
            grid: the cells.
            inside: (N, R) bool, see :meth:`cells_inside`.
            ground_truth: boxes of the N images.
        """
        return match_approximate_anchors(
            grid,
            inside,
            ground_truth,
            self.shape_rule,
            self.base_scale,
            self.scales_per_octave,
            self.aspect_ratios,
        )

    # -------------------------------------------------------------------------------------- batches

    def kept_cells(self, loc_logits: Tensor) -> Tensor:
        """(N, R) bool: cells that pass the location filter ("Guided Anchoring", 3.2)."""
        return loc_logits.sigmoid() >= self.loc_filter_thresh

    def cells_inside(self, guided: GuidedAnchors, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(N, R) bool: cells within their image, in a batch padded to the largest one."""
        return cells_inside_images(guided.grid, image_sizes)

    def losses(
        self, guided: GuidedAnchors, inside: Tensor, ground_truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Losses of the two branches: ``loss_anchor_loc`` and ``loss_anchor_shape``.

        Args:
            guided: the branches' outputs.
            inside: (N, R) bool, see :meth:`cells_inside`.
            ground_truth: boxes of the N images.
        """
        with torch.no_grad():
            loc_targets, loc_weights = self.location_targets(guided.grid, ground_truth)
            matches = self.match_cells(guided.grid, inside, ground_truth)
            sample = sample_cells(matches.labels, self.batch_size_per_image, self.positive_fraction)
            target_boxes = ground_truth.take(sample.take(matches.boxes))
            num_cells = torch.full_like(sample.normalizer(), loc_targets.numel())
            normalizer = mean_over_workers(torch.stack([num_cells, sample.normalizer()]))

        loss_loc = location_loss(guided.loc_logits, loc_targets, loc_weights)
        anchors = self.anchors_at(guided, sample.cells)
        loss_shape = bounded_iou_loss(anchors, target_boxes, self.shape_loss_beta).sum(dim=-1)
        loss_shape = torch.where(sample.positive, loss_shape, 0.0).sum()
        return {
            "loss_anchor_loc": self.loc_loss_weight
            * (loss_loc / (normalizer[0] / LOCATION_NORMALIZER)),
            "loss_anchor_shape": self.shape_loss_weight * (loss_shape / normalizer[1]),
        }

    def anchors_at(self, guided: GuidedAnchors, cells: Tensor) -> Tensor:
        """Guided anchors of cells (N, B) as (N, B, 4), with gradient to the shape outputs."""
        deltas = guided.shape_deltas.gather(1, cells[..., None].expand(-1, -1, 2))
        return make_guided_anchors(
            guided.grid.centers[cells],
            guided.grid.stride[cells],
            deltas,
            self.base_scale,
            self.shape_weights,
        )


def _all_positive(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(0 < x < math.inf for x in values)


def input_levels(
    key: str, names: Sequence[str], input_shape: dict[str, ShapeSpec]
) -> list[ShapeSpec]:
    """Shapes of the levels on which one head is to work.

    Args:
        key: config key that lists ``names``.
        names: names of the levels, finest first.
        input_shape: shapes of the backbone's levels, by name.

    Raises:
        ValueError: a level does not exist, or has another number of channels.
    """
    unknown = [name for name in names if name not in input_shape]
    if unknown or not names:
        raise ValueError(
            f"{key} {list(names)} must be levels of the backbone, which has {sorted(input_shape)}"
        )
    shapes = [input_shape[name] for name in names]
    channels = [shape.channels for shape in shapes]
    if len(set(channels)) > 1:
        raise ValueError(
            f"{key} {list(names)} have {channels} channels, but share one head: they must all "
            "have the same number"
        )
    return shapes


def log_per_image(counts: dict[str, Tensor]) -> None:
    """Put the means of counts (N,) over the images into detectron2's event storage, if any.

    Reading them forces a GPU synchronisation, so on a GPU only every 20th iteration does, just
    before detectron2's writers take them, and the first one.
    """
    try:
        storage = get_event_storage()
    except AssertionError:  # outside of a trainer
        return
    on_gpu = any(x.is_cuda for x in counts.values())
    if on_gpu and storage.iter > 0 and (storage.iter + 1) % WRITER_PERIOD:
        return
    means = torch.stack(list(counts.values())).float().mean(dim=1).tolist()
    storage.put_scalars(**dict(zip(counts, means, strict=True)))


def init_branches(anchor_loc: nn.Conv2d, anchor_shape: nn.Conv2d, prior_prob: float) -> None:
    """Initialize the two branches; every cell starts at the location probability ``prior_prob``."""
    for layer in (anchor_loc, anchor_shape):
        assert layer.bias is not None
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    assert anchor_loc.bias is not None
    nn.init.constant_(anchor_loc.bias, -math.log((1 - prior_prob) / prior_prob))


@contextmanager
def record_guided_anchors(model: nn.Module) -> Iterator[list[GuidedAnchors]]:
    """Record the guided anchors of every batch that ``model`` processes within the context.

    These are the model's own outputs; recording computes nothing.

    Example:
        >>> with record_guided_anchors(model) as records:
        ...     detections = model(batched_inputs)
        >>> heat_maps = records[0].loc_probability_maps()  # L maps of (N, Hi, Wi)

    Raises:
        ValueError: the model has no guided anchors.
    """
    modules = [m for m in model.modules() if isinstance(m, GuidedAnchoring)]
    if not modules:
        raise ValueError(
            f"{type(model).__name__} has no guided anchors: build it with "
            "MODEL.PROPOSAL_GENERATOR.NAME GuidedAnchorRPN or MODEL.META_ARCHITECTURE GARetinaNet"
        )
    records: list[GuidedAnchors] = []
    handles = [
        m.register_forward_hook(lambda _module, _inputs, output: records.append(output))
        for m in modules
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
