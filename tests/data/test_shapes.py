"""The drawn shapes against pycocotools and OpenCV, and against what they should be like."""

import hashlib
import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from ga_detectron2.data import shapes
from ga_detectron2.data.shapes import CLASS_NAMES, draw_image

SEED = 7


@pytest.fixture(scope="module")
def drawn():
    return [draw_image(SEED, index) for index in range(200)]


@pytest.fixture(scope="module")
def annotations(drawn):
    return [a for _, objects in drawn for a in objects]


def test_pixels_and_annotations_are_the_same_everywhere(drawn):
    """To change them, increase DRAWING_VERSION and update the digests."""
    pixels, annotations = hashlib.sha256(), hashlib.sha256()
    for image, objects in drawn[:24]:
        pixels.update(repr(image.shape).encode() + image.tobytes())
        annotations.update(json.dumps(objects, sort_keys=True).encode())
    assert (shapes.DRAWING_VERSION, pixels.hexdigest()[:16], annotations.hexdigest()[:16]) == (
        1,
        "5db22f142cc0ff66",
        "85ba111aa8e5190c",
    )


def test_boxes_and_areas_are_those_of_the_polygons(annotations):
    for a in annotations:
        vertices = [np.reshape(polygon, (-1, 2)) for polygon in a["segmentation"]]
        together = np.concatenate(vertices)
        low, high = together.min(axis=0), together.max(axis=0)
        assert a["bbox"] == [*low, *(high - low)]
        area = sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in vertices)
        assert a["area"] == pytest.approx(area, rel=1e-6)


def test_painted_pixels_are_those_inside_the_polygons():
    """`_fill` against cv2.pointPolygonTest, and its extent against the box."""
    rng = np.random.default_rng(0)
    for outline in shapes._OUTLINES.values():
        for width, height in ((6, 6), (6, 11), (7, 48), (96, 12), (33, 30), (15, 120)):
            polygons = outline(rng, width, height)
            filled = shapes._fill(polygons, width, height)
            assert filled.any(axis=0).all()
            assert filled.any(axis=1).all()
            contours = [np.array(polygon, np.int32) for polygon in polygons]
            for (y, x), inside in np.ndenumerate(filled):
                point = (4.0 * x + 2, 4.0 * y + 2)
                sides = [cv2.pointPolygonTest(contour, point, False) for contour in contours]
                # 0 is on an edge, where either is right.
                assert max(sides) == 0 or inside == (max(sides) > 0), (outline, width, height)


def test_sizes_ratios_and_classes_reach_their_range(drawn, annotations):
    w, h = np.array([a["bbox"][2:] for a in annotations]).T
    size, ratio = np.sqrt(w * h), w / h
    assert 7 < size.min() < 10
    assert 90 < size.max() < 112
    assert 1 / 9 < ratio.min() < 1 / 7
    assert 7 < ratio.max() < 9
    assert min(np.mean(ratio > 3), np.mean(ratio < 1 / 3)) > 0.15
    assert min(w.min(), h.min()) >= 6
    counts = np.bincount([a["category_id"] for a in annotations])[1:]
    assert len(counts) == len(CLASS_NAMES)
    assert min(counts) > 0.7 * np.mean(counts)
    sides = np.array([image.shape[:2] for image, _ in drawn])
    assert 160 <= sides.min() < 165
    assert 219 < sides.max() <= 224
    share_empty = np.mean([not objects for _, objects in drawn])
    assert 0.02 < share_empty < 0.09


def test_shapes_overlap_but_none_is_mostly_hidden(drawn):
    shares = []
    for image, objects in drawn:
        seen = np.zeros(image.shape[:2], bool)
        for a in reversed(objects):  # a later one lies on top
            rles = mask_util.frPyObjects(a["segmentation"], *image.shape[:2])
            mask = mask_util.decode(mask_util.merge(rles)) > 0
            shares.append((mask & ~seen).sum() / mask.sum())
            seen |= mask
    # 0.8 of the painted pixels; pycocotools' masks of tiny shapes differ a little from these.
    assert min(shares) > 0.72
    assert np.mean(np.array(shares) < 0.99) > 0.08
