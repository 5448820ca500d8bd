"""Pictures of one image with their titles, legends and colour scales."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Boxes, Instances, pairwise_iou
from matplotlib.colors import Colormap, Normalize
from torch import Tensor

from ga_detectron2.data.check.report import number_of

from . import boxes, maps
from .maps import ImageAnchors
from .style import color_of, resize

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
    max_anchors: int | None = boxes.MAX_ANCHORS,
    max_proposals: int | None = 10,
    score_thresh: float = 0.5,
    side: int = TILE_SIDE,
) -> list[Tile]:
    """The pictures of a panel in the order of ``show``; those without data are left out.

    Args:
        anchors: see :func:`.anchors_of_image`.
        ground_truth: ``gt_boxes`` and ``gt_classes``.
        proposals: ``proposal_boxes`` and ``objectness_logits``.
        detections: ``pred_boxes``, ``scores`` and ``pred_classes``.
        show: some of ``TILE_NAMES``.
        max_anchors, max_proposals: how many of the best to draw, see :func:`.select_anchors`.
        score_thresh: minimum score of detections.
        side: pixels of the longer side of a picture.

    Raises:
        ValueError: a name in ``show`` is unknown.
    """
    scale = side / max(image.shape[:2])
    enlarged = resize(image, scale)
    tiles: list[Tile] = []
    for name in show:
        if name not in TILE_NAMES:
            raise ValueError(f"a panel cannot show '{name}', only {', '.join(TILE_NAMES)}")
        if name == "image":
            tiles.append(Tile(name, f"Image, {image.shape[1]}×{image.shape[0]} pixels", enlarged))
        elif name == "ground_truth" and ground_truth is not None:
            drawn = boxes.draw_ground_truth(image, ground_truth, metadata, scale=scale)
            text = f"Ground truth: {number_of(len(ground_truth), 'object')}"
            tiles.append(Tile(name, text, drawn))
        elif name == "proposals" and proposals is not None:
            best = boxes.best_predictions(proposals, 0, max_proposals)
            drawn = boxes.draw_predictions(image, best, scale=scale)
            text = f"Proposals: best {len(best)} of {len(proposals)}"
            tiles.append(Tile(name, text, drawn))
        elif name == "detections" and detections is not None:
            best = boxes.best_predictions(detections, score_thresh)
            drawn = boxes.draw_predictions(image, best, metadata, scale=scale)
            text = f"Detections: {len(best)} of score ≥ {score_thresh:.0%} (of {len(detections)})"
            tiles.append(Tile(name, text, drawn))
        elif name in ("location", "anchors", "shape", "levels") and anchors is not None:
            tiles += _anchor_tiles(name, enlarged, anchors, threshold, max_anchors)
    return tiles


def _anchor_tiles(
    name: str, image: np.ndarray, anchors: ImageAnchors, threshold: float, max_anchors: int | None
) -> Iterator[Tile]:
    """The tiles of one name that show location probabilities or guided anchors."""
    probability = anchors.probability
    highest, passing = float(probability.max()), int((probability >= threshold).sum())
    vmax = maps.probability_limit(highest)
    if name == "location":
        title = f"Location probability, highest of {len(anchors.strides)} levels, 0 to {vmax:g}"
        label = (
            f"probability (highest: {highest:.2g}); {passing} of {len(probability)} cells pass the "
            f"filter at {threshold:g}"
        )
        ticks = {x: f"{x:g}" for x in np.linspace(0, vmax, 5)}
        bar = ColorBar(maps.PROBABILITY_COLORS, Normalize(0, vmax), label, ticks)
        yield Tile(name, title, maps.draw_location(image, anchors, vmax=vmax), color_bar=bar)
    elif name == "levels":
        for level, values in enumerate(anchors.level_maps(probability)):
            kept = f"{(values >= threshold).sum()}/{values.size} pass"
            title = f"stride {anchors.strides[level]}: max {values.max():.2g}, {kept}"
            drawn = maps.draw_location(image, anchors, level=level, vmax=vmax)
            yield Tile(name, title, drawn, small=True)
    elif name == "shape":
        label = "width : height at the likeliest level; grey: no cell passes the filter"
        ticks = {2.0**i: f"{2 ** max(i, 0)}:{2 ** max(-i, 0)}" for i in range(-3, 4)}
        bar = ColorBar(maps.ASPECT_COLORS, maps.ASPECT_NORM, label, ticks)
        drawn = maps.draw_shape(image, anchors, threshold=threshold)
        yield Tile(name, "Shape of guided anchors", drawn, color_bar=bar)
    else:
        cells = boxes.select_anchors(anchors, threshold, max_anchors)
        limit = f"pairwise IoU ≤ {boxes.MAX_OVERLAP:g}"
        title = f"Guided anchors: likeliest {len(cells)} of {passing} that pass, {limit}"
        drawn = boxes.draw_guided_anchors(
            image, anchors, threshold=threshold, max_anchors=max_anchors
        )
        yield Tile(name, title, drawn, strides_legend(anchors, anchors.level[cells]))


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

    ``anchors`` (R, 4) are in pixels of the network's input, whose ``input_size`` is (height, width)
    before padding. ``label`` and ``color`` are their kind and the number of their colour.
    """
    scale = TILE_SIDE / max(image.shape[:2])
    tiles = []
    if anchors is not None and len(anchors) and len(ground_truth):
        scaled = Boxes(anchors.cpu().clone())
        scaled.scale(image.shape[1] / input_size[1], image.shape[0] / input_size[0])
        iou, best = pairwise_iou(ground_truth.gt_boxes, scaled).max(dim=1)
        truth, matches = ground_truth.gt_boxes.tensor.numpy(), scaled.tensor[best].numpy()
        drawn = boxes.draw_anchor_matches(
            resize(image, scale), truth * scale, matches * scale, iou, np.full(len(best), color)
        )
        text = f"best of {len(scaled)} for each object (dashed), mean IoU {iou.mean():.2f}"
        tiles.append(Tile("anchors", f"{label}: {text}", drawn))
    if proposals is not None:
        number = min(2 * max(5, len(ground_truth)), len(proposals))
        drawn = boxes.draw_predictions(image, proposals, max_boxes=number, scale=scale)
        tiles.append(Tile("proposals", f"{label}: best {number} proposals", drawn))
    return tiles


def strides_legend(anchors: ImageAnchors, levels: np.ndarray) -> tuple[tuple[Any, str], ...]:
    """Legend of k boxes coloured by their ``levels`` (k,), with the number of boxes on each."""
    return tuple(
        (color_of(i), f"stride {stride} ({(levels == i).sum()})")
        for i, stride in enumerate(anchors.strides)
    )
