"""Guided anchors, detections, proposals and ground truth, drawn as boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances
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
    max_anchors: int | None = None,
    max_overlap: float = 1.0,
) -> np.ndarray:
    """(k,) int64: cells that pass the location filter, highest location probability first.

    Args:
        anchors: anchors of the image.
        threshold: lowest location probability of the cells that are kept
            (``MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH``).
        max_anchors: maximum number; None for all.
        max_overlap: an anchor is left out if its IoU with a likelier one is higher.
    """
    kept = np.flatnonzero(anchors.probability >= threshold)
    order = kept[np.argsort(-anchors.probability[kept], kind="stable")]
    if max_overlap < 1 and len(order):
        ranks = torch.arange(len(order), 0, -1, dtype=torch.float32)
        order = order[nms(torch.from_numpy(anchors.boxes[order]), ranks, max_overlap).numpy()]
    return order[:max_anchors]


def draw_guided_anchors(
    image: np.ndarray,
    anchors: ImageAnchors,
    *,
    threshold: float = 0.01,
    max_anchors: int | None = MAX_ANCHORS,
    max_overlap: float = MAX_OVERLAP,
    scale: float = 1.0,
) -> np.ndarray:
    """Guided anchors of the likeliest cells that pass the location filter, coloured by level.

    A dot marks the centre of each cell. Neighbouring cells see the same object; anchors that differ
    little are drawn once.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        anchors: anchors of the image.
        threshold, max_anchors, max_overlap: see :func:`select_anchors`.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, scale=scale, line_width=1.2)
    to_canvas = anchors.scale_to(canvas.size)
    cells = select_anchors(anchors, threshold, max_anchors, max_overlap)
    for cell in cells[::-1]:  # the likeliest on top
        box = anchors.boxes[cell] * np.tile(to_canvas, 2)
        canvas.draw_box(box, edge_color=color_of(anchors.level[cell]))
    canvas.draw_dots(
        anchors.centers[cells] * to_canvas, [color_of(anchors.level[i]) for i in cells]
    )
    return canvas.image()


def draw_anchor_matches(
    image: np.ndarray,
    ground_truth: np.ndarray,
    anchors: np.ndarray,
    ious: Sequence[float],
    levels: Sequence[int],
    scale: float = 1.0,
) -> np.ndarray:
    """Objects as dashed white boxes, each with its best anchor, coloured by level, and their IoU.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth, anchors: (k, 4) in pixels of ``image``, in the same order.
        ious: (k,).
        levels: (k,), of the anchors.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, scale=scale)
    for box in ground_truth * scale:
        canvas.draw_box(box, edge_color="white", line_style="--")
    canvas.overlay_instances(
        boxes=np.asarray(anchors, dtype=np.float32).reshape(-1, 4) * scale,
        labels=[f"{iou:.2f}" for iou in ious],
        assigned_colors=[color_of(i) for i in levels],
    )
    return canvas.image()


def best_predictions(
    predictions: Instances, score_thresh: float = 0.0, max_boxes: int | None = None
) -> Instances:
    """The best detections or proposals of an image, best first, on the CPU, with ``scores``.

    Args:
        predictions: Instances with ``scores`` (detections) or ``objectness_logits`` (proposals,
            whose score is the sigmoid of these).
        score_thresh: minimum score.
        max_boxes: maximum number.

    Raises:
        ValueError: ``predictions`` are neither detections nor proposals.
    """
    predictions = predictions.to("cpu")
    if predictions.has("scores"):
        scores = predictions.scores.detach()
    elif predictions.has("objectness_logits"):
        scores = predictions.objectness_logits.detach().sigmoid()
    else:
        raise ValueError("predictions have neither scores nor objectness_logits")
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] >= score_thresh][:max_boxes]
    chosen = predictions[order]
    chosen.scores = scores[order]
    return chosen


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

    Args:
        image: (H, W, 3) uint8 RGB.
        predictions: Instances in pixels of ``image``; masks and keypoints are drawn as well.
        metadata: detectron2's, for the names of the classes.
        score_thresh, max_boxes: see :func:`best_predictions`.
        scale: enlarges the picture.
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
    masks = keypoints = None
    if chosen.has("pred_masks") and len(chosen):
        enlarged = interpolate(chosen.pred_masks[None].float(), canvas.size)[0]
        masks = list(enlarged.bool().numpy())
    if chosen.has("pred_keypoints"):
        keypoints = chosen.pred_keypoints.numpy() * np.array([scale, scale, 1])
    canvas.overlay_instances(
        boxes=boxes.tensor.detach().numpy() * scale,
        labels=labels,
        masks=masks,
        keypoints=keypoints,
        assigned_colors=[color_of(c) for c in classes],
        alpha=0.4,
    )
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
    """Boxes and classes of the objects in an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth: ``gt_boxes`` in pixels of ``image``, and ``gt_classes``.
        metadata: detectron2's, for the names of the classes.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, metadata, scale)
    classes = ground_truth.gt_classes.tolist()
    canvas.overlay_instances(
        boxes=ground_truth.gt_boxes.tensor.cpu().numpy() * scale,
        labels=[class_name(c, metadata) for c in classes],
        assigned_colors=[color_of(c) for c in classes],
    )
    return canvas.image()


def class_name(index: int, metadata: Any) -> str:
    """The name of a class, or its index where the metadata have no names."""
    names = metadata.get("thing_classes", None) if metadata is not None else None
    return names[index] if names and index < len(names) else str(index)
