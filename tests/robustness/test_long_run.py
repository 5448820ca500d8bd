"""benchmarks/long_run.py: what it takes for growth, and a short run."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "long_run.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        return runpy.run_path(str(SCRIPT))


def make_rows(**slopes: float) -> list[dict[str, float]]:
    """Forty measurements, of which only the named keys grow, by so much in 100 iterations."""
    keys = ("rss_mib", "workers_rss_mib", "files", "threads", "workers", "workers_files")
    return [
        {"iteration": i} | {k: 50 + slopes.get(k, 0) * i / 100 for k in keys}
        for i in range(50, 2050, 50)
    ]


def test_what_is_growth(script: dict[str, Any]) -> None:
    judge = script["judge"]
    assert judge(make_rows())["problems"] == []
    found = judge(make_rows(rss_mib=4.0))
    assert found["growth_in_100_iterations"]["rss_mib"] == pytest.approx(4.0)
    assert found["problems"] == ["rss_mib grows by 4.0 MiB in 100 iterations"]
    assert judge(make_rows(rss_mib=-4.0))["problems"] == []
    assert judge(make_rows(workers_rss_mib=9.0))["problems"] != []
    for key in ("files", "threads"):
        assert judge(make_rows(**{key: 0.2}))["problems"][0].startswith(f"{key} from")


def test_growth_at_the_start_is_no_growth(script: dict[str, Any]) -> None:
    rows = make_rows()
    for row in rows[:9]:
        row["rss_mib"] = row["iteration"] / 10
        row["files"] = 80
    assert script["judge"](rows)["problems"] == []


def test_a_run_too_short_to_be_judged(script: dict[str, Any]) -> None:
    rows = make_rows(rss_mib=40.0, files=9.0)
    assert script["judge"](rows[:2]) == {"growth_in_100_iterations": {}, "problems": []}
    assert len(script["judge"](rows[:10])["problems"]) == 2


def test_measures_this_process(script: dict[str, Any], tmp_path: Path) -> None:
    before = script["measure"]()
    assert before["rss_mib"] > 50
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert script["measure"]()["files"] == before["files"] + 2
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert str(child.pid) in script["children"]()
    finally:
        child.communicate()


@pytest.mark.slow
def test_a_short_run(script: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--iterations", "60", "--output", str(tmp_path)]
    command += ["--plot", str(tmp_path / "plot.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "long_run.json").read_text())["rows"]
    assert [row["iteration"] for row in rows] == [50, 60]
    assert all(row["rss_mib"] > 50 and row["files"] > 3 and row["workers"] == 1 for row in rows)
    assert rows[-1]["sizes_kept"] <= 32
    assert (tmp_path / "plot.png").stat().st_size > 5000
