"""Checks and measurements of one step of benchmarks/gpu.sh, which says how to run them.

    python benchmarks/gpu.py STEP OUT [--device cuda|cpu] [--quick] [--seconds 60]

A step is a list of cases. Each result goes to OUT/STEP.json at once; a case that fails does not
keep the others from running, and none begins after --seconds. On a CPU the same code runs, in small
with --quick, to try the script; the step "all" runs every step in one process.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import adaption
import cv2
import gpu_checks
import heads
import models
import numpy as np
import targets
import torch
from measure import take_turns
from report import describe, write_json

from ga_detectron2.export import ExportedModel, compare_results, export_folder
from ga_detectron2.modeling import matching
from tests.export.models import FAMILIES, make_model, noise
from tests.modeling.test_host_sync import make_step
from tests.scripts import load_script

PROJECT = Path(__file__).resolve().parents[1]

Result = dict[str, Any]
Case = tuple[str, Callable[[], Result | Iterable[Result]]]


# ------------------------------------------------------------------------------------ correctness


def checks(args: argparse.Namespace) -> Iterator[Case]:
    """The reference's numbers, the same model on a CPU, no boxes, no location passing, AMP."""
    device = args.device
    for name in gpu_checks.GOLDEN_HEADS[:: 2 if args.quick else 1]:
        yield f"golden head {name}", partial(gpu_checks.golden_head, name, device)
    for name in gpu_checks.GOLDEN_MODELS[: 1 if args.quick else None]:
        yield f"golden model {name}", partial(gpu_checks.golden_model, name, device)
    # float16 autocast is not for training on a CPU.
    dtypes = (torch.bfloat16, torch.float16)[: 1 if device == "cpu" else 2]
    against_cpu = partial(gpu_checks.against_cpu, device=device, side=70 if args.quick else 160)
    for kind, model in gpu_checks.KINDS.items():
        yield f"{model}, no boxes", partial(against_cpu, kind, boxes=False)
        yield f"{model}, no location passes", partial(gpu_checks.no_location, kind, device)
        for dtype in dtypes:
            yield f"{model}, {dtype} autocast", partial(gpu_checks.amp, kind, device, dtype)
    seeds = range(1 if args.quick else 4)
    for seed, (kind, model) in itertools.product(seeds, gpu_checks.KINDS.items()):
        yield f"{model} against a CPU, batch {seed}", partial(against_cpu, kind, seed=seed)


def waiting(args: argparse.Namespace) -> Iterator[Case]:
    """Steps in which the host must not wait for the GPU, and the peak memory of targets."""
    for kind in ("proposals", "retinanet"):
        name = f"{gpu_checks.KINDS[kind]}, narrow, training step"
        yield name, partial(never_waits, partial(make_step, kind, args.device), args.device)
    for line in (heads.LINES[1], heads.LINES[4]):
        step = partial(heads.make_step, line, True, head_options(args))
        yield line.name, partial(never_waits, step, args.device)
    yield "GA-RPN with proposals: waits", partial(count_waits, args.device)
    cases = [((800, 1333), 60, 8), ((1333, 1333), 500, 1)]
    for size, boxes, batch in [((96, 64), 9, 2)] if args.quick else cases:
        name = f"targets of {batch} x {size}, {boxes} boxes"
        yield name, partial(target_memory, size, boxes, batch, args.device)


def never_waits(make: Callable[[], Callable[[], object]], device: str) -> Result:
    """A step that fails where the host waits for the GPU; on a CPU it just runs."""
    step = make()
    step()  # Grids are copied once; cuDNN and cuBLAS are set up.
    if device != "cpu":
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        if device != "cpu":
            torch.cuda.set_sync_debug_mode("default")
    return {"ok": True}


def count_waits(device: str) -> Result:
    """How often the host waits in a step with proposals, most of it in detectron2's code."""
    step = make_step("boxes", device)
    step()
    if device == "cpu":
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": sum("synchroniz" in str(x.message) for x in caught)}


def target_memory(size: tuple[int, int], boxes: int, batch: int, device: str) -> Result:
    options = argparse.Namespace(
        device=device, batch=batch, repeats=5, seconds=10, mmdet_python=None
    )
    line = targets.measure_line(size, boxes, torch.get_num_threads(), options)
    bound = targets.bound_mib(device, batch)
    return {**line, "bound_mib": bound, "ok": line["memory_mib"] < bound}


# ------------------------------------------------------------------------------------ speed


def head_options(args: argparse.Namespace, **more: Any) -> argparse.Namespace:
    """Options of benchmarks/heads.py."""
    options = {"device": args.device, "threads": torch.get_num_threads(), "share": 0.05}
    options |= {"repeats": 20, "seconds": 5, "batch": 1, "precision": "float32", "memory": True}
    options |= {"size": (800, 1333), "boxes": 60}
    if args.quick:
        options |= {"size": (96, 128), "boxes": 3, "repeats": 1, "memory": False}
    return argparse.Namespace(**options | more)


def head_speed(args: argparse.Namespace) -> Iterator[Case]:
    """The heads against detectron2's, and with the branches for a CPU against those for a GPU."""
    lines = heads.LINES[2:4] if args.quick else heads.LINES
    batches, precisions = ((1,), ("float32",)) if args.quick else ((1, 8), ("float32", "amp"))
    for batch, precision, line in itertools.product(batches, precisions, lines):
        options = head_options(args, batch=batch, precision=precision)
        name = f"{line.name}, batch {batch}, {precision}"
        yield name, partial(heads.measure_line, line, options)
    for line in lines[-1:] if args.quick else lines:
        yield f"{line.name}, branches for a CPU", partial(cpu_branches, line, args)


def cpu_branches(line: heads.Line, args: argparse.Namespace) -> Result:
    """A guided head as it is, and with every ``is_cuda`` branch taken the other way."""
    step, other = (heads.make_step(line, True, head_options(args)) for _ in range(2))

    def as_on_cpu() -> None:
        with mock.patch.object(torch.Tensor, "is_cuda", False):
            other()

    times = take_turns([step, as_on_cpu], 1 if args.quick else 20, args.device, limit=5)
    seconds, cpu_seconds = map(statistics.median, times)
    return {"seconds": seconds, "cpu_branches_s": cpu_seconds, "ratio": cpu_seconds / seconds}


def model_speed(args: argparse.Namespace) -> Iterator[Case]:
    """Whole R-50 and R-101 models against detectron2's twins."""
    options = ["--device", args.device, "--repeats", "20", "--seconds", "2", "--memory"]
    options += ["--batch", "1", "8", "--precision", "float32", "amp"]
    names = [f"ga_{kind}_{depth}" for depth in ("R_50", "R_101")
             for kind in ("rpn", "retinanet", "faster")]  # fmt: skip
    if args.quick:
        options = ["--device", args.device, "--repeats", "1", "--size", "96", "128"]
        options += ["--boxes", "3", "--opts", *NARROW]
        names = ["ga_rpn_R_50"]
    parsed = models.make_parser().parse_args(options)
    for name in names:
        yield name, partial(models.measure_model, name, parsed)


def adaption_speed(args: argparse.Namespace) -> Iterator[Case]:
    """Some cells against all of them, and the two ways to match guided anchors with boxes."""
    options = argparse.Namespace(
        device=args.device, repeats=10, seconds=1.5, shares=[0.01, 0.05, 0.1, 0.2, 0.5, 1.0]
    )
    levels, dtypes = [(200, 336), (100, 168), (50, 84)], ("float32", "float16")
    if args.quick:
        levels, dtypes, options.repeats, options.shares = [(12, 16)], ("float32",), 1, [0.1, 1.0]
    for size, dtype, mode in itertools.product(levels, dtypes, adaption.MODES):
        name = f"adaption, {size}, {dtype}, {mode}"
        yield name, partial(adaption.measure_level, "adaption", size, dtype, mode, options)
    for part, mode in itertools.product(adaption.PARTS[1:], adaption.MODES):
        size = levels[min(1, len(levels) - 1)]
        name = f"{part}, {size}, {mode}"
        yield name, partial(adaption.measure_level, part, size, "float32", mode, options)
    ways = [w for w in ("_compare_all", "_compare_near") if hasattr(matching, w)]
    for boxes, batch in ((9, 1),) if args.quick else ((10, 1), (60, 1), (60, 8), (500, 1)):
        if len(ways) == 2:
            name = f"matching {boxes} boxes, batch {batch}"
            yield name, partial(matching_speed, ways, boxes, batch, args)


def matching_speed(ways: list[str], boxes: int, batch: int, args: argparse.Namespace) -> Result:
    """Box targets by each of two functions of ``matching``."""
    size = (96, 128) if args.quick else (800, 1333)
    step = targets.make_steps(size, boxes, batch, args.device)["box"]

    def by(function: Callable) -> Callable[[], None]:
        def run() -> None:
            with mock.patch.multiple(matching, **dict.fromkeys(ways, function)), torch.no_grad():
                step()

        return run

    times = take_turns([by(getattr(matching, way)) for way in ways], 10, args.device, limit=2)
    return {way: statistics.median(x) for way, x in zip(ways, times, strict=True)}


# ------------------------------------------------------------------------------------ trainings

NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.FPN.OUT_CHANNELS", "32"),
]


def quickstart(args: argparse.Namespace) -> Iterator[Case]:
    """The quick start's training: with AMP, scored, and resumed from its checkpoint."""
    yield "quick start", partial(train_and_resume, args)


def train_and_resume(args: argparse.Namespace) -> Iterator[Result]:
    iterations, more = (300, 400), []
    if args.quick:
        annotations, images = make_dataset(args.out / "few", 6, (96, 128), 5)
        iterations = (3, 5)
        more = ["--dataset", f"gpu_few={annotations}:{images}", "DATASETS.TRAIN", "('gpu_few',)"]
        more += ["DATASETS.TEST", "('gpu_few',)", "MODEL.FPN.OUT_CHANNELS", "32"]
        more += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]
    output = args.out / "quickstart"
    config = "quickstart_ga_faster_efficientnet.yaml"
    before = 0
    for last, resume in zip(iterations, ([], ["--resume"]), strict=True):
        keys = ["SOLVER.MAX_ITER", str(last), "SOLVER.AMP.ENABLED", str(args.device != "cpu")]
        found = train(config, output, args, [*resume, *more, *keys])
        rows = found.pop("rows")
        first = min(x["iteration"] for x in rows[before:] if "total_loss" in x)
        before = len(rows)
        yield {**found, "iterations": last, "first_logged": first, "AP": rows[-1].get("bbox/AP"),
               "ok": first >= (iterations[0] if resume else 0)}  # fmt: skip


def faster_training(args: argparse.Namespace) -> Iterator[Case]:
    """GA-Faster R-CNN R-50 on JPEG files of 800x1333: images a second of tools/train_net.py."""
    for amp in (True, False)[: 1 if args.quick else 2]:
        yield f"ga_faster_R_50, {'amp' if amp else 'float32'}", partial(train_faster, amp, args)


def train_faster(amp: bool, args: argparse.Namespace) -> Result:
    size, count, batch, iterations = (800, 1333), 32, 8, 50
    options = [] if args.device != "cpu" else ["MODEL.DEVICE", "cpu"]
    if args.quick:
        size, count, batch, iterations = (96, 128), 4, 2, 5
        options += [*NARROW, "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "INPUT.MIN_SIZE_TRAIN", "(96,)"]
    annotations, images = make_dataset(args.out / "noise", count, size, 80)
    weights = args.out / "ga_faster_R_50.pth"
    if not weights.exists():
        # Random weights at which activations keep their size.
        parsed = models.make_parser().parse_args(["--opts", *options])
        cfg, _ = models.make_configs("ga_faster_R_50", parsed)
        torch.save(models.make_model(cfg).state_dict(), weights)
    dataset = ["--dataset", f"gpu_noise={annotations}:{images}"]
    keys = {
        "DATASETS.TRAIN": "('gpu_noise',)",
        "DATASETS.TEST": "()",
        "DATALOADER.NUM_WORKERS": 0 if args.quick else 8,
        "MODEL.WEIGHTS": weights,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": 1e-5,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.AMP.ENABLED": amp and args.device != "cpu",
    }
    pairs = [str(x) for pair in keys.items() for x in pair]
    output = args.out / f"faster_{'amp' if amp else 'float32'}"
    found = train("ga_faster_R_50.yaml", output, args, [*dataset, *options, *pairs])
    found.pop("rows")
    return {**found, "batch": batch, "images_per_s": batch / found["seconds_per_iteration"]}


def train(config: str, output: Path, args: argparse.Namespace, options: list[str]) -> Result:
    """Run tools/train_net.py; ``rows`` are the lines of its metrics.json.

    Raises:
        RuntimeError: it failed.
    """
    argv = ["--config-file", str(PROJECT / "configs" / config), *options]
    argv += ["OUTPUT_DIR", str(output), "MODEL.DEVICE", args.device]
    start = time.perf_counter()
    try:
        load_script("train_net").main(argv)
    except SystemExit as stop:
        raise RuntimeError(f"tools/train_net.py failed: {stop}") from stop
    rows = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    last = next(x for x in reversed(rows) if "time" in x)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "seconds_per_iteration": last["time"],
        "data_time": last["data_time"],
        "total_loss": last["total_loss"],
    }


def make_dataset(
    folder: Path, count: int, size: tuple[int, int], num_classes: int
) -> tuple[Path, Path]:
    """JPEG files of soft noise with random boxes: paths of the COCO JSON and of the images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images, annotations = [], []
    for i in range(1, count + 1):
        noise_image = rng.integers(0, 255, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        name = f"{i}.jpg"
        cv2.imwrite(str(folder / "images" / name), cv2.resize(noise_image, size[::-1]))
        images.append({"id": i, "file_name": name, "height": size[0], "width": size[1]})
        truth = heads.make_boxes(size, 10, "cpu")
        for x1, y1, x2, y2 in truth.gt_boxes.tensor.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3], "category_id": 1 + len(annotations) % num_classes}
            )  # fmt: skip
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, num_classes + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json", folder / "images"


# ------------------------------------------------------------------------------------ export


def exported(args: argparse.Namespace) -> Iterator[Case]:
    """TorchScript files of small models, traced on the device, against the models."""
    for family in list(FAMILIES)[: 1 if args.quick else None]:
        yield f"{family}, torchscript", partial(compare_export, family, args)


def compare_export(family: str, args: argparse.Namespace) -> Result:
    cfg, model = make_model(family)
    model.to(args.device)
    folder = args.out / f"exported_{family}"
    export_folder(cfg, model, noise(96, 128, seed=1).to(args.device), folder, "torchscript")
    runtime = ExportedModel(folder)
    unmatched, count, pixels = 0, 0, 0.0
    for seed, (height, width) in enumerate([(96, 128), (130, 90), (200, 333)], start=2):
        image = noise(height, width, seed).to(args.device)
        with torch.no_grad():
            (output,) = model([{"image": image, "height": height, "width": width}])
        (expected,) = output.values()
        difference = compare_results(runtime.infer(image).to("cpu"), expected.to("cpu"))
        unmatched += difference.unmatched
        count += difference.found + difference.expected
        pixels = max(pixels, difference.box)
    times = take_turns(
        [lambda: model([{"image": image}]), lambda: runtime.infer(image)], 5, args.device, limit=3
    )
    seconds, exported_seconds = map(statistics.median, times)
    return {
        "results": count // 2, "unmatched": unmatched, "largest_difference_px": pixels,
        "seconds": seconds, "exported_s": exported_seconds, "ok": unmatched <= 0.01 * count,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ steps


STEPS: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    "checks": checks,
    "waiting": waiting,
    "heads": head_speed,
    "models": model_speed,
    "quickstart": quickstart,
    "adaption": adaption_speed,
    "faster": faster_training,
    "export": exported,
}


def run_step(step: str, args: argparse.Namespace) -> bool:
    """Run the cases of a step, and write each result at once; whether all were right."""
    torch.manual_seed(0)
    machine = describe(args.device, torch.get_num_threads())
    rows: list[Result] = []

    def add(**row: Any) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_json(args.out / f"{step}.json", machine, rows)

    start = time.perf_counter()
    for name, run in STEPS[step](args):
        if time.perf_counter() - start > args.seconds:
            add(case=name, skipped=f"not begun after {args.seconds:g} s")
            continue
        try:
            results = run()
            for result in [results] if isinstance(results, dict) else results:
                add(case=name, **result)
        except Exception as error:
            traceback.print_exc()
            add(case=name, ok=False, error=f"{type(error).__name__}: {error}"[:2000])
    return all(row.get("ok", True) for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=[*STEPS, "all"])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small and few, to try the script")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no case begins later")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    right = [run_step(x, args) for x in (STEPS if args.step == "all" else [args.step])]
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
