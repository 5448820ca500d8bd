"""Jobs of several processes, on one machine or on two, which are parts of this one."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def start(
    command: Sequence[object], prefix: Sequence[str] = (), **variables: str
) -> subprocess.Popen:
    """A Python process whose output is kept; ``prefix`` says where or how it runs."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-W", "ignore", *map(str, command)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT),
             "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(*runs: subprocess.Popen) -> list[str]:
    """Outputs of processes that must succeed."""
    outputs = [run.communicate(timeout=1500)[0] for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output[-3000:]
    return outputs


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def torchrun(script: Path, argv: Sequence[str], **variables: str) -> subprocess.Popen:
    """Four processes."""
    options = ["--standalone", "--nproc-per-node", "4", script]
    return start(["-m", "torch.distributed.run", *options, *argv], **variables)


class TwoMachines:
    """On loopback: what is started on either shares the network."""

    address = "127.0.0.1"
    where: tuple[Sequence[str], Sequence[str]] = ((), ())
    variables: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def launch(self, script: Path, argv: Sequence[str], **variables: str) -> list[subprocess.Popen]:
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
