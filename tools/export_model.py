#!/usr/bin/env python
"""Export a trained model as TorchScript or ONNX, for one image of any size at a time.

    tools/export_model.py --config-file configs/ga_faster_R_50.yaml --output output/exported \\
        --format onnx --check street.jpg MODEL.WEIGHTS ga://ga_faster_R_50

The weights are MODEL.WEIGHTS where that is given here, or else the last checkpoint in OUTPUT_DIR.
Writes model.ts or model.onnx, and model.json, which says what goes in and what comes out. A model
takes an image as float32 (C, H, W), from 0 to 255, with channels in the order of INPUT.FORMAT, and
returns boxes, scores and classes in pixels of that image. It neither reads nor resizes images.
"""

import argparse
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.utils.logger import setup_logger
from torch import Tensor, nn

from ga_detectron2.data.images import read_image, read_rgb
from ga_detectron2.engine import (
    GATrainer,
    check_run,
    load_inference_model,
    read_inference_config,
)
from ga_detectron2.engine.command_line import (
    add_config_file,
    add_dataset,
    add_overrides,
    at_least,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_folder
from ga_detectron2.export import (
    DEFAULT_OPSET,
    ExportedModel,
    compare_results,
    export_folder,
    infer,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config_file(parser)
    parser.add_argument(
        "--format",
        choices=["torchscript", "onnx"],
        default="torchscript",
        help="TorchScript, traced, or ONNX (default: torchscript)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--sample-image",
        metavar="IMAGE",
        help="what to trace the model on (default: noise, since what an image shows has no "
        "influence on the trace)",
    )
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="IMAGE",
        help="compare what the exported model finds in it with what the model does, at the size of "
        "INPUT.MIN_SIZE_TEST and at half of it; may be given several times",
    )
    parser.add_argument(
        "--run-eval",
        action="store_true",
        help="score the exported model on DATASETS.TEST; results go to DIR/inference",
    )
    add_dataset(parser, "DATASETS.TEST")
    parser.add_argument(
        "--opset",
        type=at_least(16),  # which has detectron2's ROIAlign
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"version of ONNX's operators, from 16 on (default: {DEFAULT_OPSET})",
    )
    add_overrides(parser)
    args = parser.parse_intermixed_args(argv)
    for option, file in [
        ("--sample-image", args.sample_image),
        *(("--check", x) for x in args.check),
    ]:
        if file and not Path(file).is_file():
            parser.error(f"{option}: there is no file {file}")
    if args.format == "onnx":
        needed = ["onnx", "onnxruntime"] if args.check or args.run_eval else ["onnx"]
        for name in needed:
            if importlib.util.find_spec(name) is None:
                parser.error(f"--format onnx needs the package {name}: pip install {name}")
    return args


def load_model(args: argparse.Namespace) -> tuple[CfgNode, nn.Module]:
    # A program of torch.compile's own cannot be traced, and is no part of what is exported.
    overrides = [*args.opts, "TEST.COMPILE_BACKBONE", "False"]
    cfg = read_inference_config(args.config_file, overrides, args.dataset)
    if args.run_eval:
        check_run(cfg, eval_only=True)
    model = load_inference_model(cfg)
    print(f"export_model.py: the weights are {cfg.MODEL.WEIGHTS}")
    return cfg, model


def load_image(cfg: CfgNode, file: str, min_size: int) -> Tensor:
    """As detectron2's DefaultPredictor gives it to a model: (C, H, W) float32."""
    image = read_image(file, cfg.INPUT.FORMAT)
    resize = T.ResizeShortestEdge([min_size, min_size], cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(image).apply_image(image)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


def sample_image(cfg: CfgNode, file: str | None) -> Tensor:
    if file:
        return load_image(cfg, file, cfg.INPUT.MIN_SIZE_TEST)
    height = cfg.INPUT.MIN_SIZE_TEST
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, height + height // 3), generator=generator).float()


def check(
    cfg: CfgNode, model: nn.Module, exported: ExportedModel, files: list[str]
) -> Iterator[list[str]]:
    """Rows of a table of what is different, one for each image and size."""
    for file in files:
        for size in (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST // 2):
            image = load_image(cfg, file, size)
            start = time.perf_counter()
            found = exported.infer(image)
            middle = time.perf_counter()
            with torch.no_grad():
                (expected,) = infer(model, [{"image": image}])
            end = time.perf_counter()
            d = compare_results(found, expected)
            yield [
                Path(file).name,
                f"{image.shape[1]} x {image.shape[2]}",
                str(d.expected),
                str(d.found),
                str(d.unmatched),
                f"{d.box:.1e}",
                f"{d.score:.1e}",
                *([f"{d.mask:.1e}"] if cfg.MODEL.MASK_ON else []),
                *([f"{d.keypoint:.1e}"] if cfg.MODEL.KEYPOINT_ON else []),
                f"{end - middle:.2f}",
                f"{middle - start:.2f}",
            ]


def check_columns(cfg: CfgNode) -> list[str]:
    return [
        *("image", "size", "results", "exported", "without partner"),
        *("largest difference of boxes (px)", "of scores"),
        *(["of masks"] if cfg.MODEL.MASK_ON else []),
        *(["of keypoints (px)"] if cfg.MODEL.KEYPOINT_ON else []),
        *("seconds", "exported"),
    ]


def run(args: argparse.Namespace) -> None:
    # Both would otherwise be told after minutes of tracing.
    check_output_folder("--output", args.output)
    for file in [args.sample_image, *args.check]:
        if file:
            read_rgb(file)
    cfg, model = load_model(args)
    image = sample_image(cfg, args.sample_image)
    print(f"export_model.py: tracing for {args.format}, at most some minutes", flush=True)
    file = export_folder(cfg, model, image, args.output, args.format, args.opset)
    size = file.stat().st_size / 2**20
    print(f"export_model.py: wrote {file} ({size:.1f} MiB) and model.json beside it")
    if not args.check and not args.run_eval:
        return
    exported = ExportedModel(args.output)
    if args.check:
        columns = check_columns(cfg)
        print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
        for row in check(cfg, model, exported, args.check):
            print("| " + " | ".join(row) + " |", flush=True)
    if args.run_eval:
        setup_logger()
        cfg.OUTPUT_DIR = args.output  # the evaluators write there
        GATrainer.test(cfg, exported)
        print(f"export_model.py: predictions are in {Path(args.output) / 'inference'}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("export_model.py", ValueError):
        run(args)


if __name__ == "__main__":
    main()
