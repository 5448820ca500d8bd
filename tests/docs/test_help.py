"""--help of every script of tools/: what it is for, an example, and a word on each argument."""

import argparse
from collections.abc import Iterator
from unittest import mock

import pytest

from tests.docs.pages import PROJECT
from tests.docs.test_commands import load_script

SCRIPTS = sorted(path.name for path in (PROJECT / "tools").glob("*.py"))
# Arguments that several scripts have go by one name, detectron2's where it has one.
OTHER_NAMES = {
    "--config",
    "--cfg",
    "--out",
    "--output-dir",
    "--checkpoint",
    "--gpus",
    "--images-dir",
}


class FoundError(Exception):
    """Carries a script's parser."""


def parser_of(script: str) -> argparse.ArgumentParser:
    def stop(self: argparse.ArgumentParser, *_args: object, **_keys: object) -> None:
        raise FoundError(self)

    names = ("parse_args", "parse_intermixed_args")
    module = load_script(f"tools/{script}")
    with (
        mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(names, stop)),
        pytest.raises(FoundError) as found,
    ):
        module.parse_args([])
    return found.value.args[0]


def with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    parser = parser_of(script)
    purpose, *rest = parser.format_help().partition("\n\n")[2].splitlines()
    assert purpose.endswith(".")
    assert len(purpose) > 30
    assert any(line.startswith(f"    tools/{script} ") for line in rest), "no example"
    assert max(map(len, (parser.description or "").splitlines())) <= 100
    for each in with_commands(parser):
        assert each.description
        assert not OTHER_NAMES & set(each._option_string_actions)
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                continue
            name = action.option_strings or action.dest
            assert action.help, f"{name} is not explained"
            assert len(action.help) > 10, f"{name}: {action.help}"
            if action.default and isinstance(action.default, int | float | str) and action.metavar:
                assert "default: " in action.help, f"{name}: what is taken without it?"
