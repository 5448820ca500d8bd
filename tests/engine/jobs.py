"""Functions in new processes, forked by a server that has imported everything."""

import contextlib
import functools
import multiprocessing.connection
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["ga_detectron2.engine", "ga_detectron2.model_zoo", "torch.utils.tensorboard"]
)


class Job:
    """A call in a new process on the CPU, whose output is kept.

    Args:
        function: function of a module.
        args: its arguments.
        variables: environment variables.
    """

    def __init__(self, function: Callable[..., object], *args: object, **variables: object):
        self._log = tempfile.NamedTemporaryFile("r")  # noqa: SIM115 - a pipe would fill up
        environment = {k: str(v) for k, v in variables.items()}
        self._process = SERVER.Process(
            target=_call, args=(self._log.name, environment, function, args)
        )
        # For the server, which starts with the first process.
        with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}):
            self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def output(self, timeout: float = 600) -> str:
        """Everything that was printed, once the process has ended."""
        self._process.join(timeout)
        assert self.returncode is not None, "still running"
        return Path(self._log.name).read_text()

    def end(self) -> None:
        """Kill the process and those that it started, if it has not ended."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()


def _call(
    log: str, environment: dict[str, str], function: Callable[..., object], args: tuple[Any, ...]
) -> None:
    os.setsid()  # so that its own processes can be ended with it
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # detectron2's launch spawns processes, which would import everything again.
    torch.multiprocessing.start_processes = functools.partial(
        torch.multiprocessing.start_processes, start_method="fork"
    )
    function(*args)


@contextlib.contextmanager
def ended_afterwards(*jobs: Job) -> Iterator[None]:
    """End all jobs at the end of the block."""
    try:
        yield
    finally:
        for job in jobs:
            job.end()


def finish(*jobs: Job) -> list[str]:
    """Outputs of processes that must succeed; when one fails, the others are killed."""
    with ended_afterwards(*jobs):
        while running := [job for job in jobs if job.returncode is None]:
            ended = multiprocessing.connection.wait([job.sentinel for job in running], 600)
            assert ended, "still running"
            if any(job.returncode for job in jobs):
                break
        for job in jobs:
            assert not job.returncode, job.output()[-3000:]
        return [job.output() for job in jobs]


def torchrun(function: Callable[..., object], argv: Sequence[str], size: int) -> list[Job]:
    """Processes on one machine, with the variables that torchrun sets."""
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": free_port()}  # fmt: skip
    return [Job(function, argv, RANK=i, LOCAL_RANK=i, **shared) for i in range(size)]


def two_machines(function: Callable[..., object], argv: Sequence[str]) -> list[Job]:
    """Two processes on each of two machines, both of which are this one."""
    options = ["--num-gpus", "2", "--num-machines", "2"]
    options += ["--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    return [Job(function, [*options, "--machine-rank", str(i), *argv]) for i in (0, 1)]


def free_port() -> int:
    """An unused port below those that Linux assigns by itself (32768 on)."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are all taken")


def workers_of(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, children) if is_running(child)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_ended(pids: Sequence[int]) -> None:
    """They end within a minute."""
    limit = time.monotonic() + 60
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < limit, f"still running: {left}"
        time.sleep(0.1)
