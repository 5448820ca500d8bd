"""The findings and statistics of a dataset as one dictionary and as text."""

from collections.abc import Callable, Iterable
from typing import Any

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import ERROR, WARNING, Findings
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .advice import advise
from .fit import fit
from .objects import InputSize, take_objects
from .statistics import (
    RATIO_BINS,
    fit_statistics,
    judge_gain,
    level_statistics,
    positive_iou,
    size_statistics,
)

__all__ = ["describe_shapes", "format_findings", "format_shapes", "number_of"]

SHOWN_EXAMPLES = 3
KIND_NAMES = {
    "square": "square",
    "three_ratios": "RPN, 3 ratios",
    "approximate": "approximate",
    "ideal": "ideal guided",
}
SIZE_NAMES = {
    "size": "size (root of the area)",
    "shorter_side": "shorter side",
    "longer_side": "longer side",
    "elongation": "longer to shorter",
}


def describe_shapes(
    data: CocoFile,
    input_size: InputSize,
    settings: GuidedAnchoring,
    progress: Callable[[Any], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Sizes, levels, fit, gain and advice, as values for JSON.

    Args:
        data: the dataset.
        input_size, settings: a model's input size and settings.
        progress: wraps iterables over long work, such as ``tqdm``.

    Returns:
        ``objects``, their number; and if there are any: ``sizes``, ``levels``, ``fit``, ``gain``
        and ``advice``, see the functions that compute them.
    """
    objects = take_objects(data, input_size)
    result: dict[str, Any] = {
        "objects": len(objects.boxes),
        "input": input_size._asdict(),
        "geometry": {
            "strides": list(settings.strides),
            "base_scale": settings.base_scale,
            "scales_per_octave": settings.scales_per_octave,
            "aspect_ratios": list(settings.aspect_ratios),
            "min_positive_iou": settings.shape_rule.min_positive_iou,
            "positive_iou": positive_iou(settings),
        },
    }
    if not len(objects.boxes):
        return result
    fitted = fit_statistics(objects, fit(objects, settings), settings)
    return {
        **result,
        "sizes": size_statistics(objects),
        "levels": level_statistics(objects, settings),
        "fit": fitted,
        "gain": judge_gain(fitted),
        "advice": advise(data, input_size, settings, progress),
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
    return "\n\n".join([_sizes(shapes), _levels(shapes), _fit(shapes), _advice(shapes)])


def number_of(count: int, what: str) -> str:
    """A count with its noun, such as "2 errors"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _sizes(shapes: dict[str, Any]) -> str:
    shorter, longest = shapes["input"].values()
    resized = f"resized to {shorter} (longer side up to {longest})" if shorter else "as they are"
    quantiles = list(shapes["sizes"]["size"])
    titles = ["median" if q == "0.5" else f"{100 * float(q):g} %" for q in quantiles]
    rows = [
        [SIZE_NAMES[key], *(f"{x:.1f}" if x < 10 else f"{x:.0f}" for x in by.values())]
        for key, by in shapes["sizes"].items()
    ]
    return (
        f"Quantiles of {number_of(shapes['objects'], 'object')}, in pixels of images {resized}"
        f"\n\n{_table(['', *titles], rows)}"
    )


def _levels(shapes: dict[str, Any]) -> str:
    levels, total = shapes["levels"], shapes["objects"]
    rows = [
        [
            f"{x['stride']}",
            f"{x['square']:g}",
            f"{x['square'] / 2**0.5:.0f} to {x['square'] * 2**0.5:.0f}",
            f"{x['objects']}",
            _percent(x["objects"] / total),
            *(f"{n}" for n in x["by_ratio"]),
        ]
        for x in levels["levels"]
    ]
    head = ["stride", "square", "sizes", "objects", "share", *RATIO_BINS]
    first, last = levels["levels"][0]["square"], levels["levels"][-1]["square"]
    return (
        "Objects by level in training and by width to height (3:1+ is from 3:1 to 6:1)\n\n"
        f"{_table(head, rows)}\n\n"
        f"Over half an octave from any square, counted on the first and the last level: "
        f"{_of(levels['below'], total)} below {first / 2**0.5:.0f} pixels, "
        f"{_of(levels['above'], total)} above {last * 2**0.5:.0f}.\n"
        "Sharing the nearest cell, which has one guided anchor, with another object: "
        f"{_of(levels['sharing_a_cell'], total)}."
    )


def _fit(shapes: dict[str, Any]) -> str:
    fitted, total = shapes["fit"], shapes["objects"]
    rows = [
        [name, f"{row['objects']}", *(_triple(row[kind]) for kind in KIND_NAMES)]
        for name, row in [*fitted["by_ratio"].items(), ("all", fitted["all"])]
    ]
    head = ["width:height", "objects", *KIND_NAMES.values()]
    low, high = shapes["geometry"]["min_positive_iou"], shapes["geometry"]["positive_iou"]
    return (
        "Best IoU that anchors could have with the objects: mean; percentage of objects from IoU "
        f"0.5; from 0.7\n\n{_table(head, rows)}\n\n"
        f"Shape targets: {_of(fitted['all']['without_shape_target'], total)} get none (their best "
        f"approximate anchor is below {low:g}), {_of(fitted['all']['forced'], total)} only from "
        f"the cells that tie for the best (below {high:g})."
    )


def _advice(shapes: dict[str, Any]) -> str:
    rows = [
        [
            f"{x['base_scale']:g}",
            f"{x['base_scale'] * x['strides'][0]:g}",
            *(_percent(x[key]) for key in ("below", "above", "without_target")),
            f"{x['ideal']:.3f}",
            f"{x['score']:.3f}",
        ]
        for x in shapes["advice"]["base_scale"]["tried"]
    ]
    head = ["base scale", "first square", "below", "above", "no shape target", "ideal IoU", "score"]
    sentences = [*shapes["advice"]["sentences"], shapes["gain"]["sentence"]]
    return (
        "Base scales at this input; the score is the ideal IoU, 0 without a shape target\n\n"
        + _table(head, rows)
        + "\n\n"
        + "\n".join(f"- {sentence}" for sentence in sentences)
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = " | ".join(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join([line(head), f"| {rule} |", *map(line, rows)])


def _triple(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.2f} {100 * found['recall_50']:5.0f} {100 * found['recall_70']:5.0f}"


def _of(count: int, total: int) -> str:
    return f"{count} ({_percent(count / total)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
