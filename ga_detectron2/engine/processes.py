"""Processes of a run, started by detectron2's ``launch`` or by torchrun."""

import os
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import torch
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from ga_detectron2.errors import ConfigError

__all__ = ["exit_once", "is_torchrun", "run_processes", "share_threads", "use_torchrun"]

# Messages of gloo and of torch's store when another process has ended.
_LOST = re.compile(r"connection (was )?(closed|reset)|broken pipe|remote process", re.IGNORECASE)

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_torchrun() -> bool:
    """Whether this process was started by torchrun, or by a launcher that sets its variables."""
    return all(name in os.environ for name in _TORCHRUN)


def use_torchrun(args: Namespace) -> None:
    """Set detectron2's process counts to torchrun's, if torchrun has started this process.

    Args:
        args: arguments whose ``num_gpus`` and ``num_machines`` are changed.

    Raises:
        ConfigError: they contradict torchrun, or machines have different numbers of processes.
    """
    if not is_torchrun():
        return
    size, local_size = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if size % local_size:
        raise ConfigError(
            f"torchrun started {size} processes, {local_size} of them on this machine: every "
            "machine must have as many (--nproc-per-node)"
        )
    found = {"num_gpus": local_size, "num_machines": size // local_size}
    for name, number in found.items():
        if getattr(args, name) not in (1, number):
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {getattr(args, name)}, but torchrun started {local_size} processes on "
                f"each of {size // local_size} machines: leave {option} out"
            )
        setattr(args, name, number)


def run_processes(
    run: Callable[..., Any], args: Namespace, timeout: timedelta = DEFAULT_TIMEOUT
) -> None:
    """Call ``run(args)`` in all processes of this machine, or in this one if torchrun started it.

    Args:
        run: a module-level function; it is called with the process group set up.
        args: detectron2's ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``.
        timeout: time after which a process that waits for others ends.

    Raises:
        ConfigError: there are fewer GPUs than processes.
        SystemExit: a process has failed, and has printed why, or was ended by a signal.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < args.num_gpus:
        raise ConfigError(f"there are {num_gpus} GPUs for {args.num_gpus} processes (--num-gpus)")
    if is_torchrun():
        _join(timeout)
        _call(run, args)
        return
    if args.dist_url == "auto" and args.num_machines > 1:
        raise ConfigError(
            "--dist-url auto only works on one machine: pass tcp://FIRST_MACHINE:PORT"
        )
    try:
        launch(
            _call,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(run, args),
            timeout=timeout,
        )
    except ProcessExitedException as error:
        if error.exit_code >= 0:
            sys.exit(error.exit_code)  # The process has printed why.
        rank = args.machine_rank * args.num_gpus + error.error_index
        name = signal.Signals(-error.exit_code).name
        sys.exit(
            f"error: process {rank} was ended by {name}, so the other processes on this machine "
            "were stopped"
        )


def exit_once(message: str) -> NoReturn:
    """End a process with an error that all processes of this machine encounter; one reports it."""
    sys.exit(1 if is_torchrun() and os.environ["LOCAL_RANK"] != "0" else message)


def share_threads() -> None:
    """Divide the cores of this machine among its processes, for computation on the CPU.

    Otherwise each process would have as many threads as there are cores.
    """
    if comm.get_local_size() > 1 and not os.getenv("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))


def _call(run: Callable[..., Any], args: Namespace) -> None:
    try:
        run(args)
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        reason = str(error).splitlines()[0]
        sys.exit(
            f"error: process {comm.get_rank()} lost its connection: another process has ended, see "
            f"its error ({reason})"
        )


def _join(timeout: timedelta) -> None:
    """Set up the process group as detectron2's ``launch`` does."""
    if os.environ["WORLD_SIZE"] == "1":
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timeout)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
