"""Jobs of several processes, on one machine or on two, which are parts of this one."""

import contextlib
import os
import random
import shutil
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
        # A session of its own: what it has started can be ended with it.
        super().__init__(
            command, env=env, stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True
        )

    def output(self, timeout: float = 1500) -> str:
        """All that was printed, by the time that it has ended."""
        self.wait(timeout)
        self._file.seek(0)
        return self._file.read()

    def end(self) -> None:
        """Kill it, with what it has started, if it has not ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def start(command: Sequence[object], prefix: Sequence[str] = (), **variables: str) -> Job:
    """A Python process; ``prefix`` says where or how it runs."""
    return Job(
        [*prefix, sys.executable, "-W", "ignore", *map(str, command)],
        {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT),
         "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


@contextlib.contextmanager
def ended_afterwards(*jobs: Job) -> Iterator[None]:
    """Whatever happens, none outlives the block."""
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
    """Whether there is such a process; not if it has ended and nobody has asked for its status."""
    with contextlib.suppress(OSError):
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def assert_ended(pids: Sequence[int]) -> None:
    """They have ended, or do so in no time: a system may take a while to clear them away."""
    limit = time.monotonic() + 60
    while left := [pid for pid in pids if is_worker(pid)]:
        assert time.monotonic() < limit, f"processes that go on: {left}"
        time.sleep(0.1)


def free_port() -> int:
    """One that nobody uses, and below those that Linux gives to whoever asks for any (32768 on)."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are all taken")


def torchrun(script: Path, argv: Sequence[str], **variables: str) -> Job:
    """Four processes."""
    options = ["--standalone", "--nproc-per-node", "4", script]
    return start(["-m", "torch.distributed.run", *options, *argv], **variables)


class TwoMachines:
    """On loopback: what is started on either shares the network."""

    address = "127.0.0.1"
    where: tuple[Sequence[str], Sequence[str]] = ((), ())
    variables: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def launch(self, script: Path, argv: Sequence[str], **variables: str) -> list[Job]:
        """Two processes on each, by the project's own arguments."""
        url = f"tcp://{self.address}:{free_port()}"
        options = ["--num-gpus", 2, "--num-machines", 2, "--dist-url", url]
        return [
            start([script, *options, "--machine-rank", i, *argv], self.where[i],
                  **self.variables[i], **variables)
            for i in (0, 1)
        ]  # fmt: skip


class TwoNamespaces(TwoMachines):
    """Network namespaces with a cable between them, and with no other way out.

    Raises:
        PermissionError: they may not be made here, with the reason.
    """

    address = "10.213.7.1"

    def __init__(self) -> None:
        self._names = [f"ga{os.getpid()}{side}" for side in "ab"]
        self.where = tuple(("ip", "netns", "exec", name) for name in self._names)
        if shutil.which("ip") is None:
            raise PermissionError("there is no program ip (of iproute2)")
        a, b = self._names
        try:
            for name in self._names:
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", a, "link", "add", f"{a}0", "type", "veth", "peer", f"{b}0", "netns", b)
            for i, name in enumerate(self._names):
                _ip("-n", name, "address", "add", f"10.213.7.{i + 1}/24", "dev", f"{name}0")
                _ip("-n", name, "link", "set", f"{name}0", "up")
                _ip("netns", "exec", name, "true")  # which needs more rights than to make it
        except subprocess.CalledProcessError as error:
            self.close()
            raise PermissionError(f"ip fails: {error.stderr.strip()}") from error
        # Their host's name stands for an address that they do not have.
        self.variables = tuple({"GLOO_SOCKET_IFNAME": f"{name}0"} for name in self._names)

    def close(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
