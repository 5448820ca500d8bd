"""The commands of the pages that suit a CPU, run in the order of the pages with tiny models.

All run in one folder, as for a reader, so that each command finds the output of those before it.
"""

import re
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from ga_detectron2.data import embedded
from tests.docs.pages import DOCS, PROJECT, code_blocks, pages
from tests.docs.shell_commands import Command, commands_of
from tests.docs.test_commands import NOT_OURS, load_script

# Commands that test_commands.py only parses, by what they contain, and why.
NOT_RUN = {
    r"^(bash )?tools/\w+\.sh": "makes an environment first",
    r"ga://|detectron2://|tools/reproduce\.py": "downloads weights",
    r"--num-gpus (?!1\b)|--num-machines": "needs several GPUs",
    r"configs/(ga_|recipes/|lazy/)": "a model of full size, for COCO",
    r"^python benchmarks/": "takes minutes",
    r"(^|[ =('/])(poles|parts|faces)[/_]": "the reader's own dataset",
    r"NEU-DET": "photographs; tests/recipes/test_steel_defects.py trains on drawn ones",
    r"\.\./shared|test-dev": "data that are not part of the project",
    r"output/quickstart": "the model of tools/quickstart.sh",
    r"--from-mmdet": "needs MMDetection's file",
    r"--help|GA_DETECTRON2_CACHE": "nothing to see",
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


def is_run(command: Command) -> bool:
    text = str(command)
    return not any(re.fullmatch(known, text) for known in NOT_OURS) and not any(
        re.search(part, text) for part in NOT_RUN
    )


def with_small_settings(command: Command) -> list[str]:
    arguments = command.arguments
    keys = [part for pair in SMALL.items() for part in pair]
    name = Path(command.script).stem
    if name == "demo":
        return [*arguments, *([] if "--opts" in arguments else ["--opts"]), *keys]
    if name in TAKE_KEYS or (name == "plot" and arguments[0] in ("shapes", "anchors")):
        return [*arguments, *keys]
    return arguments


@pytest.mark.slow
def test_commands_run_in_the_order_of_the_pages(
    shadow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(embedded.CACHE_VARIABLE, str(tmp_path / "cache"))
    splits = tuple(embedded.Split(s.name, s.seed, num_images=4) for s in embedded.SPLITS)
    monkeypatch.setattr(embedded, "SPLITS", splits)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    (tmp_path / "pictures").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    cv2.imwrite("pictures/one.jpg", image)

    done: set[str] = set()
    first = DOCS / "getting_started.md"
    for page in [first, *(p for p in pages() if p != first)]:
        for block in code_blocks(page, "sh"):
            for command in commands_of(block, shadow):
                if str(command) not in done and is_run(command):
                    done.add(str(command))
                    run(command, page)
    assert {w.split()[1] for w in done} >= {
        f"tools/{name}.py" for name in (*TAKE_KEYS, "demo", "plot", "check_dataset")
    }
    assert Path("output/small/ga_rpn_R_18/visualization/overview.png").is_file()
    assert Path("output/fast/model_final.pth").is_file()
    assert list(Path("output/demo").iterdir())


def run(command: Command, page: Path) -> None:
    script = load_script(command.script)
    with mock.patch("sys.argv", [command.script, *with_small_settings(command)]):
        try:
            script.main()
        except SystemExit as stop:
            if stop.code not in (0, None):
                pytest.fail(f"{page.name}: {command}: {stop}")
