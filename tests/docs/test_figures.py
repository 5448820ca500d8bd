"""The figures of the pages: they can be drawn, and show what the paper says or was measured."""

import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest
import torch

from tests.docs.pages import DOCS, PROJECT

THREE_SEEDS = (
    "RetinaNet, 9 anchors",
    "GA-RetinaNet",
    "GA-RetinaNet, ADAPTION_INIT_STD 0.01",
    "GA-RetinaNet, DEFORM_GROUPS 0",
    "GA-RetinaNet, strides 4 to 64",
)


@pytest.fixture(scope="module")
def figures() -> dict:
    """Globals of docs/figures/draw.py."""
    before = list(sys.path)
    try:
        return runpy.run_path(str(DOCS / "figures" / "draw.py"))
    finally:
        sys.path[:] = before


@pytest.mark.slow
def test_all_committed_figures_are_drawn(
    figures: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Versions of matplotlib draw different pixels.
    monkeypatch.setattr(sys, "argv", ["draw.py", str(tmp_path)])
    figures["main"]()
    committed = DOCS / "images" / "concepts"
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in committed.iterdir()}


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


def test_taps_are_moved_by_their_offsets(figures: dict) -> None:
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


def test_case_study_shows_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots can be drawn, and the tables of the page and README hold the same numbers."""
    path = tmp_path / "plots.webp"
    monkeypatch.setattr(sys, "argv", ["steel_defects.py", str(path)])
    script = runpy.run_path(str(DOCS / "figures" / "steel_defects.py"))
    script["main"]()
    assert path.stat().st_size > 10_000
    data = json.loads(script["RESULTS"].read_text())
    study = (DOCS / "steel_defects.md").read_text()
    recall, precision = ("AR@10", "AR@100", "AR@1000"), ("AP", "AP50", "AP75")
    both = study, (PROJECT / "README.md").read_text()
    for group, model, keys, pages in (
        *(("results", m, recall, both) for m in ("GA-RPN", "RPN, 3 anchors", "RPN, 9 anchors")),
        *(("results", m, precision[1:], both) for m in ("GA-Faster R-CNN", "Faster R-CNN")),
        *(("results", r["model"], precision, [study]) for r in data["results"] if "AP" in r),
        *(("ablation", m, recall, [study]) for m in {r["model"] for r in data["ablation"]}),
        *(("advice", m, recall, [study]) for m in {r["model"] for r in data["advice"]}),
        *(("validation", m, precision, [study]) for m in THREE_SEEDS),
        ("validation", "GA-RetinaNet, 384 pixels", ["AP"], [study]),
    ):
        for key in keys:
            values = [r[key] for r in data[group] if r["model"] == model]
            shown = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            for page in pages:
                assert shown in page.replace("**", ""), (model, key, shown)
