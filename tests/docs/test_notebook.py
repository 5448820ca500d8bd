"""docs/tutorial.ipynb runs from its first to its last cell."""

import json
import logging
import tempfile
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

NOTEBOOK = DOCS / "tutorial.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython")
    monkeypatch.setenv("GA_TUTORIAL_ITERATIONS", "2")
    monkeypatch.setenv("GA_TUTORIAL_IMAGES", "2")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logger = logging.getLogger("detectron2")
    monkeypatch.setattr(logger, "level", logger.level)
    names: dict = {}
    for number, cell in enumerate(code_cells()):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert (Path(names["cfg"].OUTPUT_DIR) / "model_final.pth").is_file()


def test_results_in_the_file() -> None:
    """It is committed with the results of the whole, not of a short run, and is small."""
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    text = "".join("".join(o.get("text", "")) for o in outputs)
    assert "iteration 300: loss_anchor_loc" in text
    assert "AR@1000: " in text
    assert not [o for o in outputs if o["output_type"] == "error"]
    counts = [cell["execution_count"] for cell in code_cells()]
    assert counts == list(range(1, len(counts) + 1))
    pictures = [o for o in outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) >= 3
    assert NOTEBOOK.stat().st_size < 500_000
