"""Every benchmark in tiny form, and what can be known of its numbers."""

import json
import math
import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.checkpoint.reference import NARROW

TINY = ["--repeats", "1", "--threads", "1"]


def results_of(path: Path) -> list[dict]:
    found = json.loads(path.read_text())
    assert found["machine"]["torch"] == torch.__version__
    return found["results"]


# ------------------------------------------------------------------------------------ whole models


def model_args(**more: object) -> Namespace:
    defaults = {"device": "cpu", "opts": NARROW, "equal_rois": False, "size": (64, 96)}
    return Namespace(**{**defaults, "boxes": 3, "share": 0.05, **more})


@pytest.mark.parametrize("name", ["ga_rpn_R_50", "ga_faster_X_101_32x4d", "ga_retinanet_R_101"])
def test_a_twin_differs_in_its_head_alone(benchmark_module, name: str) -> None:
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


def test_the_share_of_cells_passes(benchmark_module) -> None:
    from ga_detectron2 import record_guided_anchors

    models, args = benchmark_module("models"), model_args(share=0.3)
    model = models.make_model(models.make_configs("ga_rpn_R_50", args)[0]).eval()
    inputs = models.make_inputs(args, 1)
    head = model.proposal_generator.rpn_head
    models.set_share(model, head, lambda: model(inputs), 0.3)
    with torch.no_grad(), record_guided_anchors(model) as records:
        model(inputs)
    kept = model.proposal_generator.guided_anchoring.kept_cells(records[0])
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_models(benchmark_module, tmp_path: Path) -> None:
    models = benchmark_module("models")
    path = tmp_path / "models.json"
    models.main(
        [*TINY, "--models", "ga_rpn_R_50", "retinanet_R_50", "--size", "64", "96", "--batch", "2",
         "--precision", "float32", "amp", "--boxes", "3", "--no-memory",
         "--output", str(path), "--opts", *NARROW]
    )  # fmt: skip
    lines = results_of(path)
    assert {(x["model"], x["mode"], x["precision"]) for x in lines} == {
        (model, mode, precision)
        for model in ("ga_rpn_R_50", "ga_retinanet_R_50")
        for mode in ("inference", "training")
        for precision in ("float32", "amp")
    }
    assert all(min(x["detectron2_s"] + x["ours_s"]) > 0 for x in lines)


def test_a_model_that_does_not_fit_is_a_line_of_its_own(benchmark_module, capsys) -> None:
    models = benchmark_module("models")

    def too_large(*_args: object) -> None:
        torch.empty(1 << 55)

    models.make_step, original = too_large, models.make_step
    try:
        models.main([*TINY, "--models", "ga_rpn_R_50", "--no-memory", "--modes", "inference"])
    finally:
        models.make_step = original
    assert "| ga_rpn_R_50 | inference | float32 | 1 | out of memory |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        models.main(["--models", "yolo"])


def test_memory_without_times(
    benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, path = benchmark_module("models"), tmp_path / "models.json"

    def timed(*_args: object, **_more: object) -> None:
        raise AssertionError("a step was timed")

    monkeypatch.setattr(models, "take_turns", timed)
    # (name, guided, ...): a new process would take longer than all the rest.
    monkeypatch.setattr(
        models, "in_own_process", lambda _function, *args, threads: 300.0 if args[1] else 200.0
    )
    call = [*TINY, "--models", "ga_rpn_R_50", "--modes", "training", "--output", str(path)]
    models.main([*call, "--memory-only"])
    printed = capsys.readouterr().out
    assert "| ga_rpn_R_50 | training | float32 | 1 |  |  |  | 200 | 300 | 1.50 |" in printed
    assert "pass; no times\n" in printed
    (line,) = results_of(path)
    assert line["memory_mib"] == [200, 300]
    assert "ours_s" not in line
    with pytest.raises(SystemExit):
        models.main([*call, "--memory-only", "--no-memory"])


# ---------------------------------------------------------------------------------------- the heads


def test_heads(
    benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, path = benchmark_module("heads"), tmp_path / "heads.json"
    written = []
    write, measure = heads.write_json, benchmark_module("measure")
    monkeypatch.setattr(
        heads, "write_json", lambda *args: (write(*args), written.append(len(results_of(path))))
    )
    size = ["--size", "64", "96", "--boxes", "3", "--share", "0.1"]
    heads.main([*TINY, *size, "--no-memory", "--output", str(path)])
    lines = results_of(path)
    assert written == [1, 2, 3, 4, 5]  # What was measured is kept if a later line fails.
    assert [x["name"] for x in lines] == [x[0] for x in heads.LINES]
    rows = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| GA-")]
    for line, row in zip(lines, rows, strict=True):
        assert len(line["detectron2_s"]) == len(line["ours_s"]) == 1
        ratio = measure.median_ratio(line["ours_s"], line["detectron2_s"])
        assert row.endswith(f" | {ratio:.2f} |  |")
        assert line["memory_mib"] is None


@pytest.mark.slow
def test_memory_of_heads(benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "heads.json"
    size = ["--size", "256", "256", "--boxes", "3", "--output", str(path)]
    benchmark_module("heads").main([*TINY, *size, "--lines", "1", "3"])
    training, inference = results_of(path)
    theirs, ours = training["memory_mib"]
    # At least a map of the finest level, of 256 channels; and their ratio is what is printed.
    assert min(theirs, ours) > 4 * 256 * 64 * 64 / 2**20
    assert f"| {ours / theirs:.2f} |\n" in capsys.readouterr().out
    assert inference["memory_mib"] is None


def test_growth_measures_and_plots(benchmark_module, tmp_path: Path, capsys) -> None:
    growth = benchmark_module("growth")
    where = ["--output", str(tmp_path / "out"), "--images", str(tmp_path / "images")]
    with pytest.raises(SystemExit):
        growth.main([*TINY, "--series", "share", "--plot-only", *where])
    assert "no numbers of the series share: measure it first" in capsys.readouterr().err
    growth.main([*TINY, "--tiny", "--series", "share", *where])
    points = results_of(tmp_path / "out" / "growth.json")
    assert [(p["kind"], p["share"]) for p in points] == [
        (kind, share) for share in (0.1, 1) for kind in ("rpn", "retinanet")
    ]
    assert not any(p["proposals"] for p in points)
    picture = tmp_path / "images" / "growth_share.png"
    size = picture.stat().st_size
    assert size > 10_000
    picture.unlink()
    growth.main([*TINY, "--series", "share", "--plot-only", *where])
    assert picture.stat().st_size == size


def test_growth_with_proposals_is_a_curve_of_its_own(
    benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = benchmark_module("growth")
    figures = []
    monkeypatch.setattr(growth, "figure_image", figures.append)
    monkeypatch.setattr(growth, "save_image", lambda *_: None)
    asked = []

    def time_line(kind: str, mode: str, case: Namespace) -> list[list[float]]:
        asked.append((kind, mode, case.proposals))
        ours = 3.0 + case.boxes if case.proposals else 2.0 + case.boxes
        return [[1.0 + case.boxes], [ours]]

    monkeypatch.setattr(growth, "time_line", time_line)
    growth.main([*TINY, "--tiny", "--series", "size", "boxes", "--output", str(tmp_path)])
    assert asked[:5] == [tuple(line[1:]) for line in benchmark_module("heads").LINES]
    rpn, retinanet = figures[1].axes
    assert [x.get_text() for x in rpn.get_legend().get_texts()] == [
        "RPN",
        "GA-RPN",
        "GA-RPN, with proposals",
    ]
    curves = {c.get_label(): c.lines[0] for c in rpn.containers}
    assert list(curves["GA-RPN, with proposals"].get_ydata()) == [4, 7]
    assert list(curves["GA-RPN"].get_ydata()) == [3, 6]
    assert len({str(line.get_color()) for line in curves.values()}) == 3
    assert len(retinanet.containers) == 2


def test_plots_say_how_often_they_were_measured(benchmark_module) -> None:
    growth = benchmark_module("growth")
    machine = {"device": "a CPU", "threads": 2, "torch": "2.3.1"}

    def note(*counts: int) -> str:
        points = [{**growth.BASE, "detectron2_s": [1.0] * n, "ours_s": [1.0] * n} for n in counts]
        return growth.note_of("boxes", machine, points).splitlines()[-1]

    assert note(3, 1, 2) == "medians of 1 to 3 repeats, bars from least to most"
    assert note(3, 3) == "medians of 3 repeats, bars from least to most"
    assert note(1, 1) == "one repeat"


def test_operations_of_plain_heads_are_those_of_their_convolutions(
    benchmark_module, tmp_path: Path
) -> None:
    path = tmp_path / "operations.json"
    size = ["--size", "64", "96", "--boxes", "3", "--share", "0.1", "--output", str(path)]
    benchmark_module("operations").main([*size, "--lines", "0", "3"])
    rpn, retinanet = results_of(path)
    cells = [sum(math.ceil(64 / s) * math.ceil(96 / s) for s in strides)
             for strides in ((4, 8, 16, 32, 64), (8, 16, 32, 64, 128))]  # fmt: skip
    conv = 2 * 9 * 32 * 32
    assert rpn["detectron2"] == cells[0] * (conv + 2 * 32 * 3 * (1 + 4))
    towers = 2 * 4 * conv
    assert retinanet["detectron2"] == cells[1] * (towers + 2 * 9 * 32 * 9 * (80 + 4))
    # One anchor a cell in 1x1 convolutions on all cells, and adaption with its nine taps on a few.
    kept = 0.1 * cells[0]
    adapted = kept * (2 * 2 * 72 + 9 * 32 * 8 + conv + 2 * 32 * 5)
    expected = cells[0] * (conv + 2 * 32 * 3) + adapted
    assert rpn["ours"] == pytest.approx(expected, rel=0.02)


def test_deformable_convolution_is_counted(benchmark_module) -> None:
    operations = benchmark_module("operations")
    import torchvision

    x, offset, weight = torch.ones(1, 8, 5, 6), torch.zeros(1, 36, 5, 6), torch.ones(4, 8, 3, 3)
    found = operations.count(lambda: torchvision.ops.deform_conv2d(x, offset, weight, padding=1))
    assert found == 30 * 9 * 8 * (2 * 4 + 8)


# ----------------------------------------------------------------------------------- shares of time


def test_a_product_takes_the_time_of_a_step_of_one_product(benchmark_module) -> None:
    module, x = benchmark_module("time_shares"), torch.ones(800, 800)
    grouped, rest = module.shares(module.operator_times(lambda: x @ x, 3, "cpu"))
    assert sum(grouped.values()) + sum(rest.values()) == pytest.approx(1)
    assert grouped["matrix products"] > 0.9
    assert grouped["convolutions"] == grouped["gathering taps"] == 0


@pytest.mark.parametrize("attribute", ["self_device_time_total", "self_cuda_time_total"])
def test_kernels_of_a_gpu_count_once_by_their_operators(benchmark_module, attribute: str) -> None:
    module = benchmark_module("time_shares")

    def event(key: str, kind: str, own: float) -> SimpleNamespace:
        device_type = getattr(torch.autograd.DeviceType, kind)
        return SimpleNamespace(
            key=key, device_type=device_type, self_cpu_time_total=7.0, **{attribute: own}
        )

    events = [
        event("aten::addmm", "CPU", 30.0),
        event("aten::convolution_backward", "CPU", 60.0),
        event("cudaLaunchKernel", "CPU", 0.0),
        event("aten::sort", "CPU", 10.0),
        event("ampere_sgemm_128x64_nn", "CUDA", 30.0),
        event("cudnn::dgrad_engine", "CUDA", 60.0),
        event("radixSortKernel", "CUDA", 10.0),
    ]
    grouped, rest = module.shares(module.sum_times(events, "cuda"))
    assert grouped == {"convolutions": 0.6, "gathering taps": 0, "matrix products": 0.3}
    assert {k: v for k, v in rest.items() if v} == {"aten::sort": 0.1}
    assert set(module.sum_times(events, "cpu").values()) == {7.0}


def test_no_further_call_is_profiled_after_the_limit(benchmark_module) -> None:
    calls: list[int] = []
    times = benchmark_module("time_shares").operator_times
    times(lambda: calls.append(1), 5, "cpu", limit=0)
    assert len(calls) == 2  # One of them is not counted.
    times(lambda: calls.append(1), 5, "cpu")
    assert len(calls) == 2 + 6


def test_shares_of_time(benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, module = tmp_path / "shares.json", benchmark_module("time_shares")
    size = ["--size", "64", "96", "--boxes", "3", "--share", "0.1", "--output", str(path)]
    module.main([*TINY, *size, "--lines", "2", "3"])
    for line in results_of(path):
        grouped, _rest = module.shares(Counter(line["microseconds"]))
        assert all(share > 0 for share in grouped.values()), grouped
    assert capsys.readouterr().out.count("| GA-") == 2


# ------------------------------------------------------------------------------ sparse convolution


def test_sparse_convolution(benchmark_module, tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    module = benchmark_module("sparse_conv")
    before = module.sparse_conv.DENSE_FROM
    options = ["--levels", "6x8", "--shares", "1", "0.1", "--channels", "8", "--outputs", "4"]
    module.main([*TINY, *options, "--output", str(path)])
    assert before == module.sparse_conv.DENSE_FROM
    forward, both = results_of(path)
    assert (forward["mode"], both["mode"]) == module.MODES
    for result in (forward, both):
        assert result["shares"] == [0.1, 1.0]
        assert all(len(x) == 1 and x[0] > 0 for x in result["sparse_s"] + result["dense_s"])


# --------------------------------------------------------------------------------- feature adaption


def test_adaption(benchmark_module, tmp_path: Path) -> None:
    path = tmp_path / "adaption.json"
    benchmark_module("adaption").main(
        [*TINY, "--levels", "6x9", "--shares", "1", "0.1", "--channels", "16",
         "--dtypes", "float32", "bfloat16", "--output", str(path)]
    )  # fmt: skip
    lines = results_of(path)
    assert [(x["dtype"], x["mode"]) for x in lines] == [
        (dtype, mode)
        for dtype in ("float32", "bfloat16")
        for mode in ("forward", "forward+backward")
    ]
    for line in lines:
        assert line["shares"] == [0.1, 1]
        assert len(line["sparse_s"]) == 2
        # All cells by every way, against torchvision's operator.
        limit = 1e-5 if line["dtype"] == "float32" else 2e-2
        assert line["largest_difference"] < limit


def test_crossover_of_a_known_line(benchmark_module) -> None:
    adaption = benchmark_module("adaption")
    shares = (0.01, 0.1, 1.0)
    times = [10 * s for s in shares]
    assert adaption.crossover(shares, times, 3.0) == pytest.approx(0.3)
    assert adaption.crossover(shares, times, 11.0) is None
    assert adaption.crossover(shares, times, 0.05) == 0
    found = [adaption.share_text(x) for x in (None, 0.0, 0.3)]
    assert found == ["never", "always", "30 %"]


# ------------------------------------------------------------------------------------------ targets


def test_targets(benchmark_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, path = benchmark_module("targets"), tmp_path / "targets.json"
    case = ["--repeats", "1", "--sizes", "96x64", "--boxes", "1", "9", "--output", str(path)]
    targets.main([*case, "--threads", "1", "2"])
    lines = results_of(path)
    assert [(x["boxes"], x["threads"]) for x in lines] == [(1, 1), (1, 2), (9, 1), (9, 2)]
    for line in lines:
        seconds = {k: v[0] for k, v in line["seconds"].items()}
        assert min(seconds.values()) > 0
        # At least the labels of all cells, eight bytes each, are there at some time.
        assert 8 * (24 * 16 + 12 * 8) / 2**20 < line["memory_mib"] < targets.bound_mib("cpu", 1)
    monkeypatch.setitem(targets.BOUND_MIB, "cpu", 0.001)
    with pytest.raises(SystemExit, match=r"More than 0\.001 MiB"):
        targets.main([*case, "--threads", "1"])


def test_mmdetection_missing_from_its_environment_is_told(benchmark_module, tmp_path: Path) -> None:
    peer = benchmark_module("mmdetection.peer")
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    fake.chmod(0o755)
    args = Namespace(batch=1, repeats=1, mmdet_torchvision_ops=False)
    with pytest.raises(RuntimeError, match=r"time_heads.py failed in (.|\n)*No module named"):
        peer.time_targets(fake, (64, 96), 3, 1, args)


@pytest.fixture
def fake_mmdet_python(tmp_path: Path) -> Path:
    """Answers with the shapes of its inputs for versions, and a second for every case."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "import numpy as np\n"
        "inputs = np.load(sys.argv[2], allow_pickle=False)\n"
        "shapes = {k: list(inputs[k].shape) for k in inputs.files}\n"
        "out = sys.argv[sys.argv.index('--output') + 1]\n"
        "case = sys.argv[sys.argv.index('--cases') + 1]\n"
        "open(out, 'w').write(json.dumps({'versions': shapes, 'seconds': {case: [1.0]}}))\n"
    )
    fake.chmod(0o755)
    return fake


def test_inputs_and_results_pass_between_the_environments(
    benchmark_module, fake_mmdet_python: Path
) -> None:
    peer = benchmark_module("mmdetection.peer")
    args = Namespace(
        size=(64, 96), batch=2, boxes=3, share=0.1, proposals=True, threads=1, repeats=1,
        mmdet_torchvision_ops=True,
    )  # fmt: skip
    seconds, shapes = peer.time_line(fake_mmdet_python, "rpn", "training", args)
    assert seconds == [1.0]
    assert [shapes[f"p{i}"] for i in (2, 6)] == [[2, 32, 16, 24], [2, 32, 1, 2]]
    assert shapes["boxes.1"][1] == 4
    assert shapes["classes.1"] == shapes["boxes.1"][:1]


def test_mmdetections_heads_are_a_third_side(
    benchmark_module, fake_mmdet_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture
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
    ]
    printed = capsys.readouterr().out
    for line in lines:
        assert line["mmdetection_s"] == [1.0]
        theirs, ours = line["detectron2_s"][0], line["ours_s"][0]
        assert f"| {1 / theirs:.2f} | {ours:.3f} |" in printed


def test_a_missing_environment_of_mmdetection_is_told_at_once(
    benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main = benchmark_module("mmdetection.compare").main
    absent = tmp_path / "bin" / "python"
    for options, told in (
        ([], "the following arguments are required: --mmdet-python"),
        (["--mmdet-python", str(absent)], f"--mmdet-python {absent} is no program: name the Pyt"),
        (["--mmdet-python", sys.executable, "--device", "cuda"], "timed on a CPU alone"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*TINY, *options])
        output, errors = capsys.readouterr()
        assert stop.value.code == 2
        assert told in errors.splitlines()[-1]
        assert not output


# ---------------------------------------------------------------------------------- torch.compile


def test_compile_tells_times_graphs_and_failures(
    benchmark_module, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, path = benchmark_module("compile"), tmp_path / "compile.json"
    # In this process: a new one would take longer than all the rest.
    monkeypatch.setattr(
        script, "in_own_process", lambda function, *args, threads, limit: function(*args)
    )
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back after the test")
    case = [*TINY, "--subjects", "rpn_head", "--modes", "training", "--output", str(path)]
    case += ["--sizes", "64x64", "64x96", "128x96"]
    script.main([*case, "--backend", "eager", "--opts", *NARROW])
    assert "| rpn_head | training | 64x64 | " in capsys.readouterr().out
    (line,) = results_of(path)
    assert line["graphs"] >= 1
    assert len(line["new_graphs"]) == len(line["new_size_s"]) == 2
    assert min(line["eager_s"] + line["compiled_s"]) > 0

    def broken(_graph: object, _inputs: object) -> None:
        raise OSError("no C++ compiler")

    torch._dynamo.register_backend(broken, name="broken_for_test")
    script.main([*case, "--backend", "broken_for_test", "--opts", *NARROW])
    assert "no C++ compiler" in capsys.readouterr().out
    assert "no C++ compiler" in results_of(path)[0]["error"]

    def slow(*_args: object, **_more: object) -> None:
        raise TimeoutError("more than a second")

    monkeypatch.setattr(script, "in_own_process", slow)
    script.main([*TINY, "--subjects", "backbone"])
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" | ")[:4] for row in rows] == [
        ["| backbone", "inference", "480x800", "more than a second"],
        ["| backbone, its residual network alone compiled", "training", "480x800",
         "more than a second"],
    ]  # fmt: skip


@pytest.mark.slow
def test_memory_in_processes_of_their_own(benchmark_module, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    benchmark_module("models").main(
        [*TINY, "--models", "ga_rpn_R_50", "--size", "64", "96", "--modes", "training",
         "--output", str(path), "--opts", *NARROW]
    )  # fmt: skip
    (line,) = results_of(path)
    assert all(0 <= x < 2000 for x in line["memory_mib"])
    assert os.cpu_count() == json.loads(path.read_text())["machine"]["cores"]
