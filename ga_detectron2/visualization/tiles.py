"""Pictures of one image with their titles, legends and colour scales."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Boxes, Instances, pairwise_iou
from matplotlib.colors import Colormap, Normalize
from torch import Tensor

from .boxes import (
    MAX_ANCHORS,
    MAX_OVERLAP,
    best_predictions,
    draw_anchor_matches,
    draw_ground_truth,
    draw_guided_anchors,
    draw_predictions,
    select_anchors,
)
from .maps import (
    ASPECT_COLORS,
    ASPECT_NORM,
    PROBABILITY_COLORS,
    ImageAnchors,
    draw_location,
    draw_shape,
    probability_limit,
)
from .style import color_of, count, resize

TILE_NAMES = (
    *("image", "ground_truth", "location", "anchors", "shape"),
    *("proposals", "detections", "levels"),
)
"""What a panel can show. "levels" is the location probability of each level by itself."""
TILE_SIDE = 640
"""Pixels of the longer side of a tile's picture."""


@dataclass(frozen=True)
class ColorBar:
    """A colour scale under a picture."""

    colors: Colormap
    norm: Normalize
    label: str
    ticks: dict[float, str]
    """Values and their names."""


@dataclass(frozen=True)
class Tile:
    """A picture of a panel with its explanation."""

    name: str
    title: str
    image: np.ndarray
    legend: tuple[tuple[Any, str], ...] = ()
    """Colours and what they stand for."""
    color_bar: ColorBar | None = None
    small: bool = False
    """Whether it goes into the row of small pictures at the bottom."""


def make_tiles(
    image: np.ndarray,
    *,
    anchors: ImageAnchors | None = None,
    ground_truth: Instances | None = None,
    proposals: Instances | None = None,
    detections: Instances | None = None,
    metadata: Any = None,
    show: Sequence[str] = TILE_NAMES[1:],
    threshold: float = 0.01,
    max_anchors: int | None = MAX_ANCHORS,
    max_proposals: int | None = 10,
    score_thresh: float = 0.5,
    side: int = TILE_SIDE,
) -> list[Tile]:
    """The pictures of a panel in the order of ``show``; those without data are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        anchors: see :func:`.anchors_of_image`.
        ground_truth: ``gt_boxes`` and ``gt_classes``. All boxes are in pixels of ``image``.
        proposals: ``proposal_boxes`` and ``objectness_logits``.
        detections: ``pred_boxes``, ``scores`` and ``pred_classes``.
        metadata: detectron2's, for the names of the classes.
        show: some of ``TILE_NAMES``.
        threshold: lowest location probability of the cells that are kept.
        max_anchors, max_proposals: how many of the best to draw. Of guided anchors that overlap by
            an IoU above ``MAX_OVERLAP`` only the likeliest is drawn.
        score_thresh: minimum score of detections.
        side: pixels of the longer side of a picture.

    Raises:
        ValueError: a name in ``show`` is unknown.
    """
    scale = side / max(image.shape[:2])
    tiles: list[Tile] = []
    for name in show:
        if name not in TILE_NAMES:
            raise ValueError(f"a panel cannot show '{name}', only {', '.join(TILE_NAMES)}")
        if name == "image":
            text = f"Image, {image.shape[1]}×{image.shape[0]} pixels"
            tiles.append(Tile(name, text, resize(image, scale)))
        elif name == "ground_truth" and ground_truth is not None:
            drawn = draw_ground_truth(image, ground_truth, metadata, scale=scale)
            text = f"Ground truth: {count(len(ground_truth), 'object')}"
            tiles.append(Tile(name, text, drawn))
        elif name == "proposals" and proposals is not None:
            best = best_predictions(proposals, 0, max_proposals)
            drawn = draw_predictions(image, best, scale=scale)
            text = f"Proposals: best {len(best)} of {len(proposals)}"
            tiles.append(Tile(name, text, drawn))
        elif name == "detections" and detections is not None:
            best = best_predictions(detections, score_thresh)
            drawn = draw_predictions(image, best, metadata, scale=scale)
            text = f"Detections: {len(best)} of score ≥ {score_thresh:.0%} (of {len(detections)})"
            tiles.append(Tile(name, text, drawn))
        elif name == "location" and anchors is not None:
            tiles.append(_location_tile(image, anchors, threshold, scale))
        elif name == "anchors" and anchors is not None:
            tiles.append(_anchor_tile(image, anchors, threshold, max_anchors, scale))
        elif name == "shape" and anchors is not None:
            tiles.append(_shape_tile(image, anchors, threshold, scale))
        elif name == "levels" and anchors is not None:
            tiles += _level_tiles(image, anchors, threshold, scale)
    return tiles


def _location_tile(
    image: np.ndarray, anchors: ImageAnchors, threshold: float, scale: float
) -> Tile:
    probability = anchors.probability
    vmax = probability_limit(float(probability.max()))
    label = (
        f"probability (highest: {probability.max():.2g}); {(probability >= threshold).sum()} of "
        f"{len(probability)} cells pass the filter at {threshold:g}"
    )
    ticks = {x: f"{x:g}" for x in np.linspace(0, vmax, 5)}
    return Tile(
        "location",
        f"Location probability, highest of {len(anchors.strides)} levels, 0 to {vmax:g}",
        draw_location(image, anchors, vmax=vmax, scale=scale),
        color_bar=ColorBar(PROBABILITY_COLORS, Normalize(0, vmax), label, ticks),
    )


def _level_tiles(
    image: np.ndarray, anchors: ImageAnchors, threshold: float, scale: float
) -> Iterator[Tile]:
    vmax = probability_limit(float(anchors.probability.max()))
    for level, values in enumerate(anchors.level_maps(anchors.probability)):
        kept = (values >= threshold).sum()
        title = (
            f"stride {anchors.strides[level]}: max {values.max():.2g}, {kept}/{values.size} pass"
        )
        drawn = draw_location(image, anchors, level=level, vmax=vmax, scale=scale)
        yield Tile("levels", title, drawn, small=True)


def _anchor_tile(
    image: np.ndarray,
    anchors: ImageAnchors,
    threshold: float,
    max_anchors: int | None,
    scale: float,
) -> Tile:
    options: dict[str, Any] = {"threshold": threshold, "max_anchors": max_anchors}
    selected = select_anchors(anchors, **options, max_overlap=MAX_OVERLAP)
    return Tile(
        "anchors",
        f"Guided anchors: likeliest {len(selected)} of {(anchors.probability >= threshold).sum()} "
        f"that pass, pairwise IoU ≤ {MAX_OVERLAP:g}",
        draw_guided_anchors(image, anchors, **options, scale=scale),
        legend=strides_legend(anchors.strides, anchors.level[selected]),
    )


def _shape_tile(image: np.ndarray, anchors: ImageAnchors, threshold: float, scale: float) -> Tile:
    label = "width : height at the likeliest level; grey: no cell passes the filter"
    ticks = {2.0**i: f"{2 ** max(i, 0)}:{2 ** max(-i, 0)}" for i in range(-3, 4)}
    return Tile(
        "shape",
        "Shape of guided anchors",
        draw_shape(image, anchors, threshold=threshold, scale=scale),
        color_bar=ColorBar(ASPECT_COLORS, ASPECT_NORM, label, ticks),
    )


def make_match_tiles(
    image: np.ndarray,
    ground_truth: Instances,
    anchors: Tensor | None,
    input_size: tuple[int, int],
    proposals: Instances | None,
    label: str,
    color: int,
) -> list[Tile]:
    """The best anchor of each object, and the best proposals, for a comparison of models.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth: ``gt_boxes`` in pixels of ``image``.
        anchors: (R, 4) in pixels of the network's input.
        input_size: (height, width) of the image as the network saw it, before padding.
        proposals: in pixels of ``image``; None from a one-stage detector.
        label: kind of the anchors.
        color: number of the anchors' colour.
    """
    scale = TILE_SIDE / max(image.shape[:2])
    tiles = []
    if anchors is not None and len(anchors) and len(ground_truth):
        boxes = Boxes(anchors.cpu().clone())
        boxes.scale(image.shape[1] / input_size[1], image.shape[0] / input_size[0])
        iou, best = pairwise_iou(ground_truth.gt_boxes, boxes).max(dim=1)
        drawn = draw_anchor_matches(
            image,
            ground_truth.gt_boxes.tensor.numpy(),
            boxes.tensor[best].numpy(),
            iou.tolist(),
            [color] * len(best),
            scale,
        )
        text = f"best of {len(boxes)} for each object (dashed), mean IoU {iou.mean():.2f}"
        tiles.append(Tile("anchors", f"{label}: {text}", drawn))
    if proposals is not None:
        number = min(2 * max(5, len(ground_truth)), len(proposals))
        drawn = draw_predictions(image, proposals, max_boxes=number, scale=scale)
        tiles.append(Tile("proposals", f"{label}: best {number} proposals", drawn))
    return tiles


def strides_legend(
    strides: Sequence[int], levels: np.ndarray | Tensor
) -> tuple[tuple[Any, str], ...]:
    """Legend of boxes coloured by level, with the number of boxes on each.

    Args:
        strides: strides of the L levels.
        levels: (k,), levels of the boxes.
    """
    return tuple(
        (color_of(i), f"stride {stride} ({int((levels == i).sum())})")
        for i, stride in enumerate(strides)
    )
