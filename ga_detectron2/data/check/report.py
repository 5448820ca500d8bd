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
from .statistics import fit_by_ratio, objects_by_level, objects_sharing_a_cell

__all__ = ["describe_shapes", "format_findings", "format_shapes", "number_of"]

SHOWN_EXAMPLES = 3
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
    fitted = fit_by_ratio(objects, fit(objects, settings))
    return {
        **result,
        "levels": objects_by_level(objects, settings),
        "sharing_a_cell": objects_sharing_a_cell(objects, settings),
        "fit": fitted,
        "gain": _describe_gain(fitted[-1]),
        "advice": asdict(advise(data, input_size, settings, progress)),
    }


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
    if not shapes["objects"]:
        return "There are no objects: nothing can be said about shapes."
    shorter, longest = shapes["input"].values()
    resized = f"resized to {shorter} (longer side up to {longest})" if shorter else "as they are"
    scales = [
        {
            "base scale": trial["base_scale"],
            "no shape target": trial["without_target"],
            "ideal IoU": trial["ideal"],
            "score": trial["score"],
        }
        for trial in shapes["advice"]["base_scales"]
    ]
    parts = [
        f"{number_of(shapes['objects'], 'object')} by level in training and by width to height "
        f"(3:1+ is from 3:1 to 6:1), in pixels of images {resized}",
        _table(shapes["levels"]),
        "Objects that share the nearest cell, which has one guided anchor, with another: "
        f"{shapes['sharing_a_cell']}.",
        "Best IoU that anchors could have with the objects: mean; percentage of objects from IoU "
        "0.5; from 0.7",
        _table(shapes["fit"]),
        "Base scales at this input; the score is the ideal IoU, 0 without a shape target",
        _table(scales),
        "\n".join(f"- {x}" for x in [*shapes["advice"]["sentences"], shapes["gain"]]),
    ]
    return "\n\n".join(parts)


def number_of(count: int, what: str) -> str:
    """A count with its noun, such as "2 errors"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _describe_gain(fitted: dict[str, Any]) -> str:
    """Compare the ideal guided anchor with fixed ones, over all objects."""
    kinds = ("ideal guided", "approximate", "RPN, 3 ratios")
    ideal, fixed, rpn = (fitted[kind][2] for kind in kinds)
    gain = next(words for least, words in GAINS if ideal - fixed >= least)
    return (
        f"Guided anchors promise {gain}: an ideal guided anchor reaches IoU 0.7 with "
        f"{100 * ideal:.0f} % of the objects, the approximate anchors as fixed ones with "
        f"{100 * fixed:.0f} %, RPN's three ratios with {100 * rpn:.0f} %."
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    texts = [[_cell(value) for value in row.values()] for row in rows]
    align = ["left", *["right"] * (len(rows[0]) - 1)]
    return tabulate(texts, list(rows[0]), tablefmt="pipe", disable_numparse=True, colalign=align)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        mean, *shares = value
        return f"{mean:.2f}" + "".join(f" {100 * share:5.0f}" for share in shares)
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else f"{value:.3f}"
    return "" if value is None else str(value)
