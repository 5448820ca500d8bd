"""Shared options and error reporting of the tools, with detectron2's option names."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.engine import default_argument_parser

from ga_detectron2.data.images import printable
from ga_detectron2.errors import GAError
from ga_detectron2.modeling.compilation import compiler_failure

from .processes import exit_once

__all__ = [
    "add_confidence_threshold",
    "add_config_file",
    "add_dataset",
    "add_model",
    "add_number",
    "add_overrides",
    "add_processes",
    "at_least",
    "errors_in_one_line",
    "input_files",
    "make_parser",
    "make_training_parser",
    "write_json",
]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows ``description``, the docstring of a script, unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def make_training_parser(description: str | None, epilog: str) -> argparse.ArgumentParser:
    """detectron2's ``default_argument_parser`` with ``--dataset``.

    The default of ``--dist-url`` is a free port; detectron2's is the same port for all runs of a
    user.

    Args:
        description: docstring of a script.
        epilog: examples.
    """
    parser = default_argument_parser(epilog)
    parser.description = description
    parser.set_defaults(dist_url="auto")
    add_dataset(parser, "the training and test datasets of the configuration")
    return parser


def add_model(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add ``--config-file``, ``--dataset`` and ``opts``, for ``parse_intermixed_args``.

    ``opts`` are keys and values at the end.
    """
    add_config_file(parser, required)
    add_dataset(parser, "DATASETS.TEST")
    add_overrides(parser)


def add_config_file(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add ``--config-file``."""
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="FILE",
        help="YAML configuration of the model, such as configs/ga_faster_R_50.yaml",
    )


def add_dataset(parser: argparse._ActionsContainer, use: str) -> None:
    """Add ``--dataset``, a list.

    Args:
        use: where the name of the dataset can be used.
    """
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help=f"register a dataset in COCO format as NAME, for {use}; may be repeated",
    )


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """Add ``opts``, keys and values at the end, for ``parse_intermixed_args``."""
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="configuration keys and their new values, such as TEST.DETECTIONS_PER_IMAGE 50",
    )


def add_confidence_threshold(parser: argparse._ActionsContainer) -> None:
    """Add ``--confidence-threshold``."""
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="minimum score of detections, 0 to 1 (default: 0.5)",
    )


def add_number(
    parser: argparse._ActionsContainer, option: str, default: int, text: str, minimum: int = 1
) -> None:
    """Add an option that is an integer; the help is ``text`` with the default."""
    text = f"{text} (default: {default})"
    kind = at_least(minimum)
    parser.add_argument(option, type=kind, default=default, metavar="N", help=text)


def add_processes(parser: argparse._ActionsContainer) -> None:
    """Add ``--num-gpus``, ``--num-machines``, ``--machine-rank`` and ``--dist-url``."""
    text = "processes on this machine: one per GPU, or on the CPU"
    add_number(parser, "--num-gpus", 1, text)
    add_number(parser, "--num-machines", 1, "number of machines")
    add_number(parser, "--machine-rank", 0, "rank of this machine, from 0", minimum=0)
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of the first machine (default: auto, a free port of this machine)",
    )


def write_json(tool: str, path: str, content: Any) -> None:
    """Write the file of ``--json``, whose folder may be missing, and print its path."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
    print(f"{tool}: the results are in {printable(path)}")


def input_files(args: argparse.Namespace) -> list[str]:
    """Files that the options name as inputs: configuration, annotations and weights."""
    datasets = [x.partition("=")[2].rpartition(":")[0] for x in getattr(args, "dataset", [])]
    opts = getattr(args, "opts", [])
    weights = [opts[i + 1] for i, key in enumerate(opts[:-1]) if key == "MODEL.WEIGHTS"]
    return [*filter(None, [getattr(args, "config_file", None)]), *datasets, *weights]


def at_least(minimum: int) -> Callable[[str], int]:
    """Type of an argument that is an integer of at least ``minimum``."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, not '{text}'") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return number


@contextmanager
def errors_in_one_line(tool: str, *kinds: type[Exception], once: bool = False) -> Iterator[None]:
    """End the process with ``TOOL: error: ...`` and status 1 for errors that users can correct.

    Args:
        tool: name of the script.
        kinds: further kinds of errors, besides ``GAError``, ``OSError`` and a failure of the
            compiler that ``TEST.COMPILE_BACKBONE`` calls.
        once: whether all processes of this machine encounter the error, and one reports it.
    """
    try:
        yield
    except Exception as error:
        is_known = isinstance(error, (GAError, OSError, *kinds))
        reason = str(error) if is_known else compiler_failure(error)
        if reason is None:
            raise
        message = f"{tool}: error: {reason}"
        exit_once(message) if once else sys.exit(message)
