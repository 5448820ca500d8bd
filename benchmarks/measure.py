"""How the benchmarks measure: turns, times, peak memory; and the options they share."""

import argparse
import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]


# ------------------------------------------------------------------------------------------- times


def take_turns(
    steps: Sequence[Step], repeats: int, device: str, limit: float = float("inf")
) -> list[list[float]]:
    """Wall-clock times of steps that take turns, after one call of each that does not count.

    torch.utils.benchmark times one statement after the other; here the load of the machine, which
    changes, meets all of them.

    Args:
        steps: what is compared.
        repeats: of every step.
        device: "cpu" or one of CUDA; a time includes all that the step has started there.
        limit: seconds after which no further repeat begins; there is always one.

    Returns:
        for each step, the seconds of its repeats.
    """
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    begin = time.perf_counter()
    for _ in range(repeats):
        for step, values in zip(steps, times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            values.append(time.perf_counter() - start)
        if time.perf_counter() - begin > limit:
            break
    return times


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager:
    """For "amp" float16 on a GPU, as detectron2 trains, and bfloat16 on a CPU."""
    if precision == "float32":
        return contextlib.nullcontext()
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16 if kind == "cpu" else torch.float16)


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Exact float32 products and convolutions on a GPU, to compare results."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# ------------------------------------------------------------------------------------------ memory


def peak_memory(step: Step, device: str) -> float:
    """MiB that a call takes at its peak beyond what was taken before it.

    On a GPU, of the memory of tensors. On a CPU (Linux), of the resident memory of this process,
    which should be a new one: see :func:`memory_of`. The first call, which sets up what stays, does
    not count.
    """
    step()
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    # Resets the mark of the highest resident size to the present one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_peak()
    step()
    return _resident_peak() - before


def _resident_peak() -> float:
    """Highest resident size of this process since the mark was reset, in MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, "/proc/self/status has no VmHWM"
    return float(found.group(1)) / 1024


def memory_of(
    make_step: Callable[..., Step], arguments: Sequence[Any], args: argparse.Namespace
) -> float:
    """Peak memory of ``make_step(*arguments)`` in MiB, on a CPU in a new process."""
    if args.device != "cpu":
        return peak_memory(make_step(*arguments), args.device)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (args.threads,)) as pool:
        return pool.submit(_make_and_measure, make_step, arguments).result()


def _make_and_measure(make_step: Callable[..., Step], arguments: Sequence[Any]) -> float:
    return peak_memory(make_step(*arguments), "cpu")


def peak_allocated(step: Step, device: str) -> float:
    """MiB of tensors that a call makes, at their peak; on a CPU as torch's profiler sees them.

    Exact and the same in every run, but blind to what libraries allocate themselves.
    """
    step()
    if device != "cpu":
        return peak_memory(step, device)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    results = profile.profiler.kineto_results if profile.profiler else None
    events = [e for e in results.events() if e.name() == "[memory]"] if results else []
    now = peak = 0
    for event in sorted(events, key=_start):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 2**20


def _start(event: Any) -> int:
    # torch counts in nanoseconds in newer versions, in microseconds before.
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()


# --------------------------------------------------------------------------------- shared options


def add_common_arguments(parser: Any, repeats: int, several_threads: bool = False) -> None:
    """--device, --threads, --repeats, --seconds and --output."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    if several_threads:
        parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    else:
        parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=repeats, help="of a line, at most")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no more repeats of a line after this"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
