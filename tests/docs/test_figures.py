"""The figures of the page on concepts show what the package computes now."""

import math
import runpy
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from tests.docs.pages import DOCS

SCRIPT = DOCS / "figures" / "draw.py"
PICTURES = DOCS / "images" / "concepts"
DRAWN_WITH = "3.10."  # the pinned matplotlib; 3.11 draws letters and lines otherwise


@pytest.fixture(scope="module")
def figures() -> dict:
    """The globals of the script."""
    before = list(sys.path)
    try:
        return runpy.run_path(str(SCRIPT))
    finally:
        sys.path[:] = before


@pytest.mark.slow
@pytest.mark.skipif(
    not matplotlib.__version__.startswith(DRAWN_WITH),
    reason=f"the committed pictures are of matplotlib {DRAWN_WITH}x",
)
def test_committed_pictures_are_up_to_date(
    figures: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["draw.py", str(tmp_path)])
    figures["main"]()
    made = sorted(tmp_path.glob("*.png"))
    assert [p.name for p in made] == sorted(p.name for p in PICTURES.glob("*.png"))
    for path in made:
        new, old = (cv2.imread(str(p)).astype(float) for p in (path, PICTURES / path.name))
        assert new.shape == old.shape, f"run {SCRIPT}: {path.name} differs"
        # Other fonts of a machine place letters a little differently.
        assert np.abs(new - old).mean() < 2, f"run {SCRIPT}: {path.name} differs"


def test_regions_are_those_of_the_paper(figures: dict) -> None:
    regions = figures["regions"]
    kinds = regions.cell_kinds([regions.BOX], 3)
    x1, y1, x2, y2 = (v / 32 for v in regions.BOX)
    for i in range(kinds.shape[0]):
        for j in range(kinds.shape[1]):
            expected = 0
            for kind, ratio in ((1, 0.5), (2, 0.2)):
                r = (1 - ratio) / 2
                columns = range(round(x1 + r * (x2 - x1)), round(x2 - r * (x2 - x1)) + 1)
                rows = range(round(y1 + r * (y2 - y1)), round(y2 - r * (y2 - y1)) + 1)
                if j in columns and i in rows:
                    expected = kind
            assert kinds[i, j] == expected, (i, j)


def test_taps_are_where_offsets_put_them(figures: dict) -> None:
    taps = figures["taps"]
    plain = taps.tap_positions(torch.zeros(72, 2), (1.0, 1.0))
    steps = torch.tensor([[x, y] for y in (9.0, 10.0, 11.0) for x in (9.0, 10.0, 11.0)])
    assert torch.allclose(plain, steps.expand(4, 9, 2))
    moved = torch.zeros(4, 9, 2, 2)
    moved[2, 5, 0, 1] = 0.25  # the third group's sixth tap: down by a quarter of dh
    found = taps.tap_positions(moved.flatten(0, 2), (3.0, 2.0)) - plain
    expected = torch.zeros(4, 9, 2)
    expected[2, 5] = torch.tensor([0.0, 0.5])
    assert torch.allclose(found, expected, atol=1e-5)


def test_numbers_on_the_page(figures: dict) -> None:
    """Sizes that docs/concepts.md names."""
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    x1, y1, x2, y2 = figures["regions"].BOX
    assert f"a box of {x2 - x1:.0f} by {y2 - y1:.0f} pixels, stride 32" in text
    level = math.floor(math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 32) + 0.5)
    assert 4 * 2**level == 32
    x1, y1, x2, y2 = figures["anchors"].OBJECT[0].tolist()
    assert f"an object of {x2 - x1:.0f} by {y2 - y1:.0f} pixels" in text
