"""``--help`` of every tool: its purpose, an example, and an explanation of each argument."""

import argparse
from collections.abc import Iterator
from unittest import mock

import pytest

from tests.docs.pages import PROJECT
from tests.docs.test_commands import ParsedError, load_script

TOOLS = sorted(path.name for path in (PROJECT / "tools").glob("*.py"))
# Tools use detectron2's names of options instead of these.
OTHER_NAMES = {"--config", "--cfg", "--out", "--output-dir", "--checkpoint", "--gpus"}


def parser_of(tool: str) -> argparse.ArgumentParser:
    def stop(self: argparse.ArgumentParser, *_args: object, **_keys: object) -> None:
        raise ParsedError(self)

    module = load_script(f"tools/{tool}")
    names = ("parse_args", "parse_intermixed_args")
    with (
        mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(names, stop)),
        pytest.raises(ParsedError) as found,
    ):
        module.main()
    return found.value.args[0]


def with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("tool", TOOLS)
def test_help(tool: str) -> None:
    parser = parser_of(tool)
    assert parser.description
    if tool != "pure_detectron2.py":
        assert f"    tools/{tool} " in parser.format_help(), "no example"
    for each in with_commands(parser):
        assert each.description
        assert not OTHER_NAMES & set(each._option_string_actions)
        for action in each._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action.dest
