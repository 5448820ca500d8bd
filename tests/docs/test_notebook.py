"""docs/tutorial.ipynb runs from its first to its last cell."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PROJECT

NOTEBOOK = DOCS / "tutorial.ipynb"


@pytest.mark.slow
def test_tutorial_runs() -> None:
    pytest.importorskip("nbmake")
    # Not tmp_path: a socket's path, below this one, has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ga") as folder:
        finished = subprocess.run(
            [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider",
             "-p", "no:xdist", f"--rootdir={DOCS}", "-c", "/dev/null", str(NOTEBOOK)],
            env={
                **os.environ,
                "GA_TUTORIAL_ITERATIONS": "2",
                "GA_TUTORIAL_IMAGES": "2",
                "PYTHONPATH": str(PROJECT),
                "TMPDIR": folder,
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "1 passed" in finished.stdout
        (output,) = Path(folder).glob("ga_tutorial_*")
        assert (output / "model_final.pth").is_file()


def test_results_in_the_file() -> None:
    """It is committed with the results of the whole, not of a short run, and is small."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [o for cell in cells if cell["cell_type"] == "code" for o in cell["outputs"]]
    text = "".join("".join(o.get("text", "")) for o in outputs)
    assert "iteration 300: loss_anchor_loc" in text
    assert "AR@1000: " in text
    assert not [o for o in outputs if o["output_type"] == "error"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    pictures = [o for o in outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) >= 3
    assert NOTEBOOK.stat().st_size < 500_000
