"""Guided anchors, detections, proposals and ground truth, drawn as boxes."""

from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import nms

from .canvas import Canvas
from .maps import ImageAnchors
from .style import color_of

MAX_ANCHORS = 25
MAX_OVERLAP = 0.6
"""Defaults of what is drawn: more anchors, or nearly equal ones, hide each other."""
LABELED_PROPOSALS = 10
"""The others overlap too much for labels to be legible."""


def select_anchors(
    anchors: ImageAnchors,
    threshold: float,
    max_anchors: int | None = MAX_ANCHORS,
    max_overlap: float = MAX_OVERLAP,
) -> np.ndarray:
    """(k,) int64: cells that pass the location filter, highest location probability first.

    An anchor is left out if its IoU with a likelier one is above ``max_overlap``. At most
    ``max_anchors`` are selected, None for all.
    """
    kept = np.flatnonzero(anchors.probability >= threshold)
    boxes, scores = (torch.from_numpy(x[kept]) for x in (anchors.boxes, anchors.probability))
    return kept[nms(boxes, scores, max_overlap).numpy()][:max_anchors]


def draw_guided_anchors(
    image: np.ndarray,
    anchors: ImageAnchors,
    *,
    threshold: float = 0.01,
    max_anchors: int | None = MAX_ANCHORS,
    scale: float = 1.0,
) -> np.ndarray:
    """Guided anchors of the cells of :func:`select_anchors`, coloured by level.

    A dot marks the centre of each cell. Neighbouring cells see the same object; anchors that differ
    little are drawn once.
    """
    canvas = Canvas(image, scale=scale, line_width=1.2)
    to_canvas = anchors.scale_to(canvas.size)
    cells = select_anchors(anchors, threshold, max_anchors)
    for cell in cells[::-1]:  # the likeliest on top
        box = anchors.boxes[cell] * np.tile(to_canvas, 2)
        canvas.draw_box(box, edge_color=color_of(anchors.level[cell]))
    canvas.draw_dots(anchors.centers[cells] * to_canvas, anchors.level[cells])
    return canvas.image()


def draw_anchor_matches(
    image: np.ndarray, truth: np.ndarray, anchors: np.ndarray, ious: Tensor, levels: np.ndarray
) -> np.ndarray:
    """Objects (k, 4), dashed, and their best anchors (k, 4), coloured by level, with the IoU."""
    canvas = Canvas(image)
    for box in truth:
        canvas.draw_box(box, edge_color="white", line_style="--")
    labels, colors = [f"{iou:.2f}" for iou in ious], [color_of(level) for level in levels]
    canvas.overlay_instances(boxes=anchors, labels=labels, assigned_colors=colors)
    return canvas.image()


def best_predictions(
    predictions: Instances, score_thresh: float = 0.0, max_boxes: int | None = None
) -> Instances:
    """At most ``max_boxes`` predictions of an image, best first, on the CPU, with ``scores``.

    The score of a proposal is the sigmoid of its ``objectness_logits``.
    """
    predictions = predictions.to("cpu")
    if not predictions.has("scores"):
        predictions.scores = predictions.objectness_logits.detach().sigmoid()
    order = torch.argsort(predictions.scores, descending=True, stable=True)
    return predictions[order[predictions.scores[order] >= score_thresh][:max_boxes]]


def draw_predictions(
    image: np.ndarray,
    predictions: Instances,
    metadata: Any = None,
    *,
    score_thresh: float = 0.0,
    max_boxes: int | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Detections with classes and scores, or proposals, the ten best of them with scores.

    At most the best ``max_boxes`` with a score of at least ``score_thresh`` are drawn, with their
    masks and keypoints.
    """
    chosen = best_predictions(predictions, score_thresh, max_boxes)
    labels = [f"{score:.0%}" for score in chosen.scores.tolist()]
    if chosen.has("pred_classes"):
        boxes, classes = chosen.pred_boxes, chosen.pred_classes.tolist()
        labels = [f"{class_name(c, metadata)} {x}" for c, x in zip(classes, labels, strict=True)]
    else:
        boxes, classes = chosen.proposal_boxes, [0] * len(chosen)
        labels[LABELED_PROPOSALS:] = [""] * (len(labels) - LABELED_PROPOSALS)
    canvas = Canvas(image, metadata, scale)
    shapes: dict[str, Any] = {"boxes": boxes.tensor.detach().numpy() * scale}
    if chosen.has("pred_masks") and len(chosen):
        enlarged = interpolate(chosen.pred_masks[None].float(), canvas.size)[0]
        shapes["masks"] = list(enlarged.bool().numpy())
    if chosen.has("pred_keypoints"):
        shapes["keypoints"] = chosen.pred_keypoints.numpy() * np.array([scale, scale, 1])
    colors = [color_of(c) for c in classes]
    canvas.overlay_instances(**shapes, labels=labels, assigned_colors=colors, alpha=0.4)
    return canvas.image()


def ground_truth_of(record: dict[str, Any], image: np.ndarray) -> Instances:
    """``gt_boxes`` and ``gt_classes`` of a record in detectron2's format, without crowds."""
    boxes = [
        {key: x[key] for key in ("bbox", "bbox_mode", "category_id")}
        for x in record.get("annotations", [])
        if not x.get("iscrowd", 0)
    ]
    return annotations_to_instances(boxes, image.shape[:2])


def draw_ground_truth(
    image: np.ndarray, ground_truth: Instances, metadata: Any = None, *, scale: float = 1.0
) -> np.ndarray:
    """The ``gt_boxes`` and ``gt_classes`` of the objects in an image."""
    canvas = Canvas(image, metadata, scale)
    boxes, classes = ground_truth.gt_boxes.tensor.cpu().numpy(), ground_truth.gt_classes.tolist()
    labels, colors = [class_name(c, metadata) for c in classes], [color_of(c) for c in classes]
    canvas.overlay_instances(boxes=boxes * scale, labels=labels, assigned_colors=colors)
    return canvas.image()


def class_name(index: int, metadata: Any) -> str:
    """The name of a class, or its index where the metadata have no names."""
    names = metadata.get("thing_classes", None) if metadata is not None else None
    return names[index] if names and index < len(names) else str(index)
