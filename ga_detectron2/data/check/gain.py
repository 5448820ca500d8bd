"""Whether guided anchors could cover objects better than fixed ones, in a sentence or two."""

from typing import Any

from .statistics import ELONGATED_BINS

__all__ = ["judge_gain"]

LARGE, SMALL = 0.1, 0.03
"""Of recall at IoU 0.7: from which difference on a gain is promised, below which it is not."""


def judge_gain(statistics: dict[str, Any]) -> dict[str, Any]:
    """Compare the ideal guided anchor with the approximate anchors.

    Args:
        statistics: of :func:`.statistics.fit_statistics`, with at least one object.

    Returns:
        ``verdict`` ("gain", "small gain" or "no gain"), ``recall_70`` and ``mean``, what the ideal
        is above the approximate anchors, ``from_elongated``, the share of that recall which comes
        from objects beyond 3:1, and a ``sentence``.
    """
    everything = statistics["all"]
    fixed, ideal = everything["approximate"], everything["ideal"]
    rpn = everything["three_ratios"]
    recall = ideal["recall_70"] - fixed["recall_70"]
    verdict = "gain" if recall >= LARGE else "small gain" if recall >= SMALL else "no gain"
    elongated = [statistics["by_ratio"][name] for name in ELONGATED_BINS]
    elongated = [row for row in elongated if row["objects"]]
    number = sum(row["objects"] for row in elongated)
    missed = sum(
        row["objects"] * (row["ideal"]["recall_70"] - row["approximate"]["recall_70"])
        for row in elongated
    )
    total = recall * everything["objects"]
    share = missed / total if recall >= SMALL else None
    words = {
        "gain": "Guided anchors promise a gain",
        "small gain": "Guided anchors promise a small gain",
        "no gain": "Guided anchors promise no gain",
    }
    sentence = (
        f"{words[verdict]}: an ideal guided anchor reaches IoU 0.7 with "
        f"{100 * ideal['recall_70']:.0f} % of the objects, the approximate anchors as fixed ones "
        f"with {100 * fixed['recall_70']:.0f} %, RPN's three ratios with "
        f"{100 * rpn['recall_70']:.0f} % (mean IoU {ideal['mean']:.2f}, {fixed['mean']:.2f}, "
        f"{rpn['mean']:.2f})."
    )
    if share is not None:
        sentence += (
            f" {100 * share:.0f} % of the difference to the approximate ones comes from objects "
            f"beyond 3:1, which are {100 * number / everything['objects']:.0f} % of all."
        )
    return {
        "verdict": verdict,
        "recall_70": recall,
        "mean": ideal["mean"] - fixed["mean"],
        "from_elongated": share,
        "sentence": sentence,
    }
