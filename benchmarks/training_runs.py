"""What the scripts that train several models share: runs of tools/train_net.py and their scores."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

logger = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Run:
    """One training: a config of this project, where its output goes, and what differs from it."""

    config: str
    output: Path
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The call of tools/train_net.py."""
        return [
            sys.executable,
            str(PROJECT / "tools" / "train_net.py"),
            "--config-file",
            str(PROJECT / "configs" / self.config),
            *self.arguments,
            "OUTPUT_DIR",
            str(self.output),
            *self.options,
        ]


def train_and_score(runs: Sequence[Run], jobs: int) -> list[dict[str, float]]:
    """Train each, ``jobs`` at a time on one thread each.

    Returns:
        the last line of each run's metrics.json: scores by name, and ``minutes`` of wall time.

    Raises:
        RuntimeError: a training failed; its log is named.
    """
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(_train, runs))


def _train(run: Run) -> dict[str, float]:
    run.output.mkdir(parents=True, exist_ok=True)
    log = run.output / "console.txt"
    logger.info("training %s into %s", run.config, run.output)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    path = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    (run.output / "metrics.json").unlink(missing_ok=True)
    start = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(
            run.command(), stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if status:
        raise RuntimeError(f"training of {run.config} failed with status {status}: see {log}")
    minutes = (time.perf_counter() - start) / 60
    lines = (run.output / "metrics.json").read_text().splitlines()
    scores: dict[str, float] = {}
    for line in lines:
        scores.update(json.loads(line))
    return {**scores, "minutes": minutes}
