"""tools/train_net.py: training, resuming, scoring."""

import errno
import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_argument_parser
from detectron2.engine.hooks import IterationTimer

from ga_detectron2.modeling.compilation import compile_backbone
from tests.runs import GA_LOSSES, metrics, results
from tests.scripts import load_script


@pytest.fixture(scope="module")
def train_net() -> ModuleType:
    return load_script("train_net")


def error_of(train_net: ModuleType, argv: list[str]) -> str:
    """The error of a run, which must be one line."""
    with pytest.raises(SystemExit) as stop:
        train_net.main(argv)
    message = str(stop.value.code)
    assert message.startswith("train_net.py: error: ")
    assert "\n" not in message
    return message.removeprefix("train_net.py: error: ")


@pytest.mark.slow
def test_trains_resumes_and_scores(
    train_net: ModuleType, arguments: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output"
    train_net.main(arguments("ga_rpn_R_50", SOLVER__CHECKPOINT_PERIOD=1, SOLVER__MAX_ITER=3))
    written = metrics(output)
    assert set(written) >= GA_LOSSES
    assert written["iteration"] in (2, 3)  # detectron2 counts once more for the last scores
    assert {"proposal_recall/AR@300", "box_proposals/AR@1000"} <= set(written)
    printed = capfd.readouterr().out
    assert "eta: " in printed
    assert "loss_anchor_loc: " in printed

    # As if the run had been interrupted after its second iteration of four.
    (output / "last_checkpoint").write_text("model_0000001.pth")
    state = torch.load(output / "model_0000001.pth", weights_only=True)
    assert state["iteration"] == 1
    train_net.main(arguments("ga_rpn_R_50", "--resume", SOLVER__MAX_ITER=4))
    assert "Starting training from iteration 2" in capfd.readouterr().out
    final = output / "model_final.pth"
    assert torch.load(final, weights_only=True)["iteration"] == 3

    train_net.main(arguments("ga_rpn_R_50", "--eval-only", MODEL__WEIGHTS=final))
    printed = capfd.readouterr().out
    assert "Starting training" not in printed
    tasks = [line for line in printed.splitlines() if "copypaste: Task" in line]
    assert [t.split()[-1] for t in tasks] == ["box_proposals", "proposal_recall"]
    assert "AR@100,ARs@100,ARm@100,ARl@100,AR@300," in printed


@pytest.mark.slow
def test_only_evaluation_compiles_the_backbone(
    train_net: ModuleType, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler = functools.partial(compile_backbone, backend="eager")
    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", without_compiler)
    torch._dynamo.reset()  # of what other tests have compiled there is a limit
    counters = torch._dynamo.utils.counters
    counters.clear()
    keys = {"TEST__COMPILE_BACKBONE": True, "MODEL__RESNETS__DEPTH": 18,
            "MODEL__RESNETS__RES2_OUT_CHANNELS": 64, "SOLVER__MAX_ITER": 1,
            "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}  # fmt: skip
    train_net.main(arguments("ga_faster_R_50", **keys))
    assert not counters["stats"]["unique_graphs"]
    output = tmp_path / "output"
    expected = results(output)
    weights = output / "model_final.pth"
    train_net.main(arguments("ga_faster_R_50", "--eval-only", MODEL__WEIGHTS=weights, **keys))
    assert counters["stats"]["unique_graphs"]
    best = [
        sorted((x["score"] for x in part), reverse=True) for part in (expected, results(output))
    ]
    assert len(best[0]) >= 3
    assert best[1][:3] == pytest.approx(best[0][:3], rel=1e-3)


@pytest.mark.slow
def test_test_time_augmentation(
    train_net: ModuleType, arguments: Callable, capfd: pytest.CaptureFixture
) -> None:
    sizes = {"TEST__AUG__MIN_SIZES": "(48, 64)", "TEST__AUG__MAX_SIZE": 100}
    train_net.main(arguments("ga_faster_R_50", TEST__AUG__ENABLED=True, **sizes))
    printed = capfd.readouterr().out
    assert printed.count("copypaste: Task: bbox") == 2
    assert "DatasetMapperTTA" not in printed


def test_results_without_annotations_can_be_submitted(
    train_net: ModuleType,
    arguments: Callable,
    save_weights: Callable,
    tiny_dataset: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """From a dataset as COCO's test-dev to a file for the evaluation server."""
    json_file, folder = tiny_dataset.removeprefix("ga_tiny=").rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    del contents["annotations"]
    contents["categories"] = [{"id": 4, "name": "red"}, {"id": 9, "name": "green"}]
    image_info = tmp_path / "image_info.json"
    image_info.write_text(json.dumps(contents))
    name = f"coco_tiny_test_dev_{tmp_path.name}"
    register_coco_instances(name, {}, str(image_info), folder)
    weights = save_weights("ga_faster_R_50")
    # With a threshold of 0, an untrained model finds something everywhere.
    keys = {"MODEL__WEIGHTS": weights, "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0,
            "DATASETS__TRAIN": "()", "DATASETS__TEST": f"('{name}',)"}  # fmt: skip
    train_net.main(arguments("ga_faster_R_50", "--eval-only", **keys))
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    assert {x["category_id"] for x in results(tmp_path / "output")} <= {4, 9}
    capsys.readouterr()
    found = tmp_path / "output" / "inference" / "coco_instances_results.json"
    load_script("check_results").main([str(found), "--annotations", str(image_info)])
    assert re.search(r"can be uploaded: [1-9]\d* detections", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["train_net", "lazyconfig_train_net"])
def test_arguments_are_those_of_detectron2(name: str) -> None:
    parse = load_script(name).parse_args
    theirs = default_argument_parser()
    for words in (
        [],
        ["--config-file", "a.yaml", "--resume", "--eval-only", "--dist-url", "tcp://a:1"],
        ["--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1", "A.B", "-1", "--resume"],
    ):
        ours, expected = vars(parse(words)), vars(theirs.parse_args(words))
        assert ours.pop("dataset") == []
        if "--dist-url" not in words:
            assert ours["dist_url"] == "auto"
            del ours["dist_url"], expected["dist_url"]
        assert ours == expected


PROPOSALS = {"MODEL__META_ARCHITECTURE": "ProposalNetwork"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL__WEIGHTS": "absent.pth"}, "absent.pth"),
        ({"MODEL__PROPOSAL_GENERATOR__NAME": "GARPN"}, "the model cannot be built: .*GARPN"),
        ({"MODEL__GUIDED_ANCHOR__DEFORM_GROUPS": 5}, "DEFORM_GROUPS"),
        ({"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full"}, "the optimizer cannot be built: 'full'"),
        ({"SOLVER__LR_SCHEDULER_NAME": "MultiStepLR"}, "schedule cannot be built: .*MultiStepLR"),
        ({"DATALOADER__SAMPLER_TRAIN": "Sampler"}, "DATASETS.TRAIN: the data loader .*Sampler"),
        ({"TEST__AUG__ENABLED": True, **PROPOSALS}, "TEST.AUG"),
        ({"TEST__PROPOSAL_RECALL_LIMITS": [], **PROPOSALS}, "TEST.PROPOSAL_RECALL_LIMITS"),
    ],
)
def test_wrong_value_is_reported_before_training(
    train_net: ModuleType, arguments: Callable, overrides: dict, message: str
) -> None:
    assert re.search(message, error_of(train_net, arguments("ga_faster_R_50", **overrides)))


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        (["--eval-only"], {}, "MODEL.WEIGHTS is empty"),
        (["--num-gpus", 2], {"SOLVER__IMS_PER_BATCH": 3}, "3 must be a multiple of the 2 proc"),
        ([], {"OUTPUT_DIR": "/proc/nothing"}, "OUTPUT_DIR: /proc/nothing cannot be written"),
    ],
)
def test_mistake_is_reported_before_processes_start(
    train_net: ModuleType,
    arguments: Callable,
    monkeypatch: pytest.MonkeyPatch,
    options: list,
    overrides: dict,
    message: str,
) -> None:
    if "--eval-only" not in options:
        monkeypatch.setattr(train_net, "run_processes", lambda *_: pytest.fail("has started"))
    assert message in error_of(train_net, arguments("ga_rpn_R_50", *options, **overrides))


def test_training_set_without_objects_is_refused(
    train_net: ModuleType, arguments: Callable, tiny_dataset: str, tmp_path: Path
) -> None:
    file, folder = tiny_dataset.partition("=")[2].split(":")
    contents = json.loads(Path(file).read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({**contents, "annotations": []}))
    name = f"ga_empty_{tmp_path.name}"
    dataset = ["--dataset", f"{name}={empty}:{folder}"]
    argv = arguments("ga_rpn_R_50", *dataset, DATASETS__TRAIN=f"('{name}',)")
    message = error_of(train_net, argv)
    assert message.startswith(f"dataset '{name}' ({empty}) has no object to")
    assert "DATALOADER.FILTER_EMPTY_ANNOTATIONS" in message


def test_loss_that_is_not_finite_ends_the_run(train_net: ModuleType, arguments: Callable) -> None:
    keys = {"SOLVER__BASE_LR": 1e30, "SOLVER__WARMUP_ITERS": 0, "SOLVER__MAX_ITER": 20}
    message = error_of(train_net, arguments("ga_rpn_R_50", **keys))
    assert re.search("not finite at iteration .*loss_", message)


def test_unwritable_log_is_reported(
    train_net: ModuleType, arguments: Callable, tmp_path: Path
) -> None:
    (tmp_path / "output" / "log.txt").mkdir(parents=True)
    assert error_of(train_net, arguments("ga_rpn_R_50")).endswith("log.txt'")


@pytest.mark.parametrize("saved", [True, False])
def test_disk_that_becomes_full_outside_of_a_checkpoint(
    train_net: ModuleType,
    arguments: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved: bool,
) -> None:
    ended = IterationTimer.after_step

    def after_step(self: IterationTimer) -> None:
        ended(self)
        if self.trainer.iter == 1:
            # As of a file that is open: the error has no name.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IterationTimer, "after_step", after_step)
    keys = {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 1 if saved else 10}
    last = "The last checkpoint is model_0000000.pth" if saved else "There is no checkpoint yet"
    assert error_of(train_net, arguments("ga_rpn_R_50", **keys)) == (
        "a file could not be written (No space left on device); "
        f"OUTPUT_DIR is {tmp_path / 'output'}. {last}"
    )
