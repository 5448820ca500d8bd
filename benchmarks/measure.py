"""How the benchmarks measure: turns, times, peak memory; and the options they share."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], object]
PRECISIONS = ("float32", "amp")


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


def amp_dtype(device: str) -> torch.dtype:
    """float16 on a GPU, as detectron2 trains, and bfloat16 on a CPU."""
    return torch.bfloat16 if device == "cpu" else torch.float16


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager:
    """Autocast for the precision "amp"."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, amp_dtype(device))


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """Exact float32 products and convolutions on a GPU, to compare results."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def peak_allocated(step: Step, device: str) -> float:
    """MiB of tensors that a call makes, at their peak.

    On a CPU as torch's profiler sees them: exact and the same in every run, but blind to what
    libraries allocate themselves. The first call, which sets up what stays, does not count.
    """
    step()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
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


def add_common_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """--device, --threads, --repeats, --seconds and --output."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=repeats, help="of a line, at most")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no more repeats of a line after this"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")


def size_of(text: str) -> tuple[int, int]:
    """A size given as HxW."""
    height, width = map(int, text.split("x"))
    return height, width
