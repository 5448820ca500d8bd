"""What bash would start for a block of commands, without starting any of it."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT_FOLDERS = ("tools", "benchmarks", ".ci", "docs/figures")
# Programs that pages may call; any other is "command not found", which ends a block.
BASH = "/bin/bash"
PROGRAMS = ("bash", "nox", "pip", "python", "torchrun")
STUB = """#!{bash}
printf '%s\\0' {name} "$@" >>"$COMMAND_LOG"
printf '\\n' >>"$COMMAND_LOG"
"""


class Command(NamedTuple):
    """A program and its arguments, after everything that the shell does to them."""

    words: tuple[str, ...]

    @property
    def script(self) -> str:
        """The script of this project that is run, as seen from its folder, or ""."""
        words = self.words[1:] if self.words[0] in ("python", "bash") else self.words
        return words[0] if words and (PROJECT / words[0]).is_file() else ""

    @property
    def arguments(self) -> list[str]:
        """What the script is given."""
        return list(self.words[self.words.index(self.script) + 1 :])

    def __str__(self) -> str:
        return " ".join(self.words)


def make_shadow(folder: Path) -> None:
    """Make an image of the project in an empty folder, in which every program is a stub."""
    names = {name: folder / "bin" / name for name in PROGRAMS}
    for script_folder in SCRIPT_FOLDERS:
        for script in (PROJECT / script_folder).glob("*"):
            if script.is_file():
                name = str(script.relative_to(PROJECT))
                names[name] = folder / "project" / name
    for name, path in names.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB.format(bash=BASH, name=name))
        path.chmod(0o755)
    activate = folder / "project" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()


def commands_of(block: str, shadow: Path) -> list[Command]:
    """The commands of a block, in order; loops and variables are bash's own affair.

    Args:
        block: lines for a shell.
        shadow: what :func:`make_shadow` made.

    Raises:
        AssertionError: bash finds a mistake, or a program that is neither a script of the project
            nor one of PROGRAMS.
    """
    log = shadow / "log"
    log.write_text("")
    environment = {
        "PATH": str(shadow / "bin"),
        "COMMAND_LOG": str(log),
        "HOME": os.environ.get("HOME", "/"),
        "DETECTRON2_DATASETS": "datasets",
    }
    finished = subprocess.run(
        [BASH, "-euo", "pipefail", "-c", block],
        cwd=shadow / "project",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stderr.strip()}, in:\n{block}"
    return [Command(tuple(line.split("\0")[:-1])) for line in log.read_text().split("\n") if line]
