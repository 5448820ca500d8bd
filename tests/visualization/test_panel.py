"""Panels and overviews: what they hold, and how large they are."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ga_detectron2 import atomic
from ga_detectron2.visualization import (
    compose_panel,
    make_overview,
    make_panel,
    make_tiles,
    save_image,
)

from .batch import INPUT_SIZE as INPUT


@pytest.fixture
def everything(guided) -> dict:
    size = (100, 140)
    boxes = Boxes(torch.tensor([[10.0, 10, 60, 50], [30, 20, 90, 80]]))
    classes = torch.tensor([0, 1])
    return {
        "guided": guided,
        "input_size": INPUT,
        "index": 1,
        "ground_truth": Instances(size, gt_boxes=boxes, gt_classes=classes),
        "proposals": Instances(size, proposal_boxes=boxes, objectness_logits=torch.zeros(2)),
        "detections": Instances(
            size, pred_boxes=boxes, scores=torch.tensor([0.8, 0.3]), pred_classes=classes
        ),
        "threshold": 0.1,
    }


def test_titles_say_how_much_of_how_much_is_drawn(image, everything, guided) -> None:
    tiles = make_tiles(image, max_anchors=3, max_proposals=1, **everything)
    titles = {tile.name: tile.title for tile in tiles}
    probability = guided.loc_logits[1].sigmoid()
    kept = int((probability >= 0.1).sum())
    assert kept > 3
    assert titles["ground_truth"] == "Ground truth: 2 objects"
    assert f"3 of {kept} that pass" in titles["anchors"]
    assert titles["proposals"] == "Proposals: best 1 of 2"
    assert titles["detections"] == "Detections: 1 of score ≥ 50% (of 2)"
    first = int((probability[:48] >= 0.1).sum())
    levels = [tile.title for tile in tiles if tile.name == "levels"]
    assert [x.partition(":")[0] for x in levels] == ["stride 8", "stride 16"]
    assert levels[0].endswith(f"{first}/48 pass")
    location = next(tile for tile in tiles if tile.name == "location")
    assert location.color_bar is not None
    assert location.color_bar.norm.vmin == 0
    assert location.color_bar.norm.vmax >= probability.max()
    assert f"{kept} of 60 cells pass" in location.color_bar.label
    legend = next(tile for tile in tiles if tile.name == "anchors").legend
    assert sum(int(text.partition("(")[2][:-1]) for _, text in legend) == 3


def test_what_is_not_there_is_left_out(image, everything) -> None:
    names = [tile.name for tile in make_tiles(image, detections=everything["detections"])]
    assert names == ["detections"]
    with pytest.raises(ValueError, match="nothing to show"):
        make_panel(image)
    with pytest.raises(ValueError, match="cannot show 'anchor', only image, ground_truth"):
        make_tiles(image, show=["anchor"])
    with pytest.raises(ValueError, match="input_size is missing"):
        make_tiles(image, guided=everything["guided"])


def test_a_panel_holds_its_tiles_pixel_for_pixel(image, everything) -> None:
    tiles = make_tiles(image, side=200, **everything)
    panel = compose_panel(tiles, "title")
    assert panel.dtype == np.uint8
    for tile in tiles:
        if not tile.small:
            score = cv2.matchTemplate(panel, tile.image, cv2.TM_SQDIFF)
            row, column = np.unravel_index(score.argmin(), score.shape)
            height, width = tile.image.shape[:2]
            found = panel[row : row + height, column : column + width]
            assert (found == tile.image).all(), tile.name


def test_an_overview_has_a_row_for_each_image(image, everything) -> None:
    row = make_tiles(image, side=100, **everything)
    one = make_overview([row], ["a"])
    three = make_overview([row, row, row], ["a", "b", "c"], "title")
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > 2.5 * one.shape[0] - 100
    with pytest.raises(ValueError, match="must show the same: ground_truth"):
        make_overview([row, row[1:]])
    with pytest.raises(ValueError, match="nothing to show"):
        make_overview([])


@pytest.mark.parametrize("shape", [(20, 300, 3), (300, 20, 3), (1, 1, 3)])
def test_narrow_images(shape, guided) -> None:
    image = np.zeros(shape, np.uint8)
    panel = make_panel(image, guided=guided, input_size=INPUT, index=1)
    assert panel.ndim == 3


def test_images_are_written_as_they_are(tmp_path, image) -> None:
    path = tmp_path / "new" / "picture.png"
    save_image(image, str(path))
    assert (cv2.imread(str(path))[:, :, ::-1] == image).all()
    with pytest.raises(OSError, match="not one of an image"):
        save_image(image, str(tmp_path / "picture.txt"))


def test_a_name_need_not_be_text_and_a_full_disk_is_told(tmp_path, image, monkeypatch) -> None:
    path = tmp_path / "nonutf\udcff" / "picture\udcff.png"
    save_image(image, str(path))
    kept = path.read_bytes()
    assert (cv2.imdecode(np.frombuffer(kept, np.uint8), 1)[:, :, ::-1] == image).all()

    def full(*_args: object) -> object:
        return open("/dev/full", "wb")

    monkeypatch.setattr(atomic, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_image(image, str(path))
    assert error.value.filename == str(path)
    assert path.read_bytes() == kept
    assert list(path.parent.iterdir()) == [path]
