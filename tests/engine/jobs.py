"""Jobs of several processes, which run on this machine."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


class Job(subprocess.Popen):
    """A Python process whose output is kept, however much it is; see :func:`start`."""

    def __init__(self, command: Sequence[str], env: dict[str, str]):
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe would fill up
        # In a session of its own, so that its child processes can be ended with it.
        super().__init__(
            command, env=env, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    def output(self, timeout: float = 1500) -> str:
        """Everything that was printed, once the process has ended."""
        self.wait(timeout)
        self._file.seek(0)
        return self._file.read()

    def end(self) -> None:
        """Kill the process and those that it started, if it has not ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def start(command: Sequence[object], **variables: str) -> Job:
    """A Python process on the CPU, with further environment variables."""
    return Job(
        [sys.executable, "-W", "ignore", *map(str, command)],
        {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT),
         "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


@contextlib.contextmanager
def ended_afterwards(*jobs: Job) -> Iterator[None]:
    """End all jobs at the end of the block."""
    try:
        yield
    finally:
        for job in jobs:
            job.end()


def finish(*jobs: Job) -> list[str]:
    """Outputs of processes that must succeed."""
    with ended_afterwards(*jobs):
        outputs = [job.output() for job in jobs]
    for job, output in zip(jobs, outputs, strict=True):
        assert job.returncode == 0, output[-3000:]
    return outputs


def workers_of(job: Job) -> list[int]:
    """Processes that detectron2's launch has started in it and that have not ended."""
    found = []
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split():
            if is_worker(int(pid)):
                found.append(int(pid))
    return found


def is_worker(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    with contextlib.suppress(OSError):
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def assert_ended(pids: Sequence[int]) -> None:
    """They end within a minute; a system may take a while to clear them away."""
    limit = time.monotonic() + 60
    while left := [pid for pid in pids if is_worker(pid)]:
        assert time.monotonic() < limit, f"still running: {left}"
        time.sleep(0.1)


def free_port() -> int:
    """An unused port below those that Linux assigns by itself (32768 on)."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are all taken")


def torchrun(script: Path, argv: Sequence[str], **variables: str) -> Job:
    """Two processes of torchrun."""
    options = ["--standalone", "--nproc-per-node", "2", script]
    return start(["-m", "torch.distributed.run", *options, *argv], **variables)


def launch_two_machines(script: Path, argv: Sequence[str], **variables: str) -> list[Job]:
    """Two processes on each of two machines, both of which are this one."""
    options = ["--num-gpus", 2, "--num-machines", 2, "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    return [start([script, *options, "--machine-rank", i, *argv], **variables) for i in (0, 1)]
