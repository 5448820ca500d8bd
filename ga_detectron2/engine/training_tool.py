"""What ``train_net.py`` and ``lazyconfig_train_net.py`` have in common."""

import argparse
import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer

from .command_line import add_dataset, add_processes, errors_in_one_line, make_parser
from .output_paths import check_output_folder
from .processes import run_processes, share_threads, use_torchrun

__all__ = ["Run", "TrainingTool", "make_training_parser"]

# What a disk says that takes no more. (Some systems lack the quota's.)
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Run(NamedTuple):
    """A configuration that a run can start with.

    Attributes:
        cfg: complete and checked.
        output_dir: where all that is written goes.
        device: of the model.
        note: to log.
    """

    cfg: Any
    output_dir: str
    device: str
    note: str | None


class TrainingTool(NamedTuple):
    """A script that trains and scores. Its functions are found by their names in it.

    Attributes:
        name: of the script.
        prepare: reads and checks the configuration; every process does so.
        evaluate: scores weights.
        train: trains.
        output_key: what the configuration calls the folder for all that is written.
    """

    name: str
    prepare: Callable[[argparse.Namespace], Run]
    evaluate: Callable[[Any, argparse.Namespace], Any]
    train: Callable[[Any, argparse.Namespace], Any]
    output_key: str = "OUTPUT_DIR"

    def start(self, args: argparse.Namespace) -> None:
        """Train, or score with ``--eval-only``, in the processes that ``args`` ask for.

        Args:
            args: of :func:`make_training_parser`.

        Raises:
            SystemExit: with one line, for what a user can put right.
        """
        with errors_in_one_line(self.name, once=True):
            use_torchrun(args)
            # Before any process is started: a mistake is then reported once.
            run = self.prepare(args)
            check_output_folder(self.output_key, run.output_dir)
            run_processes(functools.partial(_work, self), args)


def _work(tool: TrainingTool, args: argparse.Namespace) -> None:
    """What every process does."""
    with errors_in_one_line(tool.name, FloatingPointError):
        run = tool.prepare(args)
        with _full_disk_told(tool.output_key, run.output_dir):
            default_setup(run.cfg, args)
            logger = setup_logger(run.output_dir, comm.get_rank(), name="ga_detectron2")
            if run.note:
                logger.warning(run.note)
            if run.device == "cpu":
                share_threads()
            (tool.evaluate if args.eval_only else tool.train)(run.cfg, args)
            logger.info(f"Everything that was written is in {run.output_dir}")


@contextmanager
def _full_disk_told(key: str, folder: str) -> Iterator[None]:
    """Say where a run wrote, and what it can resume from, for errors that name no file.

    Python names a file that it cannot open, but not one that cannot grow.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        last = os.path.basename(GACheckpointer(nn.Identity(), folder).get_checkpoint_file())
        raise OSError(
            f"a file could not be written ({error.strerror}); {key} is {folder}. "
            + (f"The last checkpoint is {last}" if last else "There is no checkpoint yet")
        ) from error


def make_training_parser(
    description: str | None, epilog: str, config_file: str, overrides: str, use: str
) -> argparse.ArgumentParser:
    """A parser of the arguments of detectron2's ``default_argument_parser``, and ``--dataset``.

    Without ``--dist-url``, a run on one machine takes a port that is free; detectron2's takes the
    same one for all runs of a user.

    Args:
        description: a script's docstring.
        epilog: examples.
        config_file, overrides: help on ``--config-file`` and on what comes last.
        use: as of :func:`.add_dataset`.
    """
    parser = make_parser(description)
    parser.epilog = epilog
    parser.add_argument("--config-file", default="", metavar="FILE", help=config_file)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in the output folder, as if the training had not been "
        "cut off; where there is none, start from the beginning",
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="score the weights on the test sets; train nothing",
    )
    add_processes(parser)
    add_dataset(parser, use)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=overrides)
    return parser
