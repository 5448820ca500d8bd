"""Every shell command of the pages parses, and its configuration takes the keys and values."""

import argparse
import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from detectron2.config import LazyConfig

from ga_detectron2.data import parse_dataset_argument
from ga_detectron2.engine import load_config
from tests.docs.pages import PROJECT, code_blocks, pages
from tests.docs.shell_commands import Command, commands_of

# Commands that no parser of this project checks, as patterns of the whole command.
NOT_OURS = (
    r"pip install.*",
    r"python -m (detectron2\.utils\.collect_env|ga_detectron2\.model_zoo docs/model_zoo\.md)",
    r"python tools/pure_detectron2\.py wheels",
    r"python docs/figures/draw\.py",
    r"nox -l",
    r"\.ci/run",
    r"torchrun .*",
    r"(bash )?tools/(setup_env|test|build_docs|pack_offline)\.sh.*",
)
BLOCKS = [
    (str(page.relative_to(PROJECT)), i)
    for page in pages()
    for i in range(len(code_blocks(page, "sh")))
]


class ParsedError(Exception):
    """Carries a parser and what it made of its arguments."""


def load_script(name: str) -> ModuleType:
    """A script of the project as a module, such as tools/train_net.py."""
    module_name = "docs_commands_" + name.removesuffix(".py").replace("/", "_")
    if module_name not in sys.modules:
        path = PROJECT / name
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with mock.patch.object(sys, "path", [str(path.parent), *sys.path]):
            spec.loader.exec_module(module)
        sys.modules[module_name] = module  # imports of detectron2 and torch take their time
    return sys.modules[module_name]


@contextlib.contextmanager
def stop_after_parsing() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)

            def stop(self, *args, original=original, **keys):
                raise ParsedError(self, original(self, *args, **keys))

            stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, stop))
        yield


def parse(script: str, arguments: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """A script's own parser, and what it makes of the arguments."""
    main = load_script(script).main
    with (
        mock.patch.object(sys, "argv", [script, *arguments]),
        stop_after_parsing(),
        pytest.raises(ParsedError) as parsed,
    ):
        main()
    return parsed.value.args


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(re.fullmatch(known, str(command)) for known in NOT_OURS):
        return
    script = command.script
    if script == "tools/quickstart.sh":  # hands its arguments on
        script = "tools/train_net.py"
    assert script.endswith(".py"), f"nothing checks the command: {command}"
    if "--help" in command.arguments:
        return
    monkeypatch.chdir(PROJECT)
    _, args = parse(script, command.arguments)
    opts = list(getattr(args, "opts", None) or [])
    for name in ("config_file", "baseline_config_file"):
        file = getattr(args, name, None) or ""
        if file.endswith(".py"):
            LazyConfig.apply_overrides(LazyConfig.load(file), opts)
        elif file:
            load_config(file, opts if name == "config_file" else [])
    if isinstance(getattr(args, "dataset", None), list):
        for dataset in args.dataset:
            parse_dataset_argument(dataset)


def check_block(block: str, shadow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = commands_of(block, shadow)
    assert commands, "a block without a command"
    for command in commands:
        check(command, monkeypatch)


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_commands_parse(
    page: str, number: int, shadow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_block(code_blocks(PROJECT / page, "sh")[number], shadow, monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        "python tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml --evaluate",
        "python tools/train_net.py --config-file configs/absent.yaml",
        "for x in 1 2; do python tools/diagnose.py; done",
        "python tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml MODEL.ABSENT 1",
        "python benchmarks/compare.py --seed-list 1",
        "python tools/absent.py",
        "nvidia-smi",
        "python tools/train_net.py --config-file 'configs/small/ga_rpn_R_18.yaml",
    ],
)
def test_wrong_commands_are_found(
    wrong: str, shadow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((AssertionError, SystemExit, ValueError, FileNotFoundError)):
        check_block(wrong, shadow, monkeypatch)


def test_variables_and_loops_are_expanded(shadow: Path) -> None:
    block = 'folder="a b"  # comment\nfor x in 1 2; do\n  python "$folder" \\\n    --n $x\ndone\n'
    found = commands_of(block, shadow)
    assert [c.words for c in found] == [("python", "a b", "--n", n) for n in ("1", "2")]
