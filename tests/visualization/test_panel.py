"""Panels and overviews: what they contain, and that it is legible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from matplotlib.axes import Axes
from PIL import Image

from ga_detectron2 import atomic
from ga_detectron2.visualization import (
    anchors_of_image,
    make_overview,
    make_panel,
    make_tiles,
    save_image,
)
from ga_detectron2.visualization.panel import panel_rows

from .batch import INPUT_SIZE as INPUT


@pytest.fixture
def everything(guided) -> dict:
    size = (100, 140)
    boxes = Boxes(torch.tensor([[10.0, 10, 60, 50], [30, 20, 90, 80]]))
    classes = torch.tensor([0, 1])
    return {
        "anchors": anchors_of_image(guided, INPUT, 1),
        "ground_truth": Instances(size, gt_boxes=boxes, gt_classes=classes),
        "proposals": Instances(size, proposal_boxes=boxes, objectness_logits=torch.zeros(2)),
        "detections": Instances(
            size, pred_boxes=boxes, scores=torch.tensor([0.8, 0.3]), pred_classes=classes
        ),
        "threshold": 0.1,
    }


def test_titles_report_numbers(image, everything, guided) -> None:
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
    assert location.color_bar.norm.vmax >= probability.max()
    assert f"{kept} of 60 cells pass the filter" in location.color_bar.label
    legend = next(tile for tile in tiles if tile.name == "anchors").legend
    assert sum(int(text.partition("(")[2][:-1]) for _, text in legend) == 3


def test_missing_results_are_left_out(image, everything) -> None:
    names = [tile.name for tile in make_tiles(image, detections=everything["detections"])]
    assert names == ["detections"]
    with pytest.raises(ValueError, match="nothing to show"):
        make_panel(image)
    with pytest.raises(ValueError, match="cannot show 'anchor', only image, ground_truth"):
        make_tiles(image, show=["anchor"])


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("shape", [(100, 140), (20, 300), (300, 20), (1, 1)])
def test_panel_shows_all_tiles_aligned_and_without_overlaps(shape, everything) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    tiles = make_tiles(image, **everything)
    rows = panel_rows(tiles, "a title with $ and _")
    shown = []
    columns = set()
    for row, figure in enumerate(rows):
        figure.draw_without_rendering()
        axes = [x for x in figure.axes if x.images]
        shown += [x.images[0].get_array() for x in axes]
        pictures = [x.images[0].get_window_extent() for x in axes]
        titles = [x._left_title.get_window_extent() for x in axes]
        bars = [x for x in figure.findobj(Axes) if x not in figure.axes]
        below = [x.get_tightbbox() for x in bars]
        below += [x.get_legend().get_window_extent() for x in axes if x.get_legend()]
        if row < len(rows) - 1:  # the last one has the small pictures
            for x, picture in zip(axes, pictures, strict=True):
                # Neither a legend nor a colour bar shrinks or moves a picture.
                expected = x.images[0].get_array().shape[1::-1]
                assert picture.size == pytest.approx(expected, rel=0.02, abs=1)
            columns |= {round(picture.x0) for picture in pictures}
        assert len({round(picture.y1) for picture in pictures}) == 1
        boxes = [*pictures, *titles, *below]
        for i, box in enumerate(boxes):
            for corner in box.corners():
                assert figure.bbox.padded(1).contains(*corner)
            assert not any(box.padded(-1).overlaps(other) for other in boxes[:i])
    assert len(shown) == len(tiles)
    assert all(np.array_equal(x, tile.image) for x, tile in zip(shown, tiles, strict=True))
    assert len(columns) == len([x for x in rows[0].axes if x.get_subplotspec()])
    assert len({figure.bbox.width for figure in rows}) == 1


def test_overview_has_a_row_for_each_image(image, everything) -> None:
    row = make_tiles(image, side=100, **everything)
    one = make_overview([row], ["a"])
    three = make_overview([row, row, row], ["a", "b", "c"], "title")
    assert abs(three.shape[1] - one.shape[1]) < 100
    assert three.shape[0] > 2.5 * one.shape[0] - 100


def test_image_file_holds_the_image(tmp_path, image) -> None:
    # Bytes that are not UTF-8 may be in any path.
    path = tmp_path / "nonutf\udcff" / "picture\udcff.png"
    save_image(image, str(path))
    assert (np.asarray(Image.open(path)) == image).all()
    with pytest.raises(OSError, match="not that of an image"):
        save_image(image, str(tmp_path / "picture.txt"))


def test_full_disk_leaves_the_old_file(tmp_path, image, monkeypatch) -> None:
    path = tmp_path / "picture.png"
    save_image(image, str(path))
    kept = path.read_bytes()
    full = Path("/dev/full")
    monkeypatch.setattr(atomic, "open", lambda *_: full.open("wb"), raising=False)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_image(image[::-1], str(path))
    assert error.value.filename == str(path)
    assert path.read_bytes() == kept
    assert list(path.parent.iterdir()) == [path]
