"""Differences between two lists of results."""

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

# Results that differ by more than this are different results.
PAIR_WITHIN_PIXELS = 1.0
PAIR_WITHIN_SCORE = 0.01


class Differences(NamedTuple):
    """Differences between the results of an exported model and of its original.

    Attributes:
        found, expected: numbers of results.
        unmatched: results without a counterpart of the same class, with a box within 1 pixel and a
            score within 0.01.
        box: largest difference of a coordinate of matched results, in pixels.
        score: largest difference of their scores.
        mask: largest difference of a pixel of their masks, from 0 to 1; 0 without masks.
        keypoint: largest difference of a keypoint coordinate in pixels; 0 without keypoints.
    """

    found: int
    expected: int
    unmatched: int
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    keypoint: float = 0.0


def compare_results(found: Instances, expected: Instances) -> Differences:
    """Compare the results of one image, in any order."""
    boxes, scores, classes = _parts(found)
    their_boxes, their_scores, their_classes = _parts(expected)
    if not len(boxes) or not len(their_boxes):
        return Differences(len(boxes), len(their_boxes), len(boxes) + len(their_boxes))
    box = (boxes[:, None] - their_boxes).abs().amax(dim=2)
    score = (scores[:, None] - their_scores).abs()
    same = classes[:, None] == their_classes
    same &= (box <= PAIR_WITHIN_PIXELS) & (score <= PAIR_WITHIN_SCORE)
    distance = torch.where(same, box / PAIR_WITHIN_PIXELS + score / PAIR_WITHIN_SCORE, torch.inf)
    nearest, partner = distance.min(dim=1)
    mine = nearest.isfinite()
    unmatched = int((~mine).sum() + (~same.any(dim=0)).sum())
    if not mine.any():
        return Differences(len(boxes), len(their_boxes), unmatched)
    pairs = torch.arange(len(boxes))[mine], partner[mine]

    def largest(field: str, columns: slice) -> float:
        if not expected.has(field):
            return 0.0
        x, y = (r.get(field).cpu()[i] for r, i in zip((found, expected), pairs, strict=True))
        return (x - y)[..., columns].abs().max().item()

    return Differences(
        len(boxes),
        len(their_boxes),
        unmatched,
        box[pairs].max().item(),
        score[pairs].max().item(),
        largest("pred_masks", slice(None)),
        largest("pred_keypoints", slice(2)),  # of x, y and score
    )


def _parts(results: Instances) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores from 0 to 1 and classes, on the CPU."""
    if results.has("proposal_boxes"):
        boxes, scores = results.proposal_boxes.tensor, results.objectness_logits.sigmoid()
        classes = torch.zeros(len(boxes), dtype=torch.int64)
    else:
        boxes, scores, classes = (
            results.pred_boxes.tensor,
            results.scores,
            results.pred_classes,
        )
    return boxes.cpu(), scores.cpu(), classes.cpu()
