"""Which settings suit the objects of a data set, with the numbers that say so.

Two things pull in opposite directions. With large squares each object belongs to a fine level,
whose cells are near its centre: the ideal guided anchor gets better. But an object much smaller
than the smallest square is covered by no approximate anchor, and so gets no cell that learns its
shape. A setting's *score* is the mean over the objects of the ideal guided anchor's IoU, which
counts 0 where no cell learns the shape. Nothing else goes into the advice: no model is trained.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .coco_file import CocoFile
from .fit import AnchorFit, fit
from .objects import Geometry, InputSize, Objects, take_objects

__all__ = ["Trial", "advise", "try_setting"]

BASE_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
INPUT_FACTORS = (0.5, 0.75, 1.5, 2.0)
WIDE_RATIOS = ((0.25, 0.5, 1.0, 2.0, 4.0), (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0))

EQUAL = 0.01
"""Scores that differ by less count as equal: the setting at hand, or the smaller input, is kept."""
WORTH = 0.04
"""What a larger input must add to the score for each doubling of the work."""
LITTLE = 0.02
"""What a smaller input may take away."""
MUCH = 0.05
"""What more aspect ratios must add to the share of objects that they cover well."""
MAX_OBJECTS = 100_000
"""More are sampled: settings differ by far more than the error of so many."""


@dataclass(frozen=True)
class Trial:
    """A setting, and shares of the objects: see the module's description.

    Attributes:
        below, above: smaller than the smallest square, or larger than the largest, by over half an
            octave.
        without_target: covered by no approximate anchor well enough to get a shape target.
        positive: covered so well that every such cell learns the shape.
        ideal: mean IoU of the ideal guided anchor.
        score: the same, 0 where there is no shape target.
    """

    shorter_side: int
    strides: tuple[int, ...]
    base_scale: float
    aspect_ratios: tuple[float, ...]
    below: float
    above: float
    without_target: float
    positive: float
    ideal: float
    score: float


def try_setting(
    objects: Objects, input_size: InputSize, geometry: Geometry, found: AnchorFit | None = None
) -> Trial:
    """Judge a setting by at least one object, resized to ``input_size``; ``found`` is its fit."""
    found = found or fit(objects, geometry)
    octaves = geometry.octaves_of(objects.boxes)
    learned = found.approximate >= geometry.min_positive_iou

    def share(chosen: torch.Tensor) -> float:
        return chosen.double().mean().item()

    return Trial(
        input_size.shorter,
        geometry.strides,
        geometry.base_scale,
        geometry.aspect_ratios,
        share(octaves < -0.5),
        share(octaves >= len(geometry.strides) - 0.5),
        share(~learned),
        share(found.approximate >= geometry.positive_iou),
        share(found.ideal),
        share(found.ideal * learned),
    )


def advise(
    data: CocoFile,
    input_size: InputSize,
    geometry: Geometry,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Try other base scales, strides, input sizes and aspect ratios, one kind after the other.

    Args:
        data: with at least one object.
        input_size, geometry: the settings at hand.
        progress: is given the list of trials to run, which ``tqdm`` may wrap.

    Returns:
        ``current``; under ``base_scale``, ``strides``, ``input`` and ``aspect_ratios`` each the
        trials ``tried`` and the ``best``, at the best base scale for other strides and inputs,
        with ``change``: whether it is worth a change; and ``sentences`` that say it all.
    """
    unsized = input_size.shorter == 0
    factors = (1.0,) if unsized else (1.0, *INPUT_FACTORS)
    sizes = [input_size if f == 1 else input_size.scaled(f) for f in factors]
    scales = sorted({*BASE_SCALES, float(geometry.base_scale)})
    others = [tuple(int(s * f) for s in geometry.strides) for f in (0.5, 2)]
    others = [strides for strides in others if strides[0] >= 4]
    plan = [(size, geometry._replace(base_scale=b)) for size in sizes for b in scales]
    plan += [
        (input_size, geometry._replace(base_scale=b, strides=strides))
        for strides in others
        for b in scales
    ]
    wide = [r for r in WIDE_RATIOS if not set(r) <= set(geometry.aspect_ratios)]
    plan += [(input_size, geometry._replace(aspect_ratios=r)) for r in wide]
    objects: dict[InputSize, Objects] = {}
    trials: list[Trial] = []
    for size, candidate in progress(plan):
        if size not in objects:
            objects[size] = _sample(take_objects(data, size))
        trials.append(try_setting(objects[size], size, candidate))

    count = len(scales)
    at_hand = trials[:count]
    current = next(x for x in at_hand if x.base_scale == geometry.base_scale)
    best_scale = max(at_hand, key=lambda x: x.score)
    inputs = [max(trials[i : i + count], key=lambda x: x.score)
              for i in range(0, len(sizes) * count, count)]  # fmt: skip
    rest = trials[len(sizes) * count :]
    strided = [max(rest[i : i + count], key=lambda x: x.score)
               for i in range(0, len(others) * count, count)]  # fmt: skip
    ratios = rest[len(others) * count :]

    change_scale = best_scale.score > current.score + EQUAL
    best_strides = max([best_scale, *strided], key=lambda x: x.score)
    change_strides = best_strides.score > best_scale.score + EQUAL
    best_input = _choose_input(inputs)
    change_input = best_input.shorter_side != input_size.shorter
    best_ratios = max([current, *ratios], key=lambda x: x.positive)
    if ratios and best_ratios.positive < ratios[0].positive + EQUAL:
        best_ratios = ratios[0]
    change_ratios = best_ratios.positive > current.positive + MUCH
    result: dict[str, Any] = {"current": asdict(current)}
    for name, tried, best, change in (
        ("base_scale", at_hand, best_scale, change_scale),
        ("strides", [best_scale, *strided], best_strides, change_strides),
        ("input", sorted(inputs, key=lambda x: x.shorter_side), best_input, change_input),
        ("aspect_ratios", [current, *ratios], best_ratios, change_ratios),
    ):
        result[name] = {
            "tried": [asdict(x) for x in tried], "best": asdict(best), "change": change
        }  # fmt: skip
    result["sentences"] = [
        _say_scale(current, best_scale, change_scale),
        _say_strides(best_scale, best_strides, strided, change_strides),
        _say_input(inputs, best_input),
        _say_ratios(current, best_ratios, change_ratios),
    ]
    return result


def _sample(objects: Objects) -> Objects:
    if len(objects.boxes) <= MAX_OBJECTS:
        return objects
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(objects.boxes), generator=generator)[:MAX_OBJECTS]
    return Objects(*(x[chosen] for x in objects))


def _choose_input(inputs: list[Trial]) -> Trial:
    """The first is at hand. A larger one must be worth its work, a smaller one cost little."""
    best = inputs[0]
    for trial in sorted(inputs[1:], key=lambda x: x.shorter_side):
        doublings = 2 * math.log2(trial.shorter_side / best.shorter_side)
        if doublings > 0 and trial.score >= best.score + WORTH * doublings:
            best = trial
    if best is inputs[0]:
        for trial in sorted(inputs[1:], key=lambda x: x.shorter_side):
            if trial.shorter_side < best.shorter_side and trial.score > best.score - LITTLE:
                return trial
    return best


def _say_scale(current: Trial, best: Trial, change: bool) -> str:
    here = f"OCTAVE_BASE_SCALE {current.base_scale:g} (squares from {_first(current):g} pixels)"
    numbers = (
        f"{_percent(current.without_target)} of the objects get no shape target, ideal IoU "
        f"{current.ideal:.2f}, score {current.score:.3f}"
    )
    if not change:
        others = "the best that was tried"
        if best != current:
            others = f"the best that was tried, {best.base_scale:g}, has {best.score:.3f}"
        return f"{here} suits: {numbers}; {others}."
    return (
        f"{here}: {numbers}. With {best.base_scale:g} (from {_first(best):g} pixels): "
        f"{_percent(best.without_target)}, {best.ideal:.2f}, score {best.score:.3f}. "
        f"Set MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE {best.base_scale:g}."
    )


def _say_strides(here: Trial, best: Trial, others: list[Trial], change: bool) -> str:
    range_here = f"Strides {here.strides[0]} to {here.strides[-1]}"
    if not change:
        rest = " and ".join(f"{x.strides[0]} to {x.strides[-1]} {x.score:.3f}" for x in others)
        return f"{range_here} suit: score {here.score:.3f} with the best base scale, {rest}."
    levels = "p2 to p6, as GA-RPN has" if best.strides[0] == 4 else "p3 to p7, as GA-RetinaNet has"
    if best.strides[0] not in (4, 8):
        levels = "other levels of the backbone"
    return (
        f"{range_here} reach a score of {here.score:.3f} with the best base scale, strides "
        f"{best.strides[0]} to {best.strides[-1]} {best.score:.3f} with {best.base_scale:g}: "
        f"use {levels}."
    )


def _say_input(inputs: list[Trial], best: Trial) -> str:
    here = inputs[0]
    if len(inputs) == 1:
        return "Images are not resized (INPUT.MIN_SIZE_TRAIN 0): no other size was tried."
    if best is here:
        larger = min((x for x in inputs if x.shorter_side > here.shorter_side),
                     key=lambda x: x.shorter_side)  # fmt: skip
        smaller = max((x for x in inputs if x.shorter_side < here.shorter_side),
                      key=lambda x: x.shorter_side, default=here)  # fmt: skip
        return (
            f"Input of shorter side {here.shorter_side} suits: score {here.score:.3f} with the "
            f"best base scale; {smaller.shorter_side} has {smaller.score:.3f}, "
            f"{larger.shorter_side} {larger.score:.3f} for {_work(larger, here)} times the work."
        )
    verb = (
        "may be worth its work" if best.shorter_side > here.shorter_side else "does nearly as well"
    )
    return (
        f"Input of shorter side {best.shorter_side} {verb}: score {best.score:.3f} with "
        f"OCTAVE_BASE_SCALE {best.base_scale:g}, against {here.score:.3f} at {here.shorter_side}, "
        f"for {_work(best, here)} times the work. Set INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, "
        "MIN_SIZE_TEST and MAX_SIZE_TEST in proportion."
    )


def _say_ratios(current: Trial, best: Trial, change: bool) -> str:
    here = (
        f"{_percent(current.positive)} of the objects are covered so well by an approximate anchor "
        "that all such cells learn their shape, the others at most by the cells that tie for the "
        "best"
    )
    if not change:
        return f"ASPECT_RATIOS {list(current.aspect_ratios)} suit: {here}."
    return (
        f"{here}; with more ASPECT_RATIOS, {_percent(best.positive)}. They only assign targets and "
        "cost nothing in inference: try MODEL.GUIDED_ANCHOR.ASPECT_RATIOS "
        f'"[{", ".join(f"{x:g}" for x in best.aspect_ratios)}]".'
    )


def _first(trial: Trial) -> float:
    return trial.base_scale * trial.strides[0]


def _work(trial: Trial, other: Trial) -> str:
    return f"{(trial.shorter_side / other.shorter_side) ** 2:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
