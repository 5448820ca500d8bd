"""The drawn shapes against pycocotools and OpenCV, and against their settings."""

import hashlib
import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO

from ga_detectron2.data import shapes
from ga_detectron2.data.shapes import CLASS_NAMES, ShapesConfig, draw_dataset, draw_image

SEED = 7
NUM_IMAGES = 300


@pytest.fixture(scope="module")
def drawn():
    images = {}
    contents = draw_dataset(ShapesConfig(), SEED, NUM_IMAGES, images.__setitem__)
    return images, contents


@pytest.fixture(scope="module")
def coco(drawn):
    coco = COCO()
    coco.dataset = json.loads(json.dumps(drawn[1]))
    coco.createIndex()
    return coco


def test_pixels_and_annotations_are_the_same_everywhere():
    """To change them, increase DRAWING_VERSION and update the digests."""
    pixels, annotations = hashlib.sha256(), hashlib.sha256()
    for index in range(24):
        image, objects = draw_image(ShapesConfig(), SEED, index)
        pixels.update(repr(image.shape).encode() + image.tobytes())
        annotations.update(json.dumps(objects, sort_keys=True).encode())
    assert (shapes.DRAWING_VERSION, pixels.hexdigest()[:16], annotations.hexdigest()[:16]) == (
        1,
        "5db22f142cc0ff66",
        "85ba111aa8e5190c",
    )


def test_an_image_does_not_depend_on_the_others(drawn):
    images, contents = drawn
    image, objects = draw_image(ShapesConfig(), SEED, 41)
    assert np.array_equal(image, images["000042.png"])
    of_image = [a for a in contents["annotations"] if a["image_id"] == 42]
    assert [{k: a[k] for k in objects[0]} for a in of_image] == objects
    assert not np.array_equal(image, draw_image(ShapesConfig(), SEED + 1, 41)[0])


def test_annotations_are_complete_coco(drawn, coco):
    images, contents = drawn
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
    assert len(coco.getAnnIds()) == len(contents["annotations"]) > 2 * NUM_IMAGES
    assert coco.getAnnIds(iscrowd=True) == []
    for info in coco.loadImgs(coco.getImgIds()):
        image = images[info["file_name"]]
        assert image.dtype == np.uint8
        assert image.shape == (info["height"], info["width"], 3)
    for a in coco.loadAnns(coco.getAnnIds()):
        x, y, w, h = a["bbox"]
        info = coco.imgs[a["image_id"]]
        assert 0 <= x < x + w <= info["width"]
        assert 0 <= y < y + h <= info["height"]
        assert a["category_id"] in coco.cats


def test_boxes_and_areas_are_those_of_the_polygons(coco):
    for a in coco.loadAnns(coco.getAnnIds()):
        vertices = [np.reshape(polygon, (-1, 2)) for polygon in a["segmentation"]]
        together = np.concatenate(vertices)
        low, high = together.min(axis=0), together.max(axis=0)
        assert a["bbox"] == [*low, *(high - low)]
        area = sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in vertices)
        assert a["area"] == pytest.approx(area, rel=1e-6)


def test_masks_of_pycocotools_have_these_boxes_and_areas(coco):
    """Its masks are rounded to whole pixels, which costs a long triangle some of its tip."""
    for a in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToRLE(a)
        assert mask_util.toBbox(mask) == pytest.approx(
            a["bbox"], abs=max(1, 0.08 * max(a["bbox"][2:]))
        )
        outline = sum(
            cv2.arcLength(np.float32(polygon).reshape(-1, 1, 2), True)
            for polygon in a["segmentation"]
        )
        assert abs(mask_util.area(mask) - a["area"]) <= 0.6 * outline


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


def test_sizes_ratios_and_classes_reach_their_range(coco):
    boxes = np.array([a["bbox"] for a in coco.loadAnns(coco.getAnnIds())])
    w, h = boxes[:, 2], boxes[:, 3]
    size, ratio = np.sqrt(w * h), w / h
    assert 7 < size.min() < 10
    assert 90 < size.max() < 112
    assert np.mean(size < 16) > 0.05
    assert np.mean(size > 64) > 0.1
    assert 1 / 9 < ratio.min() < 1 / 7
    assert 7 < ratio.max() < 9
    assert np.mean(ratio > 3) > 0.15
    assert np.mean(ratio < 1 / 3) > 0.15
    assert min(w.min(), h.min()) >= 6
    counts = [len(coco.getAnnIds(catIds=[i])) for i in coco.getCatIds()]
    assert min(counts) > 0.7 * np.mean(counts)


def test_images_vary_in_size_and_some_are_empty(coco):
    infos = coco.loadImgs(coco.getImgIds())
    for side in ("height", "width"):
        lengths = [info[side] for info in infos]
        assert 160 <= min(lengths) < 165
        assert 219 < max(lengths) <= 224
    counts = np.bincount([len(coco.getAnnIds(imgIds=[info["id"]])) for info in infos])
    assert len(counts) == 7
    assert np.all(counts[1:] > 0.1 * NUM_IMAGES)
    assert 0.02 < counts[0] / NUM_IMAGES < 0.09


def in_sight(masks, i):
    """The pixels of shape ``i`` that no later shape lies on."""
    above = np.zeros_like(masks[i])
    for mask in masks[i + 1 :]:
        above |= mask
    return masks[i] & ~above


def test_shapes_overlap_but_none_is_mostly_hidden(coco):
    share_in_sight = []
    for image_id in coco.getImgIds():
        masks = [coco.annToMask(a) > 0 for a in coco.imgToAnns[image_id]]
        for i, mask in enumerate(masks):
            share_in_sight.append(in_sight(masks, i).sum() / mask.sum())
    # 0.8 of the painted pixels; pycocotools' masks of tiny shapes differ a little from these.
    assert min(share_in_sight) > 0.72
    assert np.mean(np.array(share_in_sight) < 0.99) > 0.08


def test_shapes_stand_out_from_their_surroundings(drawn, coco):
    """Median colour inside against that of the frame around the box, shapes left out."""
    images, _ = drawn
    distances = []
    for image_id in coco.getImgIds():
        image = images[coco.imgs[image_id]["file_name"]]
        anns = coco.imgToAnns[image_id]
        masks = [coco.annToMask(a) > 0 for a in anns]
        for i, a in enumerate(anns):
            x, y, w, h = (int(v) for v in a["bbox"])
            window = np.s_[max(y - 6, 0) : y + h + 6, max(x - 6, 0) : x + w + 6]
            background = ~np.any(masks, axis=0)[window]
            own = in_sight(masks, i)
            if background.sum() < 20:
                continue
            inside = np.median(image[own], axis=0)
            distances.append(np.abs(inside - np.median(image[window][background], axis=0)).max())
    assert len(distances) > 2 * NUM_IMAGES
    assert np.quantile(distances, 0.01) > 40


def test_settings_change_the_images():
    config = ShapesConfig(image_size=96, image_size_jitter=0, max_objects=2, max_aspect_ratio=1.0)
    contents = draw_dataset(config, SEED, 40, lambda name, image: None)
    assert {(i["height"], i["width"]) for i in contents["images"]} == {(96, 96)}
    assert max(abs(a["bbox"][2] - a["bbox"][3]) for a in contents["annotations"]) <= 1
    per_image = np.bincount([a["image_id"] for a in contents["annotations"]])
    assert per_image.max() == 2
    empty = draw_dataset(ShapesConfig(empty_fraction=1.0), SEED, 5, lambda name, image: None)
    assert empty["annotations"] == []
