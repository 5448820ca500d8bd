"""benchmarks/gpu.sh and gpu.py on a CPU."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "benchmarks" / "gpu.sh"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_unknown_options_are_refused() -> None:
    done = run("--cpu")
    assert done.returncode == 2
    assert "unknown option --cpu" in done.stderr


def test_steps_have_limits_within_eight_minutes(benchmark_module, tmp_path: Path) -> None:
    # A Python that only says what it was called with, and takes no time.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\ncase "$4" in waiting) exit 3;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    begun = re.findall(r"^gpu.sh: (\w+), at most (\d+) s", done.stdout, re.M)
    assert [step for step, _ in begun] == list(benchmark_module("gpu_summary").STEPS)
    assert {step for step, _ in begun} == set(benchmark_module("gpu").STEPS)
    # A step that fails does not keep the others from running.
    assert "gpu.sh: waiting ended with status 3" in done.stdout
    assert done.returncode == 1
    assert (tmp_path / "out" / "export.log").read_text().split()[3:6] == [
        *("export", str(tmp_path / "out"), "--seconds"),
    ]


def test_other_cases_run_after_a_failure(
    benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    gpu = benchmark_module("gpu")

    def broken() -> dict:
        raise RuntimeError("no kernel image")

    def cases(_args: argparse.Namespace):
        yield "first", broken
        yield "second", lambda: iter([{"ok": True}, {"images_per_s": 3.0}])

    monkeypatch.setattr(gpu, "STEPS", {"checks": cases})
    arguments = ["checks", str(tmp_path), "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        gpu.main(arguments)
    assert stop.value.code == 1
    rows = json.loads((tmp_path / "checks.json").read_text())["results"]
    assert [x["case"] for x in rows] == ["first", "second", "second"]
    assert rows[0]["error"] == "RuntimeError: no kernel image"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        benchmark_module("gpu_summary").main(tmp_path)
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "| checks | 1 | 1 | 1 | 0 |" in printed
    assert 'WRONG {"step": "checks", "case": "first"' in printed

    with pytest.raises(SystemExit):
        gpu.main([*arguments, "--seconds", "-1"])
    rows = json.loads((tmp_path / "checks.json").read_text())["results"]
    assert all("skipped" in x for x in rows)


def test_errors_of_known_tensors(benchmark_module) -> None:
    checks = benchmark_module("gpu_checks")
    x = torch.tensor([1.0, -4.0])
    assert checks.relative_error(x + 0.1, x) == pytest.approx(0.025)
    gradients = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    assert checks.gradient_error({"a": torch.tensor([3.0, 4.5])}, gradients) == pytest.approx(0.1)
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [5, 5, 9, 9]]), torch.tensor([0.9, 0.5])
    assert checks.unmatched(boxes, scores, boxes.flip(0), scores.flip(0)) == 0
    assert checks.unmatched(boxes, scores, boxes[:1], scores[:1]) == pytest.approx(1 / 3)
    assert checks.unmatched(boxes[:0], scores[:0], boxes, scores) == 1
    assert not checks.judge(checks.GOLDEN, losses=0.0, gradients=0.1)["ok"]


@pytest.mark.parametrize(("quick", "ap", "ok"), [(True, "NaN", True), (False, "NaN", False),
                                                 (False, "66.8", True)])  # fmt: skip
def test_full_training_needs_a_score(
    benchmark_module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: bool,
    ap: str,
    ok: bool,
) -> None:
    gpu = benchmark_module("gpu")
    logged: list[dict] = []

    def train(_config: str, _output: Path, _args: object, options: list[str]) -> dict:
        start = len(logged) // 2 * (3 if quick else 300)
        logged.extend([{"iteration": start, "total_loss": 1.0}, {"bbox/AP": float(ap)}])
        return {"rows": list(logged)}

    monkeypatch.setattr(gpu, "train", train)
    args = argparse.Namespace(out=tmp_path, quick=quick, device="cpu")
    rows = list(gpu.train_and_resume(args))
    assert [x["ok"] for x in rows] == [ok, ok]
    assert rows[0]["AP"] == (None if ap == "NaN" else 66.8)


def test_missed_goals(benchmark_module) -> None:
    misses_goal = benchmark_module("gpu_summary").misses_goal
    row = {"model": "ga_rpn_R_50", "mode": "training", "ratio": 0.96, "memory_ratio": 1.05}
    assert not misses_goal(row)
    assert misses_goal({**row, "mode": "inference"})
    assert misses_goal({**row, "memory_ratio": 1.2})
    assert not misses_goal({**row, "model": "ga_faster_R_50", "ratio": 0.5})
    assert not misses_goal({"case": "head", "ratio": 0.5})


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(benchmark_module, tmp_path: Path) -> None:
    done = run(tmp_path, "--device", "cpu", "--quick")
    logs = "".join(x.read_text()[-1500:] for x in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    (merged,) = tmp_path.glob("gpu_*.json")
    rows = json.loads(merged.read_text())["results"]
    assert {x["step"] for x in rows} == set(benchmark_module("gpu").STEPS)
    assert all(x.get("ok", True) and "skipped" not in x for x in rows)
    assert (tmp_path / "summary.txt").read_text() in done.stdout
