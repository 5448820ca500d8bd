"""The findings and statistics of a dataset as one dictionary and as text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate  # type: ignore[import-untyped]

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import ERROR, WARNING, Findings
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .advice import advise
from .fit import fit
from .objects import InputSize, take_objects
from .statistics import RATIO_BINS, fit_statistics, level_statistics

__all__ = ["describe_shapes", "format_findings", "format_shapes", "number_of"]

SHOWN_EXAMPLES = 3
KIND_NAMES = {
    "square": "square",
    "three_ratios": "RPN, 3 ratios",
    "approximate": "approximate",
    "ideal": "ideal guided",
}
GAINS = ((0.1, "a gain"), (0.03, "a small gain"), (-1.0, "no gain"))
"""What guided anchors promise from which difference of recall at IoU 0.7 on."""


def describe_shapes(
    data: CocoFile,
    input_size: InputSize,
    settings: GuidedAnchoring,
    progress: Callable[[Any], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Levels, fit, gain and advice, as values for JSON.

    Args:
        data: the dataset.
        input_size, settings: a model's input size and settings.
        progress: wraps iterables over long work, such as ``tqdm``.

    Returns:
        ``objects``, their number; and if there are any: ``levels``, ``sharing_a_cell``, ``fit`` and
        ``advice``, see the functions that compute them, and ``gain``, what guided anchors promise,
        in a sentence.
    """
    objects = take_objects(data, input_size)
    result: dict[str, Any] = {"objects": len(objects.boxes), "input": input_size._asdict()}
    if not len(objects.boxes):
        return result
    fitted = fit_statistics(objects, fit(objects, settings))
    return {
        **result,
        **level_statistics(objects, settings),
        "fit": fitted,
        "gain": describe_gain(fitted["all"]),
        "advice": asdict(advise(data, input_size, settings, progress)),
    }


def describe_gain(fitted: dict[str, Any]) -> str:
    """Compare the ideal guided anchor with fixed ones, over all objects."""
    ideal, fixed, rpn = (fitted[kind] for kind in ("ideal", "approximate", "three_ratios"))
    difference = ideal["recall_70"] - fixed["recall_70"]
    gain = next(words for least, words in GAINS if difference >= least)
    return (
        f"Guided anchors promise {gain}: an ideal guided anchor reaches IoU 0.7 with "
        f"{100 * ideal['recall_70']:.0f} % of the objects, the approximate anchors as fixed ones "
        f"with {100 * fixed['recall_70']:.0f} %, RPN's three ratios with "
        f"{100 * rpn['recall_70']:.0f} %."
    )


def format_findings(findings: Findings) -> str:
    """Number, description and first examples of each kind, the worst first."""
    lines = []
    for finding in findings.in_order():
        lines.append(f"{finding.severity:8}{finding.count:6}  {finding.text}")
        lines += [f"{'':16}{case}" for case in finding.examples[:SHOWN_EXAMPLES]]
        if finding.count > SHOWN_EXAMPLES:
            lines.append(f"{'':16}and {finding.count - SHOWN_EXAMPLES} more")
    errors, warnings = findings.count(ERROR), findings.count(WARNING)
    if errors or warnings:
        lines.append(f"{number_of(errors, 'error')}, {number_of(warnings, 'warning')}.")
    else:
        lines.append("No fault was found.")
    return "\n".join(lines)


def format_shapes(shapes: dict[str, Any]) -> str:
    """The result of :func:`describe_shapes` as text with Markdown tables."""
    total = shapes["objects"]
    if not total:
        return "There are no objects: nothing can be said about shapes."
    shorter, longest = shapes["input"].values()
    resized = f"resized to {shorter} (longer side up to {longest})" if shorter else "as they are"
    levels = [
        [
            f"{x['stride']}",
            f"{x['square']:g}",
            f"{x['square'] / 2**0.5:.0f} to {x['square'] * 2**0.5:.0f}",
            f"{x['objects']}",
            _percent(x["objects"] / total),
            *(f"{n}" for n in x["by_ratio"]),
        ]
        for x in shapes["levels"]
    ]
    fitted = [
        [name, f"{row['objects']}", *(_triple(row[kind]) for kind in KIND_NAMES)]
        for name, row in shapes["fit"].items()
    ]
    scales = [
        [
            f"{x['base_scale']:g}",
            f"{x['base_scale'] * x['strides'][0]:g}",
            *(_percent(x[key]) for key in ("below", "above", "without_target")),
            f"{x['ideal']:.3f}",
            f"{x['score']:.3f}",
        ]
        for x in shapes["advice"]["base_scales"]
    ]
    scale_head = ["base scale", "first square", "below", "above", "no shape target", "ideal IoU"]
    return "\n\n".join(
        [
            f"{number_of(total, 'object')} by level in training and by width to height (3:1+ is "
            f"from 3:1 to 6:1), in pixels of images {resized}",
            _table(["stride", "square", "sizes", "objects", "share", *RATIO_BINS], levels),
            "Sharing the nearest cell, which has one guided anchor, with another object: "
            f"{shapes['sharing_a_cell']} ({_percent(shapes['sharing_a_cell'] / total)}).",
            "Best IoU that anchors could have with the objects: mean; percentage of objects from "
            "IoU 0.5; from 0.7",
            _table(["width:height", "objects", *KIND_NAMES.values()], fitted),
            "Base scales at this input: objects over half an octave below the first or above the "
            "last square; objects without a shape target; the score is the ideal IoU, 0 without "
            "a shape target",
            _table([*scale_head, "score"], scales),
            "\n".join(f"- {x}" for x in [*shapes["advice"]["sentences"], shapes["gain"]]),
        ]
    )


def number_of(count: int, what: str) -> str:
    """A count with its noun, such as "2 errors"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=align)


def _triple(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.2f} {100 * found['recall_50']:5.0f} {100 * found['recall_70']:5.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
