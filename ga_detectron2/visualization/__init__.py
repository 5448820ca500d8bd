"""Pictures of what a guided anchoring model learned. They need matplotlib.

Images go in and come out as (H, W, 3) uint8 RGB arrays. What a model made of a batch comes from
:func:`ga_detectron2.record_guided_anchors` or :class:`ga_detectron2.engine.GuidedPredictor`.
"""

from .anchors import (
    MAX_OVERLAP,
    SelectedAnchors,
    draw_anchor_matches,
    draw_boxes_by_level,
    draw_guided_anchors,
    select_anchors,
)
from .image_anchors import ImageAnchors, anchors_of_image
from .location import draw_location, location_map
from .panel import TILE_NAMES, Tile, compose_panel, make_overview, make_panel, make_tiles
from .plots import (
    RecallCurve,
    plot_box_shapes,
    plot_recall_curves,
    plot_training_curves,
)
from .predictions import draw_ground_truth, draw_predictions, ground_truth_of
from .shape import draw_shape, shape_map
from .shape_errors import BoxShapes, best_anchors, measure_shapes
from .style import save_image

__all__ = [
    "MAX_OVERLAP",
    "TILE_NAMES",
    "BoxShapes",
    "ImageAnchors",
    "RecallCurve",
    "SelectedAnchors",
    "Tile",
    "anchors_of_image",
    "best_anchors",
    "compose_panel",
    "draw_anchor_matches",
    "draw_boxes_by_level",
    "draw_ground_truth",
    "draw_guided_anchors",
    "draw_location",
    "draw_predictions",
    "draw_shape",
    "ground_truth_of",
    "location_map",
    "make_overview",
    "make_panel",
    "make_tiles",
    "measure_shapes",
    "plot_box_shapes",
    "plot_recall_curves",
    "plot_training_curves",
    "save_image",
    "select_anchors",
    "shape_map",
]
