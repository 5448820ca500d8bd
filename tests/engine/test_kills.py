"""A short run of benchmarks/kill_and_resume.py, which kills trainings at random moments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_killed_trainings_end_like_uninterrupted_ones(tmp_path: Path) -> None:
    script = PROJECT / "benchmarks" / "kill_and_resume.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "--kills", "4", "--per-training", "2",
         "--output", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT),
             "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "kills.json").read_text())
    assert len(results["kills"]) >= 4
    assert results["failures"] == []
