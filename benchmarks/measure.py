"""How the benchmarks measure: turns, times, peak memory of a process of its own, tables, JSON."""

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import queue
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import detectron2
import torch
import torchvision

Step = Callable[[], object]


# ------------------------------------------------------------------------------------------- times


def seconds(step: Step, device: str) -> float:
    """Wall-clock time of one call; all that it started on a GPU is waited for."""
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def take_turns(
    steps: Sequence[Step], repeats: int, device: str, warmup: int = 1, limit: float = float("inf")
) -> list[list[float]]:
    """Times of steps that take turns, so that whatever else the machine does meets all of them.

    Args:
        steps: what is compared.
        repeats: of every step.
        device: "cpu" or one of CUDA.
        warmup: calls of every step that are not counted.
        limit: seconds after which no further repeat begins; there is always one.

    Returns:
        for each step, the seconds of its repeats.
    """
    for _ in range(warmup):
        for step in steps:
            step()
    times: list[list[float]] = [[] for _ in steps]
    start = time.perf_counter()
    for _ in range(repeats):
        for step, values in zip(steps, times, strict=True):
            values.append(seconds(step, device))
        if time.perf_counter() - start > limit:
            break
    return times


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


# ------------------------------------------------------------------------------------------ memory


def peak_memory(step: Step, device: str) -> float:
    """MiB that a call takes at its peak beyond what was taken before it.

    On a GPU, of the memory of tensors. On a CPU, of the resident memory of this process, which is
    best one of its own (see :func:`in_own_process`): the call is made once before, so that what is
    set up only once does not count, and what is free is handed back.

    Raises:
        OSError: on a CPU without Linux's /proc.
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
    # Sets the mark of the highest resident size back to the present one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_peak()
    step()
    return _resident_peak() - before


def _resident_peak() -> float:
    """Highest resident size of this process since the mark was set, in MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise OSError("/proc/self/status has no VmHWM")
    return float(found.group(1)) / 1024


def peak_allocated(step: Step, device: str) -> float:
    """MiB of tensors that a call makes, at their peak; on a CPU as torch's profiler sees them.

    Exact and the same in every run, but blind to what libraries take for themselves.
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


class OutOfMemoryError(RuntimeError):
    """The machine has too little memory for a measurement."""


def in_own_process(
    function: Callable[..., Any], *args: Any, threads: int = 1, limit: float = float("inf")
) -> Any:
    """What ``function(*args)`` returns, called in a new process with this number of threads.

    Raises:
        OutOfMemoryError: there was too little memory.
        TimeoutError: it took longer than ``limit`` seconds, and was ended.
        RuntimeError: it failed otherwise, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=_answer, args=(answers, threads, function, args))
    process.start()
    start = time.perf_counter()
    while True:
        try:
            kind, value = answers.get(timeout=1)
            break
        except queue.Empty:
            if time.perf_counter() - start > limit:
                process.terminate()
                process.join()
                raise TimeoutError(f"not done after {limit:g} s") from None
            if not process.is_alive() and answers.empty():
                kind, value = "died", f"the process ended with status {process.exitcode}"
                break
    process.join()
    if kind == "result":
        return value
    raise (OutOfMemoryError if kind == "out of memory" else RuntimeError)(value)


def _answer(answers: Any, threads: int, function: Callable[..., Any], args: Sequence[Any]) -> None:
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():  # CUDA reserves addresses far beyond what it uses.
        limit_memory()
    try:
        answers.put(("result", function(*args)))
    except Exception as error:
        kind = "out of memory" if is_out_of_memory(error) else "failed"
        answers.put((kind, f"{type(error).__name__}: {error}"))


def limit_memory(share: float = 0.9) -> None:
    """Let this process fail where it would take more than this share of the free memory.

    Otherwise the system ends some process, which need not be this one.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        free = int(found.group(1)) * 1024 if found else free
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(free * share), hard))


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemoryError | torch.cuda.OutOfMemoryError):
        return True
    return bool(re.search(r"can't allocate memory|not enough memory|bad_alloc", str(error)))


# ----------------------------------------------------------------------------------- tables, files


def describe(device: str, threads: int | list[int]) -> dict[str, Any]:
    """The machine and the versions that numbers belong to."""
    return {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else _cpu_name(),
        "threads": threads,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def headline(machine: dict[str, Any], *more: str) -> str:
    """One line for above a table."""
    threads = machine["threads"]
    threads = " and ".join(map(str, threads)) if isinstance(threads, list) else threads
    first = f"{machine['device']}, {threads} of {machine['cores']} cores"
    versions = [f"{x} {machine[x]}" for x in ("torch", "torchvision", "detectron2")]
    return "; ".join([", ".join([first, *versions]), *more])


class Table:
    """A Markdown table that is printed row by row, while what follows is still measured."""

    def __init__(self, *columns: str, text_columns: int = 1):
        """
        Args:
            columns: their headings.
            text_columns: how many of the first ones are not numbers.
        """
        self.lines = [
            _row(columns),
            "| " + " | ".join(["---"] * text_columns + ["---:"] * (len(columns) - text_columns))
            + " |",
        ]  # fmt: skip
        self.width = len(columns)
        print("\n".join(self.lines), flush=True)

    def add(self, *cells: object) -> None:
        if len(cells) != self.width:
            raise ValueError(f"a row of {len(cells)} cells in a table of {self.width} columns")
        self.lines.append(_row(cells))
        print(self.lines[-1], flush=True)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def number(value: float | None, digits: int = 3) -> str:
    """With this many significant digits; nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def write_json(path: Path | None, machine: dict[str, Any], results: object) -> None:
    """Write all numbers to a file, where one is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


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


def chosen(names: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """Those of ``names`` that contain one of the wanted parts; all where none is wanted."""
    return (name for name in names if not wanted or any(part in name for part in wanted))
