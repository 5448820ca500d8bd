"""Detections, proposals and ground truth, drawn by detectron2's Visualizer."""

from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances

from .canvas import Canvas
from .style import color_of

__all__ = ["best_predictions", "draw_ground_truth", "draw_predictions", "ground_truth_of"]

LABELED_PROPOSALS = 10
"""Proposals beyond lie over each other too often for words between them."""


def best_predictions(
    predictions: Instances, score_thresh: float = 0.0, max_boxes: int | None = None
) -> Instances:
    """The best detections or proposals of an image, best first, on the CPU.

    Args:
        predictions: with ``scores`` (detections) or ``objectness_logits`` (proposals, whose score
            is the logistic function of these).
        score_thresh: score from which on they count.
        max_boxes: how many at most.

    Raises:
        ValueError: there are neither detections nor proposals in ``predictions``.
    """
    predictions = predictions.to("cpu")
    if predictions.has("scores"):
        scores = predictions.scores.detach()
    elif predictions.has("objectness_logits"):
        scores = predictions.objectness_logits.detach().sigmoid()
    else:
        raise ValueError(
            "predictions have neither scores nor objectness_logits, but only "
            f"{', '.join(predictions.get_fields()) or 'nothing'}"
        )
    order = torch.argsort(scores, descending=True, stable=True)
    chosen = predictions[order[scores[order] >= score_thresh][:max_boxes]]
    chosen.scores = scores[order[: len(chosen)]]
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
    """Detections with classes and scores, or proposals, the best ten of them with scores.

    Args:
        image: (H, W, 3) uint8 RGB.
        predictions: in pixels of ``image``; masks and keypoints are drawn too.
        metadata: of detectron2, for the names of the classes.
        score_thresh, max_boxes: see :func:`best_predictions`.
        scale: enlarges the picture.
    """
    chosen = best_predictions(predictions, score_thresh, max_boxes)
    boxes = chosen.pred_boxes if chosen.has("pred_boxes") else chosen.proposal_boxes
    labels = [f"{score:.0%}" for score in chosen.scores.tolist()]
    if not chosen.has("pred_classes"):
        labels[LABELED_PROPOSALS:] = [""] * (len(labels) - LABELED_PROPOSALS)
    classes = [0] * len(chosen)
    if chosen.has("pred_classes"):
        classes = chosen.pred_classes.tolist()
        labels = [f"{_class_name(c, metadata)} {x}" for c, x in zip(classes, labels, strict=True)]
    canvas = Canvas(image, metadata, scale)
    size = (canvas.output.width, canvas.output.height)
    masks = keypoints = None
    if chosen.has("pred_masks"):
        masks = [
            cv2.resize(x, size, interpolation=cv2.INTER_NEAREST).astype(bool)
            for x in np.asarray(chosen.pred_masks, dtype=np.uint8)
        ]
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
    """The objects in a data set's record of an image: ``gt_boxes``, ``gt_classes``; no crowds."""
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
        metadata: of detectron2, for the names of the classes.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, metadata, scale)
    classes = ground_truth.gt_classes.tolist()
    canvas.overlay_instances(
        boxes=ground_truth.gt_boxes.tensor.cpu().numpy() * scale,
        labels=[_class_name(c, metadata) for c in classes],
        assigned_colors=[color_of(c) for c in classes],
    )
    return canvas.image()


def _class_name(index: int, metadata: Any) -> str:
    names = metadata.get("thing_classes", None) if metadata is not None else None
    return names[index] if names and index < len(names) else str(index)
