"""Pictures of what a guided anchoring model has learned.

A model's outputs for a batch come from :func:`ga_detectron2.record_guided_anchors`, or with
detections and proposals from :class:`ga_detectron2.engine.predictor.GuidedPredictor`.

Images and pictures are (H, W, 3) uint8 RGB arrays; ``scale`` enlarges a picture. Boxes are (x1, y1,
x2, y2) in pixels of ``image``; what :func:`.anchors_of_image` returns fits an image of any size.
``threshold`` is the lowest location probability of the cells that the location filter keeps.
``metadata`` are detectron2's, for the names of the classes.
"""

try:
    from detectron2.utils import visualizer  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"pictures need OpenCV and matplotlib ({error}): pip install opencv-python matplotlib"
    ) from error

from .boxes import (
    MAX_OVERLAP,
    draw_ground_truth,
    draw_guided_anchors,
    draw_predictions,
    ground_truth_of,
    select_anchors,
)
from .maps import anchors_of_image, draw_location, draw_shape
from .panel import compose_panel, make_overview, make_panel
from .plots import (
    BoxShapes,
    RecallCurve,
    measure_shapes,
    plot_box_shapes,
    plot_dataset_shapes,
    plot_recall_curves,
)
from .samples import draw_dataset_targets, first_records, read_samples
from .style import save_image
from .tiles import Tile, make_match_tiles, make_tiles

__all__ = [
    "MAX_OVERLAP",
    "BoxShapes",
    "RecallCurve",
    "Tile",
    "anchors_of_image",
    "compose_panel",
    "draw_dataset_targets",
    "draw_ground_truth",
    "draw_guided_anchors",
    "draw_location",
    "draw_predictions",
    "draw_shape",
    "first_records",
    "ground_truth_of",
    "make_match_tiles",
    "make_overview",
    "make_panel",
    "make_tiles",
    "measure_shapes",
    "plot_box_shapes",
    "plot_dataset_shapes",
    "plot_recall_curves",
    "read_samples",
    "save_image",
    "select_anchors",
]
