"""Checks and measurements of one step of benchmarks/gpu.sh, which says how to run them.

    python benchmarks/gpu.py STEP OUT [--device cuda|cpu] [--quick] [--seconds 60]

A step is a list of cases. Each result goes to OUT/STEP.json at once; a case that fails does not
keep the others from running, and none begins after --seconds. On a CPU the same code runs, in small
with --quick, to try the script; the step "all" runs every step in one process.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import adaption
import cv2
import gpu_checks
import heads
import models
import numpy as np
import targets
import torch
from measure import PRECISIONS, Step, amp_dtype, take_turns
from report import Report, Row

from ga_detectron2.export import ExportedModel, compare_results, export_folder
from tests.checkpoint.reference import NARROW
from tests.export.models import FAMILIES, make_model, noise
from tests.modeling.test_host_sync import make_step
from tests.runs import as_overrides
from tests.scripts import load_script

PROJECT = Path(__file__).resolve().parents[1]

Case = tuple[str, Callable[[], Row | Iterable[Row]]]


# ------------------------------------------------------------------------------------ correctness


def checks(args: argparse.Namespace) -> Iterator[Case]:
    """The reference's numbers, the same model on a CPU, no boxes, no location passing, AMP."""
    device = args.device
    for name in gpu_checks.GOLDEN_HEADS[:: 2 if args.quick else 1]:
        yield f"golden head {name}", partial(gpu_checks.golden_head, name, device)
    for name in gpu_checks.GOLDEN_MODELS[: 1 if args.quick else None]:
        yield f"golden model {name}", partial(gpu_checks.golden_model, name, device)
    # float16 autocast is not for training on a CPU.
    dtypes = sorted({torch.bfloat16, amp_dtype(device)}, key=str)
    against_cpu = partial(gpu_checks.against_cpu, device=device, side=70 if args.quick else 160)
    for kind, model in gpu_checks.KINDS.items():
        yield f"{model}, no boxes", partial(against_cpu, kind, boxes=0)
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
    cases = [((800, 1333), 60, 8), ((1333, 1333), 500, 1)]
    for size, boxes, batch in [((96, 64), 9, 2)] if args.quick else cases:
        name = f"targets of {batch} x {size}, {boxes} boxes"
        yield name, partial(target_memory, size, boxes, batch, args.device)


def never_waits(make: Callable[[], Callable[[], object]], device: str) -> Row:
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


def target_memory(size: tuple[int, int], boxes: int, batch: int, device: str) -> Row:
    options = argparse.Namespace(device=device, repeats=5, seconds=10)
    line = targets.measure_line(size, boxes, batch, options)
    return {**line, "ok": line["memory_mib"] < line["bound_mib"]}


# ------------------------------------------------------------------------------------ speed


def head_options(args: argparse.Namespace, *options: str) -> argparse.Namespace:
    """Options of benchmarks/heads.py."""
    first = ["--repeats", "20", "--seconds", "5", "--memory"]
    if args.quick:
        first = ["--repeats", "1", "--size", "96", "128", "--boxes", "3"]
    return heads.make_parser("", 1).parse_args(["--device", args.device, *first, *options])


def head_speed(args: argparse.Namespace) -> Iterator[Case]:
    """The heads against detectron2's, and with the branches for a CPU against those for a GPU."""
    lines = heads.LINES[2:4] if args.quick else heads.LINES
    batches, precisions = ("1", "8"), PRECISIONS
    if args.quick:
        batches, precisions = batches[:1], precisions[:1]
    for batch, precision, line in itertools.product(batches, precisions, lines):
        options = head_options(args, "--batch", batch, "--precision", precision)
        name = f"{line.name}, batch {batch}, {precision}"
        yield name, partial(heads.measure_line, line, options)
    for line in lines[-1:] if args.quick else lines:
        make = partial(heads.make_step, line, True, head_options(args))
        yield f"{line.name}, branches for a CPU", partial(cpu_branches, make, args)


def cpu_branches(make: Callable[[], Step], args: argparse.Namespace) -> Row:
    """A step as it is, and with every ``is_cuda`` branch taken the other way."""
    step, other = make(), make()

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
    levels, precisions = adaption.LEVELS[:3], PRECISIONS
    if args.quick:
        levels, precisions, options.repeats, options.shares = [(12, 16)], ["float32"], 1, [0.1, 1.0]
    for size, precision, mode in itertools.product(levels, precisions, adaption.MODES):
        name = f"adaption, {size}, {precision}, {mode}"
        yield name, partial(adaption.measure_level, "adaption", size, precision, mode, options)
    for part, mode in itertools.product(adaption.PARTS[1:], adaption.MODES):
        size = levels[min(1, len(levels) - 1)]
        name = f"{part}, {size}, {mode}"
        yield name, partial(adaption.measure_level, part, size, "float32", mode, options)
    size = (96, 128) if args.quick else (800, 1333)
    for boxes, batch in ((9, 1),) if args.quick else ((10, 1), (60, 1), (60, 8), (500, 1)):
        name = f"matching {boxes} boxes, batch {batch}: all pairs, and windows (for a CPU)"
        make = partial(box_targets, size, boxes, batch, args.device)
        yield name, partial(cpu_branches, make, args)


def box_targets(size: tuple[int, int], boxes: int, batch: int, device: str) -> Step:
    return torch.no_grad()(targets.make_steps(size, boxes, batch, device)["box"])


# ------------------------------------------------------------------------------------ trainings


def quickstart(args: argparse.Namespace) -> Iterator[Case]:
    """The quick start's training: with AMP, scored, and resumed from its checkpoint."""
    yield "quick start", partial(train_and_resume, args)


def train_and_resume(args: argparse.Namespace) -> Iterator[Row]:
    iterations, options = (300, 400), []
    if args.quick:
        iterations = (3, 5)
        options = make_dataset(args.out / "noise", 4, (96, 128))
        options += ["DATASETS.TEST", "('gpu_noise',)", "MODEL.ROI_HEADS.NUM_CLASSES", "80"]
        options += ["MODEL.FPN.OUT_CHANNELS", "32", "INPUT.MIN_SIZE_TRAIN", "(96,)"]
        options += ["INPUT.MIN_SIZE_TEST", "96"]
    output = args.out / "quickstart"
    before = 0
    for last, resume in zip(iterations, ([], ["--resume"]), strict=True):
        keys = ["SOLVER.MAX_ITER", str(last), "SOLVER.AMP.ENABLED", str(args.device != "cpu")]
        config = "quickstart_ga_faster_efficientnet.yaml"
        found = train(config, output, args, [*resume, *options, *keys])
        rows = found.pop("rows")
        first = min(x["iteration"] for x in rows[before:] if "total_loss" in x)
        before = len(rows)
        ap = rows[-1].get("bbox/AP", math.nan)
        # After five iterations there may be no detections, and no AP.
        ok = first >= (iterations[0] if resume else 0) and (args.quick or math.isfinite(ap))
        ap = ap if math.isfinite(ap) else None
        yield {**found, "iterations": last, "first_logged": first, "AP": ap, "ok": ok}


def faster_training(args: argparse.Namespace) -> Iterator[Case]:
    """GA-Faster R-CNN R-50 on JPEG files of 800x1333: images a second of tools/train_net.py."""
    for precision in PRECISIONS[:1] if args.quick else PRECISIONS[::-1]:
        yield f"ga_faster_R_50, {precision}", partial(train_faster, precision, args)


def train_faster(precision: str, args: argparse.Namespace) -> Row:
    size, count, batch, iterations = (800, 1333), 32, 8, 50
    narrow: list[str] = []
    if args.quick:
        size, count, batch, iterations = (96, 128), 4, 2, 5
        narrow = [*NARROW, "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "INPUT.MIN_SIZE_TRAIN", "(96,)"]
    weights = args.out / "ga_faster_R_50.pth"
    if not weights.exists():
        # Random weights at which activations keep their size.
        parsed = models.make_parser().parse_args(["--device", args.device, "--opts", *narrow])
        cfg, _ = models.make_configs("ga_faster_R_50", parsed)
        torch.save(models.make_model(cfg).state_dict(), weights)
    keys = {
        "DATASETS.TEST": "()",
        "DATALOADER.NUM_WORKERS": 0 if args.quick else 8,
        "MODEL.WEIGHTS": weights,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": 1e-5,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.AMP.ENABLED": precision == "amp" and args.device != "cpu",
    }
    options = [*make_dataset(args.out / "noise", count, size), *narrow, *as_overrides(keys)]
    found = train("ga_faster_R_50.yaml", args.out / f"faster_{precision}", args, options)
    found.pop("rows")
    return {**found, "batch": batch, "images_per_s": batch / found["seconds_per_iteration"]}


def train(config: str, output: Path, args: argparse.Namespace, options: list[str]) -> Row:
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


def make_dataset(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """JPEG files of soft noise with random boxes of 80 classes, as arguments of train_net.py."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    images, annotations = [], []
    for i in range(1, count + 1):
        noise_image = rng.integers(0, 255, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        name = f"{i}.jpg"
        cv2.imwrite(str(folder / "images" / name), cv2.resize(noise_image, size[::-1]))
        images.append({"id": i, "file_name": name, "height": size[0], "width": size[1]})
        for x1, y1, x2, y2 in heads.make_boxes(size, 10, "cpu").gt_boxes.tensor.tolist():
            box, number = [x1, y1, x2 - x1, y2 - y1], len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": i, "category_id": 1 + number % 80, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    argument = f"gpu_noise={folder / 'annotations.json'}:{folder / 'images'}"
    return ["--dataset", argument, "DATASETS.TRAIN", "('gpu_noise',)"]


# ------------------------------------------------------------------------------------ export


def exported(args: argparse.Namespace) -> Iterator[Case]:
    """TorchScript files of small models, traced on the device, against the models."""
    for family in list(FAMILIES)[: 1 if args.quick else None]:
        yield f"{family}, torchscript", partial(compare_export, family, args)


def compare_export(family: str, args: argparse.Namespace) -> Row:
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
    return {
        "results": count // 2, "unmatched": unmatched, "largest_difference_px": pixels,
        "ok": unmatched <= 0.01 * count,
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
    report = Report(args.device, args.out / f"{step}.json")
    start = time.perf_counter()
    for name, run in STEPS[step](args):
        if time.perf_counter() - start > args.seconds:
            report.add({"case": name, "skipped": f"not begun after {args.seconds:g} s"})
            continue
        try:
            results = run()
            for result in [results] if isinstance(results, dict) else results:
                report.add({"case": name, **result})
        except Exception as error:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"[:2000]
            report.add({"case": name, "ok": False, "error": message})
    return all(row.get("ok", True) for row in report.results)


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
