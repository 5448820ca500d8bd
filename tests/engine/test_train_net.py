"""tools/train_net.py: training, resuming, scoring."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser

from ga_detectron2.modeling.compilation import compile_backbone
from tests.scripts import load_script

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "tools" / "train_net.py"


@pytest.fixture(scope="module")
def train_net():
    """The script as a module, for runs in this process."""
    return load_script("train_net")


def run_script(arguments: list[str], script: Path = SCRIPT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def metrics(folder: Path) -> dict[str, float]:
    """The latest value of everything that was written."""
    latest = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        latest.update(json.loads(line))
    return latest


@pytest.mark.slow
def test_trains_resumes_and_scores(
    train_net, arguments: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output"
    train_net.main(arguments("ga_rpn_R_50", SOLVER__CHECKPOINT_PERIOD=1, SOLVER__MAX_ITER=3))
    written = metrics(output)
    assert {"loss_anchor_loc", "loss_anchor_shape", "loss_rpn_cls", "loss_rpn_loc"} <= set(written)
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

    train_net.main(arguments("ga_rpn_R_50", "--eval-only", MODEL__WEIGHTS=str(final)))
    printed = capfd.readouterr().out
    assert "Starting training" not in printed
    tasks = [line for line in printed.splitlines() if "copypaste: Task" in line]
    assert [t.split()[-1] for t in tasks] == ["box_proposals", "proposal_recall"]
    assert "AR@100,ARs@100,ARm@100,ARl@100,AR@300," in printed


@pytest.mark.slow
def test_only_evaluation_compiles_the_backbone(
    train_net,
    arguments: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_cpp = functools.partial(compile_backbone, backend="aot_eager")
    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", without_cpp)
    torch._dynamo.reset()  # of what other tests have compiled there is a limit
    counters = torch._dynamo.utils.counters
    counters.clear()
    keys = {"TEST__COMPILE_BACKBONE": True, "OUTPUT_DIR": tmp_path}
    train_net.main(arguments("ga_faster_R_50", **keys))
    assert not counters["stats"]["unique_graphs"]
    results = tmp_path / "inference" / "coco_instances_results.json"
    expected = json.loads(results.read_text())
    results.unlink()
    weights = tmp_path / "model_final.pth"
    train_net.main(arguments("ga_faster_R_50", "--eval-only", MODEL__WEIGHTS=weights, **keys))
    assert counters["stats"]["unique_graphs"]
    found = json.loads(results.read_text())
    best = [sorted((x["score"] for x in part), reverse=True) for part in (expected, found)]
    assert len(best[0]) >= 3
    assert best[1][:3] == pytest.approx(best[0][:3], rel=1e-3)


@pytest.mark.slow
def test_test_time_augmentation(
    train_net, arguments: Callable, capfd: pytest.CaptureFixture
) -> None:
    train_net.main(
        arguments(
            "ga_faster_R_50",
            TEST__AUG__ENABLED=True,
            TEST__AUG__MIN_SIZES="(48, 64)",
            TEST__AUG__MAX_SIZE=100,
        )
    )
    printed = capfd.readouterr().out
    assert printed.count("copypaste: Task: bbox") == 2
    assert "DatasetMapperTTA" not in printed


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL__WEIGHTS": "absent.pth"}, "absent.pth"),
        ({"MODEL__NAME": "x"}, "MODEL.NAME"),
        ({"MODEL__META_ARCHITECTURE": "GARetinanet"}, "GARetinanet"),
        ({"MODEL__PROPOSAL_GENERATOR__NAME": "GARPN"}, "GARPN"),
        ({"MODEL__BACKBONE__NAME": "resnet"}, "resnet"),
        ({"MODEL__RESNETS__DEPTH": 7}, "7"),
        ({"MODEL__RPN__IN_FEATURES": "['p2', 'p9']"}, "p9"),
        ({"MODEL__GUIDED_ANCHOR__DEFORM_GROUPS": 5}, "DEFORM_GROUPS"),
        ({"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full"}, "the optimizer cannot be built: 'full'"),
        ({"SOLVER__LR_SCHEDULER_NAME": "MultiStepLR"}, "MultiStepLR"),
        ({"DATALOADER__SAMPLER_TRAIN": "Sampler"}, "Sampler"),
        ({"TEST__AUG__ENABLED": True, "MODEL__META_ARCHITECTURE": "ProposalNetwork"}, "TEST.AUG"),
        ({"TEST__PROPOSAL_RECALL_LIMITS": [], "MODEL__META_ARCHITECTURE": "ProposalNetwork"},
         "TEST.PROPOSAL_RECALL_LIMITS"),
    ],
)  # fmt: skip
def test_wrong_value_is_reported_before_training(
    train_net, arguments: Callable, overrides: dict, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train_net.main(arguments("small/ga_faster_R_18", **overrides))
    assert str(stop.value.code).startswith("train_net.py: error: ")
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_evaluation_without_weights_is_refused(train_net, arguments: Callable) -> None:
    with pytest.raises(SystemExit, match=r"^train_net.py: error: MODEL.WEIGHTS is empty"):
        train_net.main(arguments("ga_rpn_R_50", "--eval-only"))


def test_training_set_without_objects_is_refused(
    train_net, arguments: Callable, tiny_dataset: str, tmp_path: Path
) -> None:
    file, folder = tiny_dataset.partition("=")[2].split(":")
    contents = json.loads(Path(file).read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({**contents, "annotations": []}))
    name = f"ga_empty_{tmp_path.name}"
    with pytest.raises(SystemExit) as stop:
        train_net.main(
            arguments("ga_rpn_R_50", "--dataset", f"{name}={empty}:{folder}",
                      DATASETS__TRAIN=f"('{name}',)")
        )  # fmt: skip
    message = str(stop.value.code)
    assert message.startswith(f"train_net.py: error: dataset '{name}' ({empty}) has no object to")
    assert "DATALOADER.FILTER_EMPTY_ANNOTATIONS" in message
    assert "\n" not in message


def test_loss_that_is_not_finite_ends_the_run(train_net, arguments: Callable) -> None:
    with pytest.raises(SystemExit) as stop:
        train_net.main(
            arguments("ga_rpn_R_50", SOLVER__BASE_LR=1e30, SOLVER__WARMUP_ITERS=0,
                      SOLVER__MAX_ITER=20)
        )  # fmt: skip
    message = str(stop.value.code)
    assert "not finite at iteration" in message
    assert "loss_" in message.split("iteration")[1]
    assert "\n" not in message


@pytest.mark.slow
def test_error_of_two_processes_is_printed_once(arguments: Callable) -> None:
    done = run_script(
        arguments("ga_rpn_R_50", "--num-gpus", "2", "--dist-url", "auto", SOLVER__IMS_PER_BATCH=3)
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "SOLVER.IMS_PER_BATCH 3 must be a multiple of the 2 processes" in done.stderr
