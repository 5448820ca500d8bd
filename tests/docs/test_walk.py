"""The commands of the pages that a CPU can run, run in the order of the pages, in small.

All in one folder, as a reader would, so that a command finds what those before it have left. The
embedded data sets have a few images, models are narrow, trainings have two iterations.
"""

import re
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from ga_detectron2.data import embedded
from tests.docs.pages import PROJECT, pages, shell_blocks
from tests.docs.shell_commands import Command, commands_of
from tests.docs.test_commands import NOT_OURS, load_script

# Commands that are checked by test_commands.py alone, by what they contain, and why.
NOT_RUN = {
    r"^(bash )?tools/\w+\.sh": "makes an environment first",
    r"ga://|detectron2://": "downloads weights",
    r"--num-gpus (?!1\b)|--num-machines": "needs several GPUs; tests/engine has two processes",
    r"configs/(ga_|recipes/|lazy/)": "a model of full size, for COCO: tests/engine, tests/recipes",
    r"^python benchmarks/": "takes minutes; each benchmark has a test of its own",
    r"(^|[ =('/])(poles|parts|ships)[/_]": "the reader's own data",
    r"\.\./shared|test-dev": "data that are not part of the project",
    r"tools/reproduce\.py": "needs the published weights: tests/model_zoo/test_reproduce.py",
    r"output/quickstart": "the model of tools/quickstart.sh",
    r"--webcam|--video-input": "needs a camera or a video: tests/visualization/test_tools.py",
    r"--help": "prints a text",
    r"--from-mmdet": "needs MMDetection's file: tests/engine/test_dump_proposals.py",
    r"GA_DETECTRON2_CACHE": "writes elsewhere",
    r"tools/export|model_zoo": "see tests/export and tests/model_zoo",
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "50",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.MAX_ITER": "2",
}
TAKE_KEYS = ("train_net", "visualize_results", "diagnose", "dump_proposals")


def why_not(command: Command) -> str | None:
    """Why a command is not run here; None if it is."""
    for expression, reason in [*NOT_OURS.items(), *NOT_RUN.items()]:
        match = re.fullmatch if expression in NOT_OURS else re.search
        if match(expression, str(command)):
            return reason
    return None


def in_small(command: Command) -> list[str]:
    """The command's arguments, with the keys of SMALL added."""
    arguments = command.arguments
    keys = [part for pair in SMALL.items() for part in pair]
    name = Path(command.script).stem
    if name == "demo":
        return [*arguments, *([] if "--opts" in arguments else ["--opts"]), *keys]
    if name in TAKE_KEYS or (name == "plot" and arguments[0] in ("shapes", "anchors")):
        return [*arguments, *keys]
    return arguments


@pytest.mark.slow
def test_a_walk_through_the_pages(
    shadow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(embedded.CACHE_VARIABLE, str(tmp_path / "cache"))
    splits = tuple(embedded.Split(s.name, s.seed, num_images=4) for s in embedded.SPLITS)
    monkeypatch.setattr(embedded, "SPLITS", splits)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    (tmp_path / "pictures").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    cv2.imwrite("pictures/one.jpg", picture)

    done: set[str] = set()
    order = [PROJECT / "docs" / f"{name}.md" for name in ("getting_started", "questions")]
    for page in [*order, *(p for p in pages() if p not in order)]:
        for block in shell_blocks(page):
            for command in commands_of(block, shadow):
                if str(command) in done or why_not(command):
                    continue
                done.add(str(command))
                run(command, page)
    assert {w.split()[1] for w in done} >= {
        f"tools/{name}.py" for name in (*TAKE_KEYS, "demo", "plot", "check_dataset")
    }
    for written in (
        "output/small/ga_rpn_R_18/model_final.pth",
        "output/small/ga_rpn_R_18/visualization/overview.png",
        "output/proposals/val.pkl",
        "output/fast/model_final.pth",
    ):
        assert Path(written).is_file(), written
    assert [p.suffix for p in Path("output/demo").iterdir()], "the demo wrote nothing"


def run(command: Command, page: Path) -> None:
    script = load_script(command.script)
    arguments = in_small(command)
    with mock.patch("sys.argv", [command.script, *arguments]):
        try:
            script.main()
        except SystemExit as stop:
            if stop.code not in (0, None):
                pytest.fail(f"{page.name}: {command}: {stop}")
