"""tools/check_dataset.py as a user calls it, and the advice that it gives."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.structures import BoxMode

from ga_detectron2.data.check import Findings, describe_shapes, format_shapes, read_coco_file
from ga_detectron2.data.check.advice import _other_inputs, advise
from ga_detectron2.data.check.objects import (
    InputSize,
    find_dataset,
    settings_of,
    take_objects,
    with_changes,
)
from ga_detectron2.engine import load_config
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.matching import MatchRule

from .coco_files import changed, make_contents, write_dataset

PROJECT = Path(__file__).resolve().parents[2]
SMALL = str(PROJECT / "configs" / "small" / "ga_rpn_R_18.yaml")


@pytest.fixture(scope="module")
def tool() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(PROJECT / "tools" / "check_dataset.py")))


def many_objects(tmp_path: Path, sizes: list[tuple[float, float]]) -> Any:
    """A dataset of one image of 640 x 480 pixels with an object of each size, spread out."""
    random = np.random.default_rng(0)
    annotations = []
    for i, (w, h) in enumerate(sizes):
        x, y = random.uniform(0, 640 - w), random.uniform(0, 480 - h)
        annotations.append(
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "area": w * h}
            | {"iscrowd": 0}
        )
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 480, "width": 640}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "many.json"
    path.write_text(json.dumps(content))
    return read_coco_file(*find_dataset(f"{path}:{tmp_path}"), Findings())


def test_clean_dataset(tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argument = write_dataset(tmp_path, make_contents())
    written = tmp_path / "new" / "out.json"
    tool.main([argument, "--config-file", SMALL, "--json", str(written)])
    printed, progress = capsys.readouterr()
    assert "set: 2 images, 3 annotations, 2 categories" in printed
    assert "No fault was found." in printed
    assert "2/2" in progress
    found = json.loads(written.read_text())
    assert found["findings"] == []
    shapes = found["shapes"]
    # 60 x 90 pixels to 192 x 288: squares of 16 to 256 pixels, objects of 78, 72 and 235.
    assert [x["objects"] for x in shapes["levels"]] == [0, 0, 2, 0, 1]
    assert shapes["fit"][-1]["objects"] == shapes["objects"] == 3
    assert all(sentence in printed for sentence in shapes["advice"]["sentences"])


def test_errors_and_pictures(tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argument = write_dataset(tmp_path, changed("annotations", 0, bbox=[95, 5, 9, 9], area=81))
    output = tmp_path / "pictures"
    with pytest.raises(SystemExit, match=r"check_dataset\.py: 1 error: repair before training"):
        tool.main([argument, "--config-file", SMALL, "--draw", "1", "--output", str(output)])
    assert "shapes.png and 1 picture are in" in capsys.readouterr().out
    assert sorted(x.name for x in output.iterdir()) == ["1.png", "shapes.png"]
    for path in output.iterdir():
        assert cv2.imread(str(path)).std() > 10


def test_mistakes(tool, tmp_path: Path) -> None:
    argument = write_dataset(tmp_path, make_contents())
    with pytest.raises(
        SystemExit, match=r"error: .*no dataset 'ga_shape', did you mean 'ga_shapes"
    ):
        tool.main(["ga_shape", "--config-file", SMALL])
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*set\.json is not a JSON file"):
        tool.main([argument, "--config-file", SMALL])
    plain = str(PROJECT / "configs" / "small" / "rpn_R_18.yaml")
    with pytest.raises(SystemExit, match=r"error: .*the model has no guided anchors"):
        tool.main([argument, "--config-file", plain])
    with pytest.raises(SystemExit, match=r"--json: .*set\.json is an input"):
        tool.main([argument, "--json", str(tmp_path / "set.json")])


def test_no_objects(tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argument = write_dataset(tmp_path, {**make_contents(), "annotations": []})
    tool.main([argument, "--config-file", SMALL, "--images", "none", "--draw", "1"])
    assert "nothing can be said about shapes" in capsys.readouterr().out


def test_settings_of_a_published_model() -> None:
    found = settings_of(load_config(str(PROJECT / "configs" / "ga_retinanet_R_101.yaml")))
    assert (found.strides, found.base_scale) == ((8, 16, 32, 64, 128), 4)
    assert found.shape_rule.min_positive_iou == 0.4


def test_input_size_of_several() -> None:
    cfg = load_config(SMALL)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (480, 960), 1333
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    assert InputSize.from_config(cfg) == (720, 1333)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (640, 672, 800), "choice"
    assert InputSize.from_config(cfg) == (672, 1333)
    assert InputSize(800, 1333).resize(480, 640) == (800, 1067)
    assert InputSize(0, 0).resize(480, 640) == (480, 640)


def test_objects_are_what_training_sees(tmp_path: Path) -> None:
    contents = make_contents()
    contents["annotations"][0]["bbox"] = [80, 50, 20, 20]  # reaches out of 90 x 60
    contents["annotations"][1]["iscrowd"] = 1
    argument = write_dataset(tmp_path, contents)
    data = read_coco_file(*find_dataset(argument), Findings())
    objects = take_objects(data, InputSize(120, 999))
    assert objects.boxes.tolist() == [[160, 100, 180, 120], [0, 0, 180, 120]]
    assert objects.image_sizes.tolist() == [[180, 120]] * 2
    assert (objects.image_of.tolist(), objects.annotation_of.tolist()) == ([0, 1], [0, 2])


def test_objects_have_the_mappers_coordinates_to_the_last_bit(tmp_path: Path) -> None:
    # Cells that tie for an object's best IoU depend on the last bit.
    data = many_objects(tmp_path, [(9.1 + 0.37 * i, 8.3 + 0.71 * i) for i in range(50)])
    size = InputSize(400, 999).resize(480, 640)
    resize = T.TransformList([T.ResizeTransform(480, 640, *size)])
    objects = [x | {"bbox_mode": BoxMode.XYWH_ABS} for x in data.annotations]
    mapped = [transform_instance_annotations(x, resize, size) for x in objects]
    expected = annotations_to_instances(mapped, size).gt_boxes.tensor.float()
    assert torch.equal(take_objects(data, InputSize(400, 999)).boxes, expected)


SETTINGS = GuidedAnchoring(
    strides=(4, 8, 16, 32, 64), base_scale=8, shape_rule=MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
)


def test_small_objects_want_small_squares(tmp_path: Path) -> None:
    data = many_objects(tmp_path, [(9, 9)] * 40 + [(12, 12)] * 40)
    found = advise(data, InputSize(480, 640), SETTINGS)
    current = next(x for x in found.base_scales if x.base_scale == 8)
    assert (current.without_target, current.score) == (1, 0)  # at most 12^2 of 32^2 pixels
    assert found.best["base_scale"].base_scale in (3, 4)
    assert found.best["input"].shorter_side <= 480  # the images have no more pixels
    assert advise(data, InputSize(320, 427), SETTINGS).best["input"].shorter_side == 480
    assert found.sentences[0].startswith("Set MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE")


@pytest.mark.parametrize(
    ("image", "present", "largest"),
    [
        ((1920, 1080), InputSize(720, 1333), 1080),
        ((1920, 1080), InputSize(1080, 1920), 1080),
        ((2000, 200), InputSize(800, 1333), 1200),  # reduced to 133, since the longer side counts
        ((200, 200), InputSize(192, 256), 192),
    ],
)
def test_inputs_are_not_larger_than_the_images(
    tmp_path: Path, image: tuple[int, int], present: InputSize, largest: int
) -> None:
    contents = make_contents()
    for entry in contents["images"]:
        entry["width"], entry["height"] = image
    data = read_coco_file(*find_dataset(write_dataset(tmp_path, contents)), Findings())
    sizes = [present, *_other_inputs(data, present)]
    assert max(x.shorter for x in sizes) == pytest.approx(largest, abs=16)


def test_large_squares_do_for_objects_of_their_size(tmp_path: Path) -> None:
    data = many_objects(tmp_path, [(32 * k, 32 * k) for k in (1, 2, 4, 8)] * 10)
    found = advise(data, InputSize(480, 640), SETTINGS)
    assert found.best["base_scale"].base_scale >= 8
    assert found.best["strides"].strides == (4, 8, 16, 32, 64)
    assert found.best["input"].shorter_side <= 480  # a larger one is not worth its work
    shapes = describe_shapes(data, InputSize(480, 640), SETTINGS)
    assert shapes["fit"][-1]["approximate"][2] > 0.9
    assert "promise a gain" not in format_shapes(shapes)


def test_poles_promise_a_gain(tmp_path: Path) -> None:
    data = many_objects(tmp_path, [(12, 96), (96, 12), (20, 160), (40, 320)] * 10)
    shapes = describe_shapes(data, InputSize(480, 640), SETTINGS)
    assert "promise a gain" in format_shapes(shapes)
    # A ratio of 8 in one of 2 of the same area: the longer side is half covered or so.
    assert shapes["fit"][-1]["approximate"][2] == 0


@pytest.mark.photographs
def test_coco_wants_the_published_settings(shared_folder: Path) -> None:
    """The paper's authors chose them on all of COCO; here are eighty photographs of it."""
    coco = shared_folder / "data" / "coco_tiny"
    argument = f"{coco}/annotations/instances_train2017.json:{coco}/train2017"
    data = read_coco_file(*find_dataset(argument), Findings())
    found = advise(data, InputSize(800, 1333), SETTINGS)
    assert found.best["base_scale"].base_scale == 8
    assert found.best["strides"].strides == (4, 8, 16, 32, 64)
    assert found.best["input"].shorter_side == 800
    others = with_changes(SETTINGS, strides=(8, 16, 32, 64, 128), base_scale=4)
    assert advise(data, InputSize(800, 1333), others).best["base_scale"].base_scale == 4
