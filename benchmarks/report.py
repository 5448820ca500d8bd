"""Results as Markdown tables and JSON, and the machine that they belong to."""

import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def describe(device: str) -> Row:
    """The machine and the versions that numbers belong to."""
    import detectron2
    import torch
    import torchvision

    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else _cpu_name(),
        "threads": torch.get_num_threads(),
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


class Report:
    """Results, each printed as a row of a table and written to a file at once."""

    def __init__(self, device: str, path: Path | None, note: str = ""):
        """Print the machine and a note on the setting; results go to ``path`` if there is one."""
        self.machine, self.path = describe(device), path
        self.results: list[Row] = []
        self.table = Table()
        print("; ".join([*(f"{k} {v}" for k, v in self.machine.items()), note]))

    def add(self, result: Row) -> None:
        self.results.append(result)
        self.table.add(result)
        if self.path is not None:
            write_json(self.path, self.machine, self.results)


class Table:
    """A Markdown table, printed row by row; another one begins where the columns change."""

    def __init__(self) -> None:
        self.columns: list[str] = []

    def add(self, row: Row) -> None:
        """Print a row; nested dictionaries have a column for each of their keys."""
        cells: Row = {}
        for key, value in row.items():
            if isinstance(value, dict):
                cells.update({f"{key} {k}": v for k, v in value.items()})
            else:
                cells[key] = value
        if list(cells) != self.columns:
            self.columns = list(cells)
            print("\n| " + " | ".join(cells) + " |\n|" + " --- |" * len(cells))
        print("| " + " | ".join(map(text, cells.values())) + " |", flush=True)


def text(value: object) -> str:
    """A cell of a table: floats with three significant digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value)


def write_json(path: Path, machine: Row, results: Sequence[Row]) -> None:
    """Write a JSON file with a line for each result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(x) for x in results)
    path.write_text(f'{{\n"machine": {json.dumps(machine)},\n"results": [\n{lines}\n]\n}}\n')
