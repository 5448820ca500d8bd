"""The processes of a run: started by detectron2's ``launch``, or by torchrun beforehand."""

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

# What a process says that waits for one which has ended: gloo, and torch's store.
_LOST = re.compile(r"connection (was )?(closed|reset)|broken pipe|remote process", re.IGNORECASE)

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_torchrun() -> bool:
    """Whether torchrun, or something that sets the same variables, has started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def use_torchrun(args: Namespace) -> None:
    """Put torchrun's numbers into detectron2's arguments, if torchrun has started this process.

    Args:
        args: with ``num_gpus`` and ``num_machines``, which are changed.

    Raises:
        ConfigError: they ask for something else, or the machines have different numbers.
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
    """Call ``run(args)`` in all processes of this machine, or in this one of torchrun's.

    Args:
        run: found by its name in a module; in each process the process group is there.
        args: with detectron2's ``num_gpus``, ``num_machines``, ``machine_rank``, ``dist_url``.
        timeout: after which a process ends that waits for others in vain.

    Raises:
        ConfigError: there are fewer GPUs than processes.
        SystemExit: a process has ended: with an exit code, of which it has told the reason, or by
            a signal, which is told here.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < args.num_gpus:
        raise ConfigError(f"there are {num_gpus} GPUs for {args.num_gpus} processes (--num-gpus)")
    if is_torchrun():
        _join(timeout)
        _call(run, args)
        return
    if args.dist_url == "auto" and args.num_machines > 1:
        raise ConfigError("--dist-url auto is for one machine: name tcp://FIRST_MACHINE:PORT")
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
            sys.exit(error.exit_code)  # The process has said why.
        rank = args.machine_rank * args.num_gpus + error.error_index
        name = signal.Signals(-error.exit_code).name
        sys.exit(f"error: process {rank} was ended by {name}; the others of this machine with it")


def exit_once(message: str) -> NoReturn:
    """End a process for a mistake that all processes of this machine find, and tell it once."""
    sys.exit(1 if is_torchrun() and os.environ["LOCAL_RANK"] != "0" else message)


def share_threads() -> None:
    """Divide this machine's cores among its processes, where these compute on the CPU.

    Otherwise each would compute with as many threads as there are cores.
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
            f"error: process {comm.get_rank()} waited for another process in vain: another process "
            f"has ended, and has told why if it could ({reason})"
        )


def _join(timeout: timedelta) -> None:
    """What detectron2's ``launch`` does in a process that it has started."""
    if os.environ["WORLD_SIZE"] == "1":
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timeout)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
