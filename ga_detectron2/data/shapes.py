"""Drawn images: five kinds of shapes, unusual aspect ratios, textured backgrounds.

An image depends only on a seed and its index, bit for bit on every machine: random numbers come
from PCG64 through :meth:`numpy.random.Generator.random` and ``bytes``, and pixels are computed in
integers. Increase :data:`DRAWING_VERSION` with every change of the images.
"""

import colorsys
import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CLASS_NAMES", "DRAWING_VERSION", "draw_image"]

DRAWING_VERSION = 1
"""Part of the name of the folder with the images; a new number leads to new images."""

CLASS_NAMES = ("bar", "ellipse", "triangle", "cross", "ring")
"""Class names; category ids of the annotations are 1, 2, ... in this order."""

# Lengths are in pixels; a shape's size is the square root of its box's area.
IMAGE_SIZE, IMAGE_SIZE_JITTER = 192, 32
"""Height and width are drawn independently from the one plus or minus the other."""
MAX_OBJECTS = 6
EMPTY_FRACTION = 0.05
"""Share of images without a shape; the others hold 1 to ``MAX_OBJECTS``."""
MIN_SIZE, MAX_SIZE_FRACTION = 8.0, 0.5
"""Sizes of the smallest shape, and of the largest as a share of the image's shorter side."""
SIZE_SKEW = 0.6
"""The logarithm of the size lies at ``u ** SIZE_SKEW`` of its range, u uniform in [0, 1): at 1
every octave is as frequent as any other, below 1 tiny shapes are rarer."""
MAX_ASPECT_RATIO = 8.0
"""Ratios of width to height reach from 1/this to this, log-uniformly, as far as the limits of the
sides let a shape of its size."""
MIN_SIDE, MAX_SIDE_FRACTION = 6.0, 0.9
"""Limits of a box's sides; the upper one as a share of the image's side."""
MIN_VISIBLE = 0.8
"""A shape is placed only where every earlier one keeps this share of its pixels visible, so that
no shape is mostly hidden and all are annotated."""
PLACEMENTS = 20
"""Positions tried before a shape is left out."""
HUE_JITTER = 0.06
"""Variation of the hue of a class, as a share of the colour circle."""
TEXTURE, NOISE = 28, 10
"""Amplitudes of the background's blotches and of the noise on every pixel, in grey levels."""

Polygon = list[tuple[int, int]]
"""Vertices (x, y) in quarters of a pixel, so that edges can be tested in integers."""

_UNIT = 4  # quarters in a pixel
_ELLIPSE_VERTICES = 40


def draw_image(seed: int, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw one image, independently of all others.

    Returns:
        ``image``: (H, W, 3) uint8, BGR; ``annotations``: one dict a shape, in the order of
        drawing (a later one lies on top), with COCO's ``category_id``, ``bbox``
        (x, y, width, height in whole pixels), ``area`` (square pixels), ``segmentation`` (polygons
        of the whole shape, including hidden parts) and ``iscrowd``; no ids.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    shortest, choices = IMAGE_SIZE - IMAGE_SIZE_JITTER, 2 * IMAGE_SIZE_JITTER + 1
    height, width = (shortest + _below(rng, choices) for _ in range(2))
    image, bright = _draw_background(rng, height, width)

    annotations: list[dict[str, Any]] = []
    is_empty = rng.random() < EMPTY_FRACTION
    num_objects = 0 if is_empty else 1 + _below(rng, MAX_OBJECTS)
    # The visible shape of each pixel: its index from 1, 0 for the background.
    seen = np.zeros((height, width), np.int64)
    pixels_of = [0]
    for _ in range(num_objects):
        class_index = _below(rng, len(CLASS_NAMES))
        box_width, box_height = _draw_box_size(rng, height, width)
        polygons = _OUTLINES[CLASS_NAMES[class_index]](rng, box_width, box_height)
        mask = _fill(polygons, box_width, box_height)
        for _ in range(PLACEMENTS):
            x, y = _below(rng, width - box_width + 1), _below(rng, height - box_height + 1)
            window = np.s_[y : y + box_height, x : x + box_width]
            after = seen.copy()
            after[window][mask] = len(pixels_of)
            visible = np.bincount(after.ravel(), minlength=len(pixels_of) + 1)[1:-1]
            if np.all(visible >= MIN_VISIBLE * np.array(pixels_of[1:])):
                break
        else:
            continue
        seen = after
        pixels_of.append(int(mask.sum()))
        _paint(rng, image[window], mask, class_index, dark=bright)
        annotations.append(
            {
                "category_id": class_index + 1,
                "bbox": [x, y, box_width, box_height],
                "area": sum(_area(polygon) for polygon in polygons),
                "segmentation": [
                    [v for px, py in polygon for v in (x + px / _UNIT, y + py / _UNIT)]
                    for polygon in polygons
                ],
                "iscrowd": 0,
            }
        )

    noise = _noise(rng, image.shape, NOISE)
    return np.clip(image + noise, 0, 255).astype(np.uint8), annotations


# -- Randomness ------------------------------------------------------------------------------------


def _below(rng: np.random.Generator, n: int) -> int:
    """An integer from 0 to n - 1."""
    return int(rng.random() * n)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _bytes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(rng.bytes(math.prod(shape)), np.uint8).reshape(shape)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], amplitude: int) -> np.ndarray:
    """Integers from -amplitude to amplitude, int32."""
    return _bytes(rng, shape).astype(np.int32) * (2 * amplitude + 1) // 256 - amplitude


# -- Geometry of the shapes ------------------------------------------------------------------------


def _draw_box_size(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    """Width and height of a box, in whole pixels."""
    max_size = MAX_SIZE_FRACTION * min(height, width)
    position = float(rng.random()) ** SIZE_SKEW
    size = MIN_SIZE * (max_size / MIN_SIZE) ** position
    # ratio = (width / size)^2 = (size / height)^2; each side has a lower and an upper limit
    most = min(
        MAX_ASPECT_RATIO,
        (size / MIN_SIDE) ** 2,
        (MAX_SIDE_FRACTION * width / size) ** 2,
    )
    least = max(
        1 / MAX_ASPECT_RATIO,
        (MIN_SIDE / size) ** 2,
        (size / (MAX_SIDE_FRACTION * height)) ** 2,
    )
    root = math.exp(_between(rng, math.log(least), math.log(most)) / 2)
    return round(size * root), round(size / root)


def _bar(rng: np.random.Generator, width: int, height: int) -> list[Polygon]:
    w, h = width * _UNIT, height * _UNIT
    return [[(0, 0), (w, 0), (w, h), (0, h)]]


def _ellipse(rng: np.random.Generator, width: int, height: int) -> list[Polygon]:
    return [_ellipse_vertices(width, height, 1.0)]


def _triangle(rng: np.random.Generator, width: int, height: int) -> list[Polygon]:
    """Based on one of the box's shorter sides, with its tip on the opposite one.

    On a longer side the angles at the base could be too sharp for a pixel, and the box would be
    larger than the visible triangle.
    """
    w, h = width * _UNIT, height * _UNIT
    short = min(width, height)
    # The middle of a pixel, so that even a thin tip reaches the last row of pixels.
    tip = (short // 4 + _below(rng, short - 2 * (short // 4))) * _UNIT + _UNIT // 2
    turned = rng.random() < 0.5
    if height >= width:
        return [[(0, 0), (w, 0), (tip, h)] if turned else [(0, h), (tip, 0), (w, h)]]
    return [[(0, 0), (w, tip), (0, h)] if turned else [(w, 0), (w, h), (0, tip)]]


def _cross(rng: np.random.Generator, width: int, height: int) -> list[Polygon]:
    """An upright and a crossbar, each about a third of the box."""
    w, h = width * _UNIT, height * _UNIT
    x_thick, y_thick = (max(2, round(side * 0.32)) for side in (width, height))
    x1, y1 = (width - x_thick) // 2 * _UNIT, (height - y_thick) // 2 * _UNIT
    x2, y2 = x1 + x_thick * _UNIT, y1 + y_thick * _UNIT
    right = [(x2, 0), (x2, y1), (w, y1), (w, y2), (x2, y2), (x2, h)]
    left = [(x1, h), (x1, y2), (0, y2), (0, y1), (x1, y1), (x1, 0)]
    return [right + left]


def _ring(rng: np.random.Generator, width: int, height: int) -> list[Polygon]:
    """Two halves, because COCO's polygons have no holes."""
    outer, inner = _ellipse_vertices(width, height, 1.0), _ellipse_vertices(width, height, 0.5)
    half = _ELLIPSE_VERTICES // 2
    lower = outer[: half + 1] + inner[half::-1]
    upper = outer[half:] + outer[:1] + inner[:1] + inner[: half - 1 : -1]
    return [lower, upper]


_OUTLINES: dict[str, Callable[[np.random.Generator, int, int], list[Polygon]]] = {
    "bar": _bar,
    "ellipse": _ellipse,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}


def _ellipse_vertices(width: int, height: int, share: float) -> Polygon:
    """Vertices of an ellipse around the box's centre, scaled by ``share``."""
    angles = [2 * math.pi * i / _ELLIPSE_VERTICES for i in range(_ELLIPSE_VERTICES)]
    a, b = width * _UNIT // 2, height * _UNIT // 2
    return [
        (a + round(a * share * math.cos(angle)), b + round(b * share * math.sin(angle)))
        for angle in angles
    ]


def _edges(polygon: Polygon) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return list(zip(polygon, polygon[1:] + polygon[:1], strict=True))


def _area(polygon: Polygon) -> float:
    """Area of a polygon in square pixels."""
    doubled = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in _edges(polygon))
    return abs(doubled) / (2 * _UNIT**2)


def _fill(polygons: list[Polygon], width: int, height: int) -> np.ndarray:
    """The pixels of a box whose centre lies inside: (height, width) bool.

    A pixel is inside if an odd number of edges lies to the left of its centre. Computed in
    integers, without the border of one pixel that cv2.fillPoly adds.
    """
    crossings = np.zeros((height, width + 1), np.int64)
    for polygon in polygons:
        for start, end in _edges(polygon):
            (x1, y1), (x2, y2) = sorted((start, end), key=lambda vertex: vertex[1])
            if y1 == y2:
                continue
            # Rows and columns of centres, which lie at _UNIT * i + _UNIT / 2.
            half = _UNIT // 2
            rows = np.arange(-((half - y1) // _UNIT), -((half - y2) // _UNIT))
            x_times_dy = (x1 - half) * (y2 - y1) + (rows * _UNIT + half - y1) * (x2 - x1)
            columns = -(-x_times_dy // (_UNIT * (y2 - y1)))
            np.add.at(crossings, (rows, columns), 1)
    return np.cumsum(crossings, axis=1)[:, :width] % 2 == 1


# -- Colour and texture ----------------------------------------------------------------------------


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """The colour in grey levels, int32; hue, saturation and value are in [0, 1]."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return np.array([round(255 * c) for c in (b, g, r)], np.int32)


def _stripes(rng: np.random.Generator, height: int, width: int, checks: bool) -> np.ndarray:
    """Stripes or checks of random direction and width: (height, width) of -1 and 1."""
    y, x = np.mgrid[:height, :width]
    along, across = _below(rng, 7) - 3, _below(rng, 3) + 1
    period = (3 + _below(rng, 6)) * (abs(along) + across)
    pattern = (along * x + across * y) // period
    if checks:
        pattern = pattern + (across * x - along * y) // period
    return pattern % 2 * 2 - 1


def _draw_background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, bool]:
    """A canvas (height, width, 3) int32, and whether it is a bright one."""
    import cv2  # Needed only where images are drawn.

    bright = rng.random() < 0.5
    value = _between(rng, 0.72, 0.95) if bright else _between(rng, 0.15, 0.35)
    image = np.empty((height, width, 3), np.int32)
    image[:] = _bgr(rng.random(), _between(rng, 0.0, 0.3), value)
    # Blotches of two sizes: coarse ones in colour, finer ones in grey.
    for cells, channels, amplitude in ((4, 3, TEXTURE), (16, 1, TEXTURE // 2)):
        coarse = _bytes(rng, (cells, cells, channels))
        # OpenCV's "exact" interpolation is the same on every processor.
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        blotches = fine.reshape(height, width, channels).astype(np.int32) - 128
        image += blotches * amplitude // 128
    if rng.random() < 0.5:
        amplitude = TEXTURE // 4
        image += amplitude * _stripes(rng, height, width, rng.random() < 0.3)[:, :, None]
    return image, bright


def _paint(
    rng: np.random.Generator,
    canvas: np.ndarray,
    mask: np.ndarray,
    class_index: int,
    dark: bool,
) -> None:
    """Paint one shape into ``canvas``, the (height, width, 3) part of the image under its box."""
    import cv2  # Needed only where images are drawn.

    height, width = mask.shape
    hue = class_index / len(CLASS_NAMES) + _between(rng, -HUE_JITTER, HUE_JITTER)
    value = _between(rng, 0.25, 0.45) if dark else _between(rng, 0.8, 1.0)
    paint = np.empty((height, width, 3), np.int32)
    paint[:] = _bgr(hue, _between(rng, 0.75, 1.0), value)
    # Light from one side.
    strength = _below(rng, 61) - 30
    paint += (strength * (2 * np.arange(width) - width) // width)[None, :, None]
    if rng.random() < 0.5:
        stripes = _stripes(rng, height, width, rng.random() < 0.5)
        paint += 18 * stripes[:, :, None]
    if min(height, width) >= 16:
        # A darker rim separates a shape from one of the same colour beneath.
        padded = np.pad(mask.astype(np.uint8), 1)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
        rim = mask & ~inner
        paint[rim] = paint[rim] * 5 // 8
    canvas[mask] = paint[mask]
