"""Recommended settings for the objects of a dataset, with the numbers behind them.

Two effects compete. With large squares each object belongs to a fine level, whose cells are near
its centre: the ideal guided anchor improves. But an object much smaller than the smallest square is
covered by no approximate anchor, so that no cell learns its shape. The *score* of a setting is the
mean IoU of the ideal guided anchor over the objects, counted as 0 where no cell learns the shape.
No model is trained.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .fit import fit
from .objects import InputSize, Objects, take_objects, with_changes

__all__ = ["Advice", "Trial", "advise", "try_settings"]

BASE_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
INPUT_FACTORS = (0.5, 0.75, 1.5, 2.0)

MARGIN = 0.01
"""The present setting is kept unless another is better by this score or share."""
WORTH, COST = 0.04, 0.01
"""Score that a larger input or finer strides must add for each doubling of the work, and that a
smaller input may lose for each halving."""
ROUNDING = 1.02
"""Factor up to which a resized image is not larger than the image: sizes are rounded."""
MAX_OBJECTS = 100_000
"""Number of objects above which a sample is used."""


@dataclass(frozen=True)
class Trial:
    """A setting and how it suits the objects, as shares of them.

    Attributes:
        without_target: not covered well enough by any approximate anchor to get a shape target.
        ideal: mean IoU of the ideal guided anchor.
        score: the same, 0 where there is no shape target.
    """

    shorter_side: int
    strides: tuple[int, ...]
    base_scale: float
    without_target: float
    ideal: float
    score: float


@dataclass(frozen=True)
class Advice:
    """Recommended settings.

    Attributes:
        base_scales: trials of base scales, rising, with all else as it is.
        best: for ``base_scale``, ``strides`` and ``input`` the recommended trial; strides and input
            are tried at all base scales. Aspect ratios are left alone: more of them did not help in
            training (docs/steel_defects.md).
        sentences: one on each of these, that the present setting suits or what to set.
    """

    base_scales: list[Trial]
    best: dict[str, Trial]
    sentences: list[str]


def advise(
    data: CocoFile,
    input_size: InputSize,
    settings: GuidedAnchoring,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Advice:
    """Try other base scales, strides and input sizes, one after the other.

    Args:
        data: dataset with at least one object.
        input_size, settings: the present ones.
        progress: wraps the list of strides and input sizes, such as ``tqdm``.
    """
    scales = [settings.base_scale, *(b for b in BASE_SCALES if b != settings.base_scale)]
    strides = [tuple(int(s * f) for s in settings.strides) for f in (0.5, 2)]
    inputs = _other_inputs(data, input_size) if input_size.shorter else []
    options = [(input_size, settings.strides), *((input_size, s) for s in strides if s[0] >= 4)]
    options += [(size, settings.strides) for size in inputs]
    groups = []
    for size, s in progress(options):
        objects = _sample(take_objects(data, size))
        candidates = [with_changes(settings, strides=s, base_scale=b) for b in scales]
        groups.append([try_settings(objects, size, x) for x in candidates])

    current = groups[0][0]
    others = [max(group, key=lambda x: x.score) for group in groups[1:]]
    scale = _recommend(current, groups[0])
    best = {
        "base_scale": scale,
        "strides": _recommend(
            scale,
            [x for x in others if x.strides != current.strides],
            lambda x: x.score - WORTH * max(0.0, 2 * math.log2(current.strides[0] / x.strides[0])),
        ),
        "input": _recommend(
            scale,
            [x for x in others if x.shorter_side != current.shorter_side],
            lambda x: x.score - _price(x, current),
            margin=0,
        ),
    }
    present = {**dict.fromkeys(best, scale), "base_scale": current}
    sentences = [_sentence(key, present[key], trial) for key, trial in best.items()]
    return Advice(sorted(groups[0], key=lambda x: x.base_scale), best, sentences)


def try_settings(objects: Objects, input_size: InputSize, settings: GuidedAnchoring) -> Trial:
    """How settings suit objects at an input size."""
    found = fit(objects, settings)
    learned = found.approximate >= settings.shape_rule.min_positive_iou
    shares = (~learned, found.ideal, found.ideal * learned)
    return Trial(
        input_size.shorter,
        tuple(settings.strides),
        settings.base_scale,
        *(share.double().mean().item() for share in shares),
    )


def _other_inputs(data: CocoFile, present: InputSize) -> list[InputSize]:
    """Smaller input sizes, and larger ones up to the images' own.

    Enlarging images did not help where it was tried (docs/steel_defects.md).
    """
    factors = [*INPUT_FACTORS, 1 / _enlargement(data, present)]
    sizes = {present.scaled(f) for f in factors} - {present}
    return sorted(
        x for x in sizes if x.shorter < present.shorter or _enlargement(data, x) <= ROUNDING
    )


def _enlargement(data: CocoFile, size: InputSize) -> float:
    """Median factor by which images are resized."""
    sizes = data.image_sizes.tolist()
    return statistics.median(size.resize(h, w)[0] / h for w, h in sizes)


def _sample(objects: Objects) -> Objects:
    if len(objects.boxes) <= MAX_OBJECTS:
        return objects
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(objects.boxes), generator=generator)[:MAX_OBJECTS]
    return Objects(*(x[chosen] for x in objects))


def _recommend(
    present: Trial,
    others: list[Trial],
    value: Callable[[Trial], float] = lambda x: x.score,
    margin: float = MARGIN,
) -> Trial:
    best = max(others, key=value, default=present)
    return best if value(best) > value(present) + margin else present


def _price(trial: Trial, present: Trial) -> float:
    """Score that the work of an input size must be worth."""
    if trial == present:
        return 0.0
    doublings = 2 * math.log2(trial.shorter_side / present.shorter_side)
    return doublings * (WORTH if doublings > 0 else COST)


def _sentence(key: str, present: Trial, best: Trial) -> str:
    setting, number = _in_words(key, present)
    if best == present:
        return f"Keep {setting}: score {number}."
    better, more = _in_words(key, best)
    if key == "input":
        better += f", {(best.shorter_side / present.shorter_side) ** 2:.2g} times the work"
    if key == "strides":
        better += f", {(present.strides[0] / best.strides[0]) ** 2:.2g} times as many cells"
    return f"Set {better}: score {more} instead of {number}."


def _in_words(key: str, trial: Trial) -> tuple[str, str]:
    """A setting, and the number that speaks for it."""
    scale, score = f"OCTAVE_BASE_SCALE {trial.base_scale:g}", f"{trial.score:.3f}"
    if key == "base_scale":
        return f"MODEL.GUIDED_ANCHOR.{scale}", score
    if key == "strides":
        levels = {4: " (p2 to p6, as in GA-RPN)", 8: " (p3 to p7, as in GA-RetinaNet)"}
        first, last = trial.strides[0], trial.strides[-1]
        return f"strides {first} to {last}{levels.get(first, '')} with {scale}", score
    size = trial.shorter_side or "as it is"
    return f"INPUT.MIN_SIZE_TRAIN {size}, other sizes in proportion, with {scale}", score
