"""The commands that bash would start for a block of shell code, without starting them."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import PROJECT

SCRIPT_FOLDERS = ("tools", "benchmarks", ".ci", "docs/figures")
# Programs that pages may call; any other is "command not found", which ends a block.
PROGRAMS = ("bash", "nox", "pip", "python", "torchrun")
STUB = """#!/bin/bash
printf '%s\\0' {name} "$@" >>"$COMMAND_LOG"
printf '\\n' >>"$COMMAND_LOG"
"""


class Command(NamedTuple):
    """A program and its arguments, after expansion by the shell."""

    words: tuple[str, ...]

    @property
    def script(self) -> str:
        """Path of the project's script that is run, relative to the project, or ""."""
        words = self.words[1:] if self.words[0] in ("python", "bash") else self.words
        return words[0] if words and (PROJECT / words[0]).is_file() else ""

    @property
    def arguments(self) -> list[str]:
        """Arguments of the script."""
        return list(self.words[self.words.index(self.script) + 1 :])

    def __str__(self) -> str:
        return " ".join(self.words)


def make_shadow(folder: Path) -> None:
    """Fill an empty folder with a copy of the project in which every program is a stub."""
    names = {name: folder / "bin" / name for name in PROGRAMS}
    for script_folder in SCRIPT_FOLDERS:
        for script in (PROJECT / script_folder).glob("*"):
            if script.is_file():
                name = str(script.relative_to(PROJECT))
                names[name] = folder / "project" / name
    for name, path in names.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB.format(name=name))
        path.chmod(0o755)
    activate = folder / "project" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()


def commands_of(block: str, shadow: Path) -> list[Command]:
    """Commands of a block in order, with loops and variables expanded by bash.

    Raises:
        AssertionError: bash finds an error, or a program that is neither a script of the project
            nor one of PROGRAMS.
    """
    log = shadow / "log"
    log.write_text("")
    finished = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block],
        cwd=shadow / "project",
        env={
            "PATH": str(shadow / "bin"),
            "COMMAND_LOG": str(log),
            "HOME": os.environ.get("HOME", "/"),
            "DETECTRON2_DATASETS": "datasets",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stderr.strip()}, in:\n{block}"
    return [Command(tuple(line.split("\0")[:-1])) for line in log.read_text().split("\n") if line]
