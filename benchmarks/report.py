"""Tables, JSON files, and the machine that numbers belong to."""

import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe(device: str, threads: int | list[int]) -> dict[str, Any]:
    """The machine and the versions that numbers belong to."""
    import detectron2
    import torch
    import torchvision

    return {
        "date": datetime.date.today().isoformat(),
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
    """A Markdown table, printed row by row while the rest is still measured."""

    def __init__(self, *columns: str, text_columns: int = 1):
        """
        Args:
            columns: their headings.
            text_columns: how many of the first ones are not numbers.
        """
        rules = ["---"] * text_columns + ["---:"] * (len(columns) - text_columns)
        self.width = len(columns)
        self.add(*columns)
        self.add(*rules)

    def add(self, *cells: object) -> None:
        assert len(cells) == self.width, f"{len(cells)} cells in {self.width} columns"
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def number(value: float | None, digits: int = 3) -> str:
    """With this many significant digits; nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def write_json(path: Path | None, machine: dict[str, Any], results: Sequence[object]) -> None:
    """Write all numbers to a file, where one is named; a line for each result."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(x) for x in results)
        path.write_text(
            f'{{\n"machine": {json.dumps(machine)},\n"results": [\n{lines}\n]\n}}\n'
        )  # fmt: skip


def share_text(share: float | None) -> str:
    """A share from which on something pays; None for never."""
    if share is None:
        return "never"
    return "always" if share == 0 else f"{100 * share:.3g} %"
