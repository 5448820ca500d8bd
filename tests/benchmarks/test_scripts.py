"""Every benchmark in small, and those of its numbers that are known."""

import itertools
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.checkpoint.reference import CONFIGS, NARROW

TINY = ["--repeats", "1", "--threads", "1"]


def results_of(path: Path) -> list[dict]:
    found = json.loads(path.read_text())
    assert found["machine"]["torch"] == torch.__version__
    return found["results"]


# ------------------------------------------------------------------------------------ whole models


def model_args(**more: object) -> Namespace:
    defaults = {
        "device": "cpu",
        "opts": NARROW,
        "equal_rois": False,
        "size": (64, 96),
        "classes": 80,
    }
    return Namespace(**{**defaults, "boxes": 3, **more})


@pytest.mark.parametrize("name", ["ga_rpn_R_50", "ga_faster_X_101_32x4d", "ga_retinanet_R_101"])
def test_twins_differ_only_in_their_heads(benchmark_module, name: str) -> None:
    models = benchmark_module("models")
    ours, theirs = models.make_configs(name, model_args(device="meta"))
    with torch.device("meta"):
        shapes = [
            {k: v.shape for k, v in models.build_model(cfg).backbone.state_dict().items()}
            for cfg in (ours, theirs)
        ]
    assert shapes[0] == shapes[1]
    assert ours.INPUT.FORMAT == theirs.INPUT.FORMAT
    kinds = [
        (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME) for cfg in (ours, theirs)
    ]
    assert (
        kinds
        == {
            "ga_rpn": [("ProposalNetwork", "GuidedAnchorRPN"), ("ProposalNetwork", "RPN")],
            "ga_faster": [("GeneralizedRCNN", "GuidedAnchorRPN"), ("GeneralizedRCNN", "RPN")],
            "ga_retinanet": [("GARetinaNet", "RPN"), ("RetinaNet", "RPN")],
        }["_".join(name.split("_")[:2])]
    )


def test_share_of_cells_that_pass(benchmark_module) -> None:
    from ga_detectron2 import record_guided_anchors

    models, args = benchmark_module("models"), model_args()
    model = models.make_model(models.make_configs("ga_rpn_R_50", args)[0]).eval()
    inputs = models.make_inputs(args, 1)
    models.set_share(model, lambda: model(inputs), 0.3)
    with torch.no_grad(), record_guided_anchors(model) as records:
        model(inputs)
    kept = model.proposal_generator.guided_anchoring.kept_cells(records[0].loc_logits)
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_models(benchmark_module, tmp_path: Path) -> None:
    models = benchmark_module("models")
    path = tmp_path / "models.json"
    files = "=".join(f"{CONFIGS}/steel_defects/{x}.yaml" for x in ("ga_rpn", "rpn_3_anchors"))
    models.main(
        [*TINY, "--models", "ga_rpn_R_50", "retinanet_R_50", files, "--size", "64", "96",
         "--batch", "2", "--precision", "float32", "amp", "--boxes", "3", "--classes", "6",
         "--output", str(path), "--opts", *NARROW]
    )  # fmt: skip
    lines = results_of(path)
    assert [(x["model"], x["mode"], x["precision"]) for x in lines] == list(
        itertools.product(
            ("ga_rpn_R_50", "ga_retinanet_R_50", files),
            ("inference", "training"),
            ("float32", "amp"),
        )
    )
    for line in lines:
        theirs, ours = line["detectron2_images_per_s"], line["ours_images_per_s"]
        assert line["ratio"] == pytest.approx(ours / theirs)
    with pytest.raises(SystemExit):
        models.main(["--models", "yolo"])


# ---------------------------------------------------------------------------------------- the heads


def test_heads(benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    heads, path = benchmark_module("heads"), tmp_path / "heads.json"
    size = ["--size", "64", "96", "--boxes", "3", "--share", "0.1", "--memory"]
    heads.main([*TINY, *size, "--output", str(path)])
    lines = results_of(path)
    assert [x["name"] for x in lines] == [x.name for x in heads.LINES]
    rows = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| GA-")]
    for line, row in zip(lines, rows, strict=True):
        assert line["ratio"] == pytest.approx(line["ours_s"] / line["detectron2_s"])
        # At least a map of the finest level.
        level = 2 if "RPN" in line["name"] else 3
        assert min(line["memory_mib"]) > 4 * 32 * (64 >> level) * (96 >> level) / 2**20
        theirs, ours = line["memory_mib"]
        assert line["memory_ratio"] == pytest.approx(ours / theirs)
        text = benchmark_module("report").text
        assert f"| {text(line['ratio'])} | {text([theirs, ours])} |" in row


def test_a_ratio_above_its_bar_fails(
    benchmark_module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    heads = benchmark_module("heads")
    times = iter([[2.0], [2.1], [1.0], [0.91]] * 2)
    monkeypatch.setattr(heads, "make_step", lambda *_: None)
    monkeypatch.setattr(heads, "take_turns", lambda *_, limit: [next(times), next(times)])
    with pytest.raises(SystemExit, match="above the bar: GA-RPN head, training step, no prop"):
        heads.main([*TINY, "--lines", "0", "1"])
    assert "| 1.05 |  |  | 1 | 1.05 |" in capsys.readouterr().out
    # Bars of small images, and none for another setting.
    heads.main([*TINY, "--small", "--lines", "0", "1"])
    assert "| 0.910 |  |  | 1 | 1.10 |" in capsys.readouterr().out
    args = heads.argparse.Namespace(device="cuda", batch=1, boxes=60, share=0.05, precision="amp")
    assert heads.bar_of(heads.LINES[0], args) is None


# --------------------------------------------------------------------------------- feature adaption


def test_adaption(benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adaption, path = benchmark_module("adaption"), tmp_path / "adaption.json"
    monkeypatch.setattr(adaption, "CHANNELS", 16)
    sizes = ["--levels", "6x9", "--shares", "0.1", "1", "--precision", "float32", "amp"]
    adaption.main([*TINY, *sizes, "--output", str(path)])
    lines = results_of(path)
    assert [(x["part"], x["precision"]) for x in lines[::2]] == [
        ("adaption", "float32"),
        ("adaption", "amp"),
        ("conv3x3 to 80", "float32"),
        ("conv3x3 to 4", "float32"),
    ]
    for line in lines:
        names = ["0.1", "1", "dense"]
        names += ["deform_conv2d"] if line["part"] == "adaption" else []
        assert list(line["milliseconds"]) == names
        # All cells by every way, against torchvision's operators.
        assert line["largest_difference"] < (1e-5 if line["precision"] == "float32" else 2e-2)
        # Tiny maps: the least share or none, as the times are.
        ms, pays_from = line["milliseconds"], line["pays_from"]["dense"]
        slower = [s for s in (0.1, 1.0) if ms[f"{s:g}"] >= ms["dense"]]
        assert pays_from == (slower[0] if slower else None)


# ------------------------------------------------------------------------------------------ targets


def test_targets(benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, path = benchmark_module("targets"), tmp_path / "targets.json"
    case = [*TINY, "--sizes", "96x64", "--boxes", "1", "9", "--output", str(path)]
    targets.main(case)
    lines = results_of(path)
    assert [(x["size"], x["boxes"]) for x in lines] == [([96, 64], 1), ([96, 64], 9)]
    for line in lines:
        assert min(line["seconds"].values()) > 0
        # At least the labels of all cells, eight bytes each, are there at some time.
        assert 8 * (24 * 16 + 12 * 8) / 2**20 < line["memory_mib"] < targets.bound_mib("cpu", 1)
    monkeypatch.setitem(targets.BOUND_MIB, "cpu", 0.001)
    with pytest.raises(SystemExit, match="more memory was taken than bound_mib"):
        targets.main(case)


def test_missing_mmdetection_is_reported(benchmark_module, tmp_path: Path) -> None:
    compare = benchmark_module("mmdetection.compare")
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    fake.chmod(0o755)
    args = Namespace(
        mmdet_python=fake, size=(64, 96), batch=1, boxes=3, share=0.1, threads=1, repeats=1
    )
    with pytest.raises(RuntimeError, match=r"time_heads.py failed in (.|\n)*No module named"):
        compare.time_targets(args)


@pytest.fixture
def fake_mmdet_python(tmp_path: Path) -> Path:
    """A program that answers with its inputs' shapes as versions, and one second."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "import numpy as np\n"
        "inputs = np.load(sys.argv[2], allow_pickle=False)\n"
        "shapes = {k: list(inputs[k].shape) for k in inputs.files}\n"
        "out = sys.argv[sys.argv.index('--output') + 1]\n"
        "open(out, 'w').write(json.dumps({'versions': shapes, 'seconds': [1.0]}))\n"
    )
    fake.chmod(0o755)
    return fake


def test_inputs_and_results_cross_environments(benchmark_module, fake_mmdet_python: Path) -> None:
    args = Namespace(
        mmdet_python=fake_mmdet_python, size=(64, 96), batch=2, boxes=3, share=0.1, threads=1,
        repeats=1,
    )  # fmt: skip
    line = benchmark_module("heads").LINES[2]
    seconds, shapes = benchmark_module("mmdetection.compare").time_line(line, args)
    assert seconds == 1.0
    assert [shapes[f"p{i}"] for i in (2, 6)] == [[2, 32, 16, 24], [2, 32, 1, 2]]
    assert shapes["boxes.1"][1] == 4
    assert shapes["classes.1"] == shapes["boxes.1"][:1]


def test_comparison_with_mmdetection(
    benchmark_module, fake_mmdet_python: Path, tmp_path: Path
) -> None:
    path = tmp_path / "compare.json"
    benchmark_module("mmdetection.compare").main(
        [*TINY, "--mmdet-python", str(fake_mmdet_python), "--size", "64", "96", "--boxes", "3",
         "--lines", "0", "4", "--output", str(path)]
    )  # fmt: skip
    lines = results_of(path)
    assert [x["name"] for x in lines] == [
        "GA-RPN head, inference",
        "GA-RetinaNet head, training step",
        "targets",
    ]
    assert all(line["mmdetection_s"] == 1.0 for line in lines)
    assert lines[0]["mmdetection_ratio"] == pytest.approx(1 / lines[0]["detectron2_s"])
    assert lines[2]["share_of_mmdetection"] == pytest.approx(lines[2]["seconds"]["all"])


def test_wrong_arguments_of_the_comparison_fail_at_once(
    benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main = benchmark_module("mmdetection.compare").main
    absent = tmp_path / "bin" / "python"
    for options, message in (
        ([], "the following arguments are required: --mmdet-python"),
        (["--mmdet-python", str(absent)], f"--mmdet-python {absent}: no such program; name the"),
        (["--mmdet-python", sys.executable, "--device", "cuda"], "run on a CPU only"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*TINY, *options])
        output, errors = capsys.readouterr()
        assert stop.value.code == 2
        assert message in errors.splitlines()[-1]
        assert not output


# --------------------------------------------------------------------------------- Trained models


def annotations(boxes: list[list[float]]) -> COCO:
    """Boxes (x, y, width, height) of one image, of two classes in turn."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "scratch"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "category_id": 1 + i % 2,
            }
            for i, box in enumerate(boxes, 1)
        ],
    }
    coco.createIndex()
    return coco


def found_boxes(truth: COCO, shift: float = 0.0) -> list[dict]:
    return [
        {
            "image_id": 1,
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + shift * a["bbox"][2], *a["bbox"][1:]],
            "score": 1 / a["id"],
        }
        for a in truth.dataset["annotations"]
    ]


def test_scores_by_class_and_aspect_ratio(benchmark_module) -> None:
    scores = benchmark_module("scores")
    truth = annotations([[0, 0, 20, 20], [50, 0, 20, 30], [0, 50, 10, 40], [50, 50, 70, 10]])
    found = found_boxes(truth)
    labels = list(scores.ASPECT_RATIOS)
    perfect = scores.score_detections(truth, found)
    assert list(perfect.values()) == pytest.approx([100] * 9)
    recall = scores.score_proposals(truth, found)
    assert list(recall.values()) == pytest.approx([25, 75] + [100] * 9)
    # A square matched nowhere and scored highest harms the precision of squares, of its class.
    false = {"image_id": 1, "category_id": 2, "bbox": [150, 150, 9, 9], "score": 1.0}
    harmed = scores.score_detections(truth, [false, *found])
    assert harmed["AP dent"] == pytest.approx(100)
    assert harmed["AP scratch"] < 99
    assert [harmed[f"AP {x}"] < 99 for x in labels] == [True, False, False, False]
    # Without the box of 7:1.
    missed = scores.score_detections(truth, found[:3])
    assert [missed[f"AP {x}"] for x in labels] == pytest.approx([100, 100, 100, 0])
    assert scores.score_proposals(truth, found[:3])["AR@100 6:1+"] == 0


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.3])
def test_scores_are_those_of_pycocotools(benchmark_module, shift: float) -> None:
    scores = benchmark_module("scores")
    truth = annotations([[0, 0, 20, 20], [50, 0, 20, 30], [0, 50, 10, 40], [50, 50, 70, 10]])
    evaluation = COCOeval(truth, truth.loadRes(found_boxes(truth, shift)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = scores.score_detections(truth, found_boxes(truth, shift))
    assert [ours["AP"], ours["AP50"], ours["AP75"]] == pytest.approx(100 * evaluation.stats[:3])


def test_comparison_of_models(
    benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    script = benchmark_module("compare")
    commands: list[list[str]] = []

    def train_net(arguments: list[str], log: Path) -> None:
        """Finds every object, or with seed 2 none but one."""
        commands.append(arguments)
        folder = Path(arguments[arguments.index("OUTPUT_DIR") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if "--eval-only" not in arguments:
            (folder / "model_final.pth").touch()
            return
        truth = script.ground_truth("ga_shapes_val", [])
        found = [
            {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            for a in truth.dataset["annotations"]
        ]
        seed = arguments[arguments.index("SEED") + 1]
        (folder / "inference").mkdir()
        (folder / "log.txt").write_text(
            "Total inference pure compute time: 0:00:13 (0.043 s / iter per device, on 1 devices)"
        )
        (folder / "inference" / "coco_instances_results.json").write_text(
            json.dumps(found if seed == "1" else found[:1])
        )

    monkeypatch.setattr(script, "train_net", train_net)
    options = ["--seeds", "1", "2", "--output", str(tmp_path), "--json", str(tmp_path / "x.json")]
    script.main(["GA=a.yaml MODEL.WEIGHTS ''", *options])
    assert re.search(r"\| GA \| 5\d\.\d ± 7\d\.\d \|.* 43\.0 ± 0\.0 \|", capsys.readouterr().out)
    assert {c[-1] for c in commands if "--eval-only" not in c} == {
        str(tmp_path / "GA" / f"seed{seed}") for seed in (1, 2)
    }
    assert [r["seed"] for r in json.loads((tmp_path / "x.json").read_text())["results"]] == [1, 2]
    # Nothing is trained or inferred again.
    del commands[:]
    script.main(["GA=a.yaml", *options])
    assert not commands


def test_failed_training_names_its_log(
    benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = benchmark_module("compare")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeError, match=r"failed: see .*training\.txt"):
        script.train_and_infer(tmp_path / "model", ["SEED", "1"], "ga_shapes_val")
    command = (tmp_path / "model" / "training.txt").read_text().split()
    assert command[0].endswith("tools/train_net.py")
    assert command[1:3] == ["SEED", "1"]
