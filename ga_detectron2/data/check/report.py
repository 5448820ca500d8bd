"""All that is said of a data set, as one dictionary and as text."""

from collections.abc import Callable, Iterable
from typing import Any

from .advice import advise
from .coco_file import CocoFile
from .findings import ERROR, WARNING, Findings
from .fit import AnchorFit, fit
from .gain import judge_gain
from .objects import Geometry, InputSize, take_objects
from .statistics import RATIO_BINS, fit_statistics, level_statistics, size_statistics

__all__ = ["describe_shapes", "format_findings", "format_shapes", "number_of"]

SHOWN_EXAMPLES = 3
KIND_NAMES = {
    "square": "square",
    "three_ratios": "RPN, 3 ratios",
    "approximate": "approximate",
    "ideal": "ideal guided",
}


def describe_shapes(
    data: CocoFile,
    input_size: InputSize,
    geometry: Geometry,
    progress: Callable[[Any], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Sizes, levels, fit, gain and advice, as what can go into a JSON file.

    Args:
        data: the data set.
        input_size, geometry: settings of a model.
        progress: is given iterables over parts of long work, such as ``tqdm`` wraps.

    Returns:
        ``objects``, their number; and if there are any: ``sizes``, ``levels``, ``fit``, ``gain``
        and ``advice``, see the functions that make them.
    """
    objects = take_objects(data, input_size)
    result: dict[str, Any] = {
        "objects": len(objects.boxes),
        "input": input_size._asdict(),
        "geometry": geometry._asdict(),
    }
    if not len(objects.boxes):
        return result
    fitted = fit_statistics(objects, fit(objects, geometry), geometry)
    return {
        **result,
        "sizes": size_statistics(objects),
        "levels": level_statistics(objects, geometry),
        "fit": fitted,
        "gain": judge_gain(fitted),
        "advice": advise(data, input_size, geometry, progress),
    }


def format_findings(findings: Findings) -> str:
    """By kind, the worst first: how many, what, and the first examples."""
    lines = []
    for finding in findings.in_order():
        lines.append(f"{finding.severity:8}{finding.count:6}  {finding.as_dict()['what']}")
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
    """What :func:`describe_shapes` returns, as text with tables in Markdown."""
    if not shapes["objects"]:
        return "There are no objects: nothing can be said of shapes."
    parts = [_sizes(shapes), _levels(shapes), _fit(shapes), _quantiles(shapes), _advice(shapes)]
    return "\n\n".join(parts)


def _sizes(shapes: dict[str, Any]) -> str:
    shorter, longest = shapes["input"].values()
    head = f"{shapes['objects']} objects, in pixels of images "
    head += f"resized to {shorter} (longer side up to {longest})" if shorter else "as they are"
    head += "; so many percent of the objects are not larger than"
    names = {
        "size": "size (root of the area)",
        "shorter_side": "shorter side",
        "longer_side": "longer side",
        "elongation": "longer to shorter",
    }
    quantiles = list(shapes["sizes"]["size"])
    titles = ["median" if q == "0.5" else f"{100 * float(q):g} %" for q in quantiles]
    rows = [
        [names[key], *(_short(value) for value in by.values())]
        for key, by in shapes["sizes"].items()
    ]
    return f"{head}\n\n{_table(['', *titles], rows)}"


def _levels(shapes: dict[str, Any]) -> str:
    levels, total = shapes["levels"], shapes["objects"]
    rows = []
    for level in levels["levels"]:
        side = level["square"]
        rows.append(
            [
                f"{level['stride']}",
                f"{side:g}",
                f"{side / 2**0.5:.0f} to {side * 2**0.5:.0f}",
                f"{level['objects']}",
                _percent(level["objects"] / total),
                *(f"{n}" for n in level["by_ratio"]),
            ]
        )
    head = ["stride", "square", "sizes", "objects", "share", *RATIO_BINS]
    first, last = levels["levels"][0]["square"], levels["levels"][-1]["square"]
    lines = [
        "Objects by the level that training gives them to, and by width to height (3:1+ is from "
        "3:1 on)",
        "",
        _table(head, rows),
        "",
        f"Beyond the squares by over half an octave: {_of(levels['below'], total)} below "
        f"{first / 2**0.5:.0f} pixels, {_of(levels['above'], total)} above {last * 2**0.5:.0f}; "
        "they count for the first and the last level.",
        f"Nearest to the same cell as another object, where only one guided anchor is: "
        f"{_of(levels['sharing_a_cell'], total)}.",
    ]
    return "\n".join(lines)


def _fit(shapes: dict[str, Any]) -> str:
    head = ["width:height", "objects", *KIND_NAMES.values()]
    rows = []
    fitted = shapes["fit"]
    for name, row in [*fitted["by_ratio"].items(), ("all", fitted["all"])]:
        cells = [name, f"{row['objects']}"]
        for kind in AnchorFit._fields:
            found = row[kind]
            cells.append("" if found is None else _triple(found))
        rows.append(cells)
    everything, total = fitted["all"], shapes["objects"]
    low, high = shapes["geometry"]["min_positive_iou"], shapes["geometry"]["positive_iou"]
    return (
        "The best IoU that anchors could have with the objects: mean; percent of objects from IoU "
        f"0.5 on; from 0.7 on\n\n{_table(head, rows)}\n\n"
        f"Shape targets: {_of(everything['without_shape_target'], total)} get none (their best "
        f"approximate anchor is below {low:g}), {_of(everything['forced'], total)} only the cells "
        f"that tie for the best (below {high:g})."
    )


def _quantiles(shapes: dict[str, Any]) -> str:
    everything = shapes["fit"]["all"]
    names = list(everything["ideal"]["quantiles"])
    rows = [
        [title, *(f"{everything[kind]['quantiles'][q]:.2f}" for q in names)]
        for kind, title in KIND_NAMES.items()
    ]
    head = ["quantile of the IoU", *(f"{100 * float(q):g} %" for q in names)]
    return _table(head, rows)


def _advice(shapes: dict[str, Any]) -> str:
    rows = []
    for trial in shapes["advice"]["base_scale"]["tried"]:
        rows.append(
            [
                f"{trial['base_scale']:g}",
                f"{trial['base_scale'] * trial['strides'][0]:g}",
                _percent(trial["below"]),
                _percent(trial["above"]),
                _percent(trial["without_target"]),
                f"{trial['ideal']:.3f}",
                f"{trial['score']:.3f}",
            ]
        )
    head = ["base scale", "first square", "below", "above", "no shape target", "ideal IoU", "score"]
    lines = [
        "Base scales at this input; the score is the ideal IoU, 0 where there is no shape target",
        "",
        _table(head, rows),
        "",
        *(f"- {sentence}" for sentence in shapes["advice"]["sentences"]),
        f"- {shapes['gain']['sentence']}",
    ]
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown, with columns that also line up on a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = " | ".join(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join([line(head), f"| {rule} |", *map(line, rows)])


def _triple(found: dict[str, Any]) -> str:
    shares = (100 * found["recall_50"], 100 * found["recall_70"])
    return f"{found['mean']:.2f} {shares[0]:5.0f} {shares[1]:5.0f}"


def _of(count: int, total: int) -> str:
    return f"{count} ({_percent(count / total)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def number_of(count: int, what: str) -> str:
    """As "2 errors"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
