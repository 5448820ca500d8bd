"""Recall against number of proposals, from what training and evaluation leave behind."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from ga_detectron2.checkpoint.safe_pickle import load_numpy_pickle
from ga_detectron2.evaluation.proposal_recall import evaluate_recall

from .plots import RecallCurve

__all__ = ["DEFAULT_LIMITS", "read_metrics", "recall_of_metrics", "recall_of_proposals"]

DEFAULT_LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of proposals an image."""
GROUPS = ("proposal_recall", "box_proposals")
"""Of scores in ``metrics.json``, the first one that is there counts."""


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The rows of a ``metrics.json``, or of the one in a folder.

    A second run into the same folder appends to the file. From where it starts, its rows count
    and no longer those of the first.

    Raises:
        OSError: there is none.
        ValueError: a row is not JSON.
    """
    path = os.path.join(path, "metrics.json") if os.path.isdir(path) else path
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict) or "iteration" not in row:
                raise ValueError(f"{path}, line {number}: it has no 'iteration'")
            if rows and row["iteration"] < rows[-1]["iteration"]:
                rows = [x for x in rows if x["iteration"] < row["iteration"]]
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows


def recall_of_metrics(name: str, rows: Iterable[Mapping[str, Any]]) -> RecallCurve:
    """The last average recall that training wrote down, at each number of proposals.

    Raises:
        ValueError: there is no recall in the metrics.
    """
    rows = list(rows)
    for group in GROUPS:
        pattern = re.compile(rf"{group}/AR@(\d+)")
        found = {
            int(match[1]): float(value)
            for row in rows
            for key, value in row.items()
            if (match := pattern.fullmatch(key)) and value is not None
        }
        if found:
            limits = sorted(found)
            return RecallCurve(name, limits, [found[k] for k in limits])
    raise ValueError(
        f"{name}: the metrics hold no recall of proposals, such as proposal_recall/AR@100; only "
        "a model with MODEL.META_ARCHITECTURE ProposalNetwork is scored so"
    )


def recall_of_proposals(
    name: str, path: str, json_file: str, limits: Sequence[int] = DEFAULT_LIMITS
) -> RecallCurve:
    """Average recall of the proposals in a ``box_proposals.pkl``, which detectron2's evaluator
    writes.

    Args:
        name: of the curve.
        path: the file; nothing in it is executed.
        json_file: annotations in COCO's format.
        limits: numbers of proposals, rising.

    Raises:
        CheckpointError: the file is damaged or something else.
        ValueError: it holds no proposals.
    """
    with open(path, "rb") as file:
        content = load_numpy_pickle(file)
    keys = ("ids", "boxes", "objectness_logits")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise ValueError(f"{path}: it is not a file of proposals, which holds {', '.join(keys)}")
    mode = BoxMode(int(content.get("bbox_mode", BoxMode.XYXY_ABS)))
    rows = [np.zeros((0, 6))]
    for image_id, boxes, logits in zip(*(content[key] for key in keys), strict=True):
        boxes = BoxMode.convert(
            np.asarray(boxes, dtype=np.float64).reshape(-1, 4), mode, BoxMode.XYWH_ABS
        )
        ids = np.full((len(boxes), 1), image_id, dtype=np.float64)
        rows.append(np.hstack([ids, boxes, np.asarray(logits, dtype=np.float64)[:, None]]))
    scores = evaluate_recall(
        COCO(json_file), [int(i) for i in content["ids"]], np.concatenate(rows), limits
    )
    return RecallCurve(name, list(limits), [scores[f"AR@{limit}"] for limit in limits])
