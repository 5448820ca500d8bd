"""Arguments and errors that the scripts of ``tools/`` have in common, under detectron2's names."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ga_detectron2.errors import GAError
from ga_detectron2.modeling.compilation import compiler_failure

from .processes import exit_once

__all__ = [
    "add_config_file",
    "add_dataset",
    "add_overrides",
    "add_processes",
    "at_least",
    "errors_in_one_line",
    "make_parser",
]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows ``description``, a script's docstring, as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config_file(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """``--config-file``."""
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="FILE",
        help="YAML configuration of the model, such as configs/ga_faster_R_50.yaml",
    )


def add_dataset(parser: argparse._ActionsContainer, use: str) -> None:
    """``--dataset``, a list.

    Args:
        use: what the name of the data set is then for.
    """
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help=f"register a data set in COCO's format under NAME, for {use}; may be given several "
        "times",
    )


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """``opts``: keys and values at the end, for ``parse_intermixed_args``."""
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="keys of the configuration and their new values, such as TEST.DETECTIONS_PER_IMAGE 50",
    )


def add_processes(parser: argparse._ActionsContainer) -> None:
    """``--num-gpus``, ``--num-machines``, ``--machine-rank`` and ``--dist-url``."""
    parser.add_argument(
        "--num-gpus",
        type=at_least(1),
        default=1,
        metavar="N",
        help="processes on this machine, one a GPU, or on the CPU without one (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=at_least(1), default=1, metavar="N", help="machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank",
        type=at_least(0),
        default=0,
        metavar="N",
        help="number of this machine, from 0 (default: 0)",
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of the first machine, where there are several (default: auto, a free "
        "port of this one)",
    )


def at_least(least: int) -> Callable[[str], int]:
    """Type of an argument that is a whole number from ``least`` on."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return number


@contextmanager
def errors_in_one_line(tool: str, *kinds: type[Exception], once: bool = False) -> Iterator[None]:
    """End the process with ``TOOL: error: ...`` and status 1 for what a user can put right.

    Args:
        tool: name of the script.
        kinds: of errors, besides those of configurations, checkpoints, data, files, and of the
            compiler that ``TEST.COMPILE_BACKBONE`` calls.
        once: where all processes of this machine come upon it.
    """
    told: tuple[type[Exception], ...] = (GAError, OSError, *kinds)
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, told) else compiler_failure(error)
        if reason is None:
            raise
        message = f"{tool}: error: {reason}"
        exit_once(message) if once else sys.exit(message)
