"""Recommended settings for the objects of a dataset, with the numbers behind them.

Two effects compete. With large squares each object belongs to a fine level, whose cells are near
its centre: the ideal guided anchor improves. But an object much smaller than the smallest square is
covered by no approximate anchor, so that no cell learns its shape. The *score* of a setting is the
mean IoU of the ideal guided anchor over the objects, counted as 0 where no cell learns the shape.
No model is trained.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .fit import fit
from .objects import InputSize, Objects, octaves_of, take_objects, with_changes
from .statistics import positive_iou

__all__ = ["Trial", "advise"]

BASE_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
INPUT_FACTORS = (0.5, 0.75, 1.5, 2.0)
WIDE_RATIOS = ((0.25, 0.5, 1.0, 2.0, 4.0), (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0))

EQUAL = 0.01
"""Scores that differ by less are equal: the present setting is kept."""
WORTH = 0.04
"""Score that a larger input must add for each doubling of the work."""
LITTLE = 0.02
"""Score that a smaller input may cost."""
MUCH = 0.05
"""Share of well covered objects that more aspect ratios must add."""
MAX_OBJECTS = 100_000
"""Number of objects above which a sample is used."""


@dataclass(frozen=True)
class Trial:
    """A setting and how it suits the objects, as shares of them.

    Attributes:
        below, above: over half an octave smaller than the smallest square, or larger than the
            largest.
        without_target: not covered well enough by any approximate anchor to get a shape target.
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

    @property
    def first_square(self) -> float:
        return self.base_scale * self.strides[0]


def advise(
    data: CocoFile,
    input_size: InputSize,
    settings: GuidedAnchoring,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Try other base scales, strides, input sizes and aspect ratios, one after the other.

    Args:
        data: dataset with at least one object.
        input_size, settings: the present ones.
        progress: wraps the list of trials, such as ``tqdm``.

    Returns:
        ``current``; under ``base_scale``, ``strides``, ``input`` and ``aspect_ratios`` each the
        trials ``tried`` (other strides and inputs at their best base scale), the ``best``, and
        ``change``, whether it is worth a change; and ``sentences`` that summarize all.
    """
    scales = sorted({*BASE_SCALES, float(settings.base_scale)})
    strides = [tuple(int(s * f) for s in settings.strides) for f in (0.5, 2)]
    strides = [s for s in strides if s[0] >= 4]
    ratios = [r for r in WIDE_RATIOS if not set(r) <= set(settings.aspect_ratios)]
    plan: list[tuple[str, InputSize, GuidedAnchoring]] = []
    for b in scales:
        scaled = with_changes(settings, base_scale=b)
        plan.append(("base_scale", input_size, scaled))
        plan += [
            ("strides", input_size, with_changes(scaled, strides=s)) for s in strides if s[0] >= 4
        ]
        if input_size.shorter:
            plan += [("input", input_size.scaled(f), scaled) for f in INPUT_FACTORS]
    plan += [("aspect_ratios", input_size, with_changes(settings, aspect_ratios=r)) for r in ratios]

    objects: dict[InputSize, Objects] = {}
    tried: dict[str, list[Trial]] = {
        key: [] for key in ("base_scale", "strides", "input", "aspect_ratios")
    }
    for key, size, candidate in progress(plan):
        if size not in objects:
            objects[size] = _sample(take_objects(data, size))
        tried[key].append(_try(objects[size], size, candidate))

    current = next(x for x in tried["base_scale"] if x.base_scale == settings.base_scale)
    best_scale = max([current, *tried["base_scale"]], key=lambda x: x.score)
    tried["strides"] = [best_scale, *_best_by(tried["strides"], lambda x: x.strides)]
    tried["input"] = [best_scale, *_best_by(tried["input"], lambda x: x.shorter_side)]
    tried["aspect_ratios"].insert(0, current)
    best_strides = max(tried["strides"], key=lambda x: x.score)
    best_input = _choose_input(tried["input"])
    best_ratios = _choose_ratios(tried["aspect_ratios"])
    choices = {
        "base_scale": (best_scale, best_scale.score > current.score + EQUAL),
        "strides": (best_strides, best_strides.score > best_scale.score + EQUAL),
        "input": (best_input, best_input.shorter_side != input_size.shorter),
        "aspect_ratios": (best_ratios, best_ratios.positive > current.positive + MUCH),
    }
    tried["input"].sort(key=lambda x: x.shorter_side)
    result: dict[str, Any] = {"current": asdict(current)}
    for key, (best, change) in choices.items():
        result[key] = {
            "tried": [asdict(x) for x in tried[key]],
            "best": asdict(best),
            "change": change,
        }
    result["sentences"] = _sentences(current, best_scale, choices)
    return result


def _try(objects: Objects, input_size: InputSize, settings: GuidedAnchoring) -> Trial:
    found = fit(objects, settings)
    octaves = octaves_of(objects.boxes, settings)
    learned = found.approximate >= settings.shape_rule.min_positive_iou

    def share(chosen: torch.Tensor) -> float:
        return chosen.double().mean().item()

    return Trial(
        input_size.shorter,
        tuple(settings.strides),
        settings.base_scale,
        tuple(settings.aspect_ratios),
        share(octaves < -0.5),
        share(octaves >= len(settings.strides) - 0.5),
        share(~learned),
        share(found.approximate >= positive_iou(settings)),
        share(found.ideal),
        share(found.ideal * learned),
    )


def _sample(objects: Objects) -> Objects:
    if len(objects.boxes) <= MAX_OBJECTS:
        return objects
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(objects.boxes), generator=generator)[:MAX_OBJECTS]
    return Objects(*(x[chosen] for x in objects))


def _best_by(trials: list[Trial], key: Callable[[Trial], Any]) -> list[Trial]:
    """The best trial of each group, in the order of the groups' first trials."""
    best: dict[Any, Trial] = {}
    for trial in trials:
        best[key(trial)] = max(best.get(key(trial), trial), trial, key=lambda x: x.score)
    return list(best.values())


def _choose_input(trials: list[Trial]) -> Trial:
    """The first is the present one. A larger one must be worth its work, a smaller cost little."""
    present, *others = trials
    best = present
    for trial in sorted(others, key=lambda x: x.shorter_side):
        doublings = 2 * math.log2(trial.shorter_side / best.shorter_side)
        if doublings > 0 and trial.score >= best.score + WORTH * doublings:
            best = trial
    if best is present:
        smaller = [x for x in others if x.shorter_side < present.shorter_side]
        enough = [x for x in smaller if x.score > present.score - LITTLE]
        best = min(enough, default=present, key=lambda x: x.shorter_side)
    return best


def _choose_ratios(trials: list[Trial]) -> Trial:
    """The best; of nearly equal ones that with fewer ratios."""
    best = max(trials, key=lambda x: x.positive)
    return next(x for x in trials if x.positive > best.positive - EQUAL)


def _sentences(
    current: Trial, best_scale: Trial, choices: dict[str, tuple[Trial, bool]]
) -> list[str]:
    """One sentence on each kind of setting: that it suits, or what to set instead."""
    scale, strides, size, ratios = (choices[key][0] for key in choices)
    work = (size.shorter_side / max(current.shorter_side, 1)) ** 2
    first, last = strides.strides[0], strides.strides[-1]
    levels = {4: "p2 to p6, as GA-RPN has", 8: "p3 to p7, as GA-RetinaNet has"}
    texts = {
        "base_scale": (
            f"OCTAVE_BASE_SCALE {current.base_scale:g} (squares from {current.first_square:g} "
            f"pixels; {100 * current.without_target:.1f} % of the objects without a shape target)",
            f"score {current.score:.3f}",
            f"MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE {scale.base_scale:g} (from "
            f"{scale.first_square:g} pixels; {100 * scale.without_target:.1f} %): "
            f"{scale.score:.3f}",
        ),
        "strides": (
            f"Strides {current.strides[0]} to {current.strides[-1]}",
            f"score {best_scale.score:.3f} with the best base scale",
            f"strides {first} to {last} ({levels.get(first, 'other levels')}) with "
            f"OCTAVE_BASE_SCALE {strides.base_scale:g}: {strides.score:.3f}",
        ),
        "input": (
            f"Input of shorter side {current.shorter_side or 'as it is'}",
            f"score {best_scale.score:.3f} with the best base scale",
            f"shorter side {size.shorter_side} (INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, "
            f"MIN_SIZE_TEST and MAX_SIZE_TEST in proportion) with OCTAVE_BASE_SCALE "
            f"{size.base_scale:g}, for {work:.2g} times the work: {size.score:.3f}",
        ),
        "aspect_ratios": (
            f"ASPECT_RATIOS {_listed(current.aspect_ratios)}",
            f"{100 * current.positive:.1f} % of the objects are learned by every cell nearby",
            f'MODEL.GUIDED_ANCHOR.ASPECT_RATIOS "{_listed(ratios.aspect_ratios)}" (they serve only '
            f"to assign targets and cost nothing in inference): {100 * ratios.positive:.1f} %",
        ),
    }
    return [
        f"{what}: {numbers}. Set {better}." if choices[key][1] else f"{what} suits: {numbers}."
        for key, (what, numbers, better) in texts.items()
    ]


def _listed(ratios: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{x:g}' for x in ratios)}]"
