"""Every command of README.md, CONTRIBUTING.md and docs/ is right; the small ones are run.

bash itself takes the blocks apart. A command is then given to the parser of its own script, its
configuration is loaded, and its keys are set. What this file does not know is a failure.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from detectron2.config import CfgNode, LazyConfig

from ga_detectron2.data import parse_dataset_argument
from ga_detectron2.engine import load_config
from ga_detectron2.errors import ConfigError
from tests.docs.pages import PROJECT, pages, shell_blocks
from tests.docs.shell_commands import Command, commands_of

# Commands without a parser of this project that pages may have, and why that is enough. The
# expression must match the whole command.
NOT_OURS = {
    r"pip install --no-deps \.": "changes the environment; .ci/run installs this project so",
    r"pip install --no-build-isolation -e \.\[dev,visualization\]": "changes the environment",
    r"pip install setuptools<81": "changes the environment; requirements.txt has the same bound",
    r"python -m detectron2\.utils\.collect_env": "detectron2's own, without arguments",
    r"python -m ga_detectron2\.model_zoo docs/model_zoo\.md": "run by tests/model_zoo/test_docs.py",
    r"python docs/figures/draw\.py": "run by test_figures.py",
    r"nox( -[a-z-]+)*( \S+)*": "needs environments of its own, with a network",
    r"\.ci/run": "runs these very tests",
    r"torchrun .*": "torch's own; tests/engine/test_processes.py starts tools/train_net.py by it",
}


class ParsedError(Exception):
    """Carries what a script's parser made of its arguments."""


def block_ids() -> list[tuple[str, int]]:
    return [
        (str(page.relative_to(PROJECT)), i)
        for page in pages()
        for i in range(len(shell_blocks(page)))
    ]


def load_script(name: str) -> ModuleType:
    module_name = "docs_commands_" + name.removesuffix(".py").replace("/", "_")
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = PROJECT / name
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(module)
    sys.modules[module_name] = module  # imports of detectron2 and torch take their time
    return module


def parse(command: Command) -> argparse.Namespace:
    """What the script's own parser makes of the command's arguments.

    Raises:
        SystemExit: it refuses them.
    """
    script = load_script(command.script)
    with (
        tempfile.TemporaryDirectory() as folder,
        within(Path(folder)),
        mock.patch.object(sys, "argv", [command.script, *command.arguments]),
    ):
        # Pictures that are the reader's own, which some parsers look for.
        for word in command.arguments:
            if re.fullmatch(r"[\w-]+\.(jpg|png)", word):
                Path(word).touch()
        if hasattr(script, "parse_args"):
            return script.parse_args()
        with stop_after_parsing(), pytest.raises(ParsedError) as parsed:
            script.main()
    return parsed.value.args[0]


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)  # contextlib.chdir is of Python 3.11
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def stop_after_parsing() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)

            def stop(self, *args, original=original, **kwargs):
                raise ParsedError(original(self, *args, **kwargs))

            stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, stop))
        yield


def check_config(args: argparse.Namespace) -> None:
    """The configuration files are there, and take the keys and values.

    Raises:
        AssertionError, ConfigError: or not.
    """
    opts = list(getattr(args, "opts", None) or [])
    for name in ("config_file", "baseline_config_file"):
        file = getattr(args, name, None)
        if not file:
            continue
        path = PROJECT / file
        assert path.is_file(), f"there is no {file}"
        if path.suffix == ".py":
            LazyConfig.apply_overrides(LazyConfig.load(str(path)), opts)
        else:
            overrides = opts if name == "config_file" else []
            assert isinstance(load_config(str(path), overrides), CfgNode)
    for dataset in getattr(args, "dataset", None) or []:
        if isinstance(getattr(args, "dataset", None), list):
            parse_dataset_argument(dataset)


def check(command: Command) -> str:
    """Check one command; returns by what.

    Raises:
        AssertionError, SystemExit, ConfigError: it is wrong, or nobody knows it.
    """
    for known in NOT_OURS:
        if re.fullmatch(known, str(command)):
            return known
    if command.script.endswith(".sh"):
        check_shell_script(command)
        return command.script
    assert command.script.endswith(".py"), f"nothing checks the command: {command}"
    args = parse(command)
    if "--help" not in command.arguments:
        check_config(args)
    return command.script


def check_shell_script(command: Command) -> None:
    """What the scripts do with their arguments: hand them on, or know two of their own."""
    script, arguments = command.script, command.arguments
    if script == "tools/quickstart.sh":
        load_script("tools/train_net.py").parse_args(arguments)
    elif script == "tools/setup_env.sh":
        assert arguments in ([], ["--fresh"]), command
    elif script == "tools/build_docs.sh":
        assert len(arguments) <= 1, command
    elif script == "tools/test.sh":
        assert all((PROJECT / a).exists() for a in arguments if a.startswith("tests")), command
    else:
        pytest.fail(f"nothing checks the command: {command}")


def check_block(block: str, shadow: Path) -> list[Command]:
    commands = commands_of(block, shadow)
    for command in commands:
        try:
            check(command)
        except SystemExit as stop:
            # --help ends a parser, too.
            if stop.code not in (0, None):
                pytest.fail(f"{command.script} refuses ({stop}): {command}")
        except ConfigError as error:
            pytest.fail(f"{error}, in: {command}")
    return commands


@pytest.mark.parametrize(("page", "number"), block_ids())
def test_commands_are_right(page: str, number: int, shadow: Path) -> None:
    assert check_block(shell_blocks(PROJECT / page)[number], shadow), "a block without a command"


@pytest.mark.parametrize(
    "wrong",
    [
        "python tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml --evaluate",
        "python tools/train_net.py --config-file configs/absent.yaml",
        "python tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml MODEL.ABSENT 1",
        "python tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml SEED one",
        "python benchmarks/compare_proposals.py --seed-list 1",
        "python tools/absent.py",
        "for x in 1 2; do python tools/diagnose.py; done",
        "nvidia-smi",
        "pip install detectron2",
        "python tools/train_net.py --config-file 'configs/small/ga_rpn_R_18.yaml",
    ],
)
def test_wrong_commands_are_found(wrong: str, shadow: Path) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_block(wrong, shadow)


def test_shell_does_what_it_would(shadow: Path) -> None:
    block = 'folder="a b"  # comment\nfor x in 1 2; do\n  python "$folder" \\\n    --n $x\ndone\n'
    found = commands_of(block, shadow)
    assert [c.words for c in found] == [("python", "a b", "--n", n) for n in ("1", "2")]


@pytest.mark.parametrize("script", ["setup_env", "build_docs"])
def test_shell_scripts(script: str) -> None:
    path = PROJECT / "tools" / f"{script}.sh"
    for arguments, status in ((["--help"], 0), (["one", "two"], None)):
        finished = subprocess.run(
            ["bash", str(path), *arguments], capture_output=True, text=True, check=False
        )
        assert "usage: tools/" in finished.stdout + finished.stderr
        assert finished.returncode == status if status is not None else finished.returncode != 0
