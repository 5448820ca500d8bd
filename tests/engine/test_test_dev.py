"""From images without annotations to a file that can be handed in, by the commands of the page."""

import json
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "test_dev.md"


def commands() -> list[list[str]]:
    """The commands of the page, as lists of words."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python ")]


@pytest.fixture
def image_info(tiny_dataset: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A registered data set without annotations: its name and JSON."""
    json_file, folder = tiny_dataset.removeprefix("ga_tiny=").rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    del contents["annotations"]
    contents["categories"] = [{"id": 4, "name": "red"}, {"id": 9, "name": "green"}]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(contents))
    name = f"coco_tiny_test_dev_{tmp_path.name}"
    register_coco_instances(name, {}, str(path), folder)
    yield name, path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_detector_writes_what_can_be_handed_in(
    arguments: Callable,
    image_info: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    name, json_file = image_info
    weights = tmp_path / "weights.pth"
    # With a threshold of 0, an untrained model finds something everywhere.
    call = arguments("ga_faster_R_50", "--eval-only", MODEL__WEIGHTS=weights,
                     MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0, MODEL__FPN__OUT_CHANNELS=32,
                     DATASETS__TRAIN="()", DATASETS__TEST=f"('{name}',)")  # fmt: skip
    torch.manual_seed(0)
    model = build_model(load_config(call[1], call[5:], [call[3]]))
    torch.save({"model": model.state_dict(), "__author__": "test"}, weights)
    runpy.run_path(str(PROJECT / "tools" / "train_net.py"))["main"](call)
    results = tmp_path / "output" / "inference" / "coco_instances_results.json"
    assert {x["category_id"] for x in json.loads(results.read_text())} <= {4, 9}
    capsys.readouterr()
    check = runpy.run_path(str(PROJECT / "tools" / "check_results.py"))["main"]
    check([str(results), "--annotations", str(json_file)])
    assert re.search(r"can be handed in: [1-9]\d* detections", capsys.readouterr().out)


def test_the_commands_of_the_page_are_right() -> None:
    found = commands()
    assert len(found) == 6
    thresholds = []
    for _, script, *words in found:
        assert (PROJECT / script).is_file()
        if not script.endswith("train_net.py"):
            continue
        parse = runpy.run_path(str(PROJECT / script))["parse_args"]
        args = parse(words)
        cfg = load_config(str(PROJECT / args.config_file), args.opts)
        if args.eval_only:
            assert cfg.DATASETS.TEST == ("coco_2017_test-dev",)
            assert cfg.DATASETS.TEST[0] in DatasetCatalog
            assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
            is_retinanet = cfg.MODEL.META_ARCHITECTURE == "GARetinaNet"
            thresholds.append(
                cfg.MODEL.RETINANET.SCORE_THRESH_TEST
                if is_retinanet
                else cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
            )
    assert thresholds == [0.05, 0.001, 0.05, 0.05]
