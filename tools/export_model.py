#!/usr/bin/env python
"""Export a trained model to TorchScript or ONNX, for one image of any size at a time.

    tools/export_model.py --config-file configs/ga_faster_R_50.yaml --output output/exported \\
        --format onnx --check street.jpg MODEL.WEIGHTS ga://ga_faster_R_50

Weights are MODEL.WEIGHTS if given on the command line, else the last checkpoint in OUTPUT_DIR.
Writes model.ts or model.onnx, and model.json, which describes inputs and outputs. The model takes
an image as float32 (C, H, W), from 0 to 255, with channels in the order of INPUT.FORMAT, and
returns boxes in pixels of that image, scores and classes. It does not resize images.
"""

import argparse
import importlib.util
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
    add_model,
    add_number,
    errors_in_one_line,
    input_files,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.export import (
    DEFAULT_OPSET,
    DESCRIPTION,
    FILES,
    MIN_OPSET,
    ExportedModel,
    compare_results,
    export_folder,
    infer,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=["torchscript", "onnx"],
        default="torchscript",
        help="traced TorchScript, or ONNX (default: torchscript)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--sample-image",
        metavar="IMAGE",
        help="image to trace the model with (default: noise; the content does not matter)",
    )
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="IMAGE",
        help="compare the exported model with the original on this image, at INPUT.MIN_SIZE_TEST "
        "and at half of it; may be repeated",
    )
    parser.add_argument(
        "--run-eval",
        action="store_true",
        help="evaluate the exported model on DATASETS.TEST; results go to DIR/inference",
    )
    text = f"ONNX opset version, at least {MIN_OPSET}"
    add_number(parser, "--opset", DEFAULT_OPSET, text, minimum=MIN_OPSET)
    args = parser.parse_intermixed_args(argv)
    needed = ["onnx", "onnxruntime"] if args.check or args.run_eval else ["onnx"]
    for name in needed if args.format == "onnx" else []:
        if importlib.util.find_spec(name) is None:
            parser.error(f"--format onnx needs the package {name}: pip install {name}")
    return args


def load_image(cfg: CfgNode, file: str, scale: float = 1.0) -> Tensor:
    """An image as detectron2's DefaultPredictor gives it to a model: (C, H, W) float32.

    Args:
        cfg: configuration of the model.
        file: image file.
        scale: factor of its size.
    """
    image = read_image(file, cfg.INPUT.FORMAT)
    side = round((cfg.INPUT.MIN_SIZE_TEST or min(image.shape[:2])) * scale)
    resize = T.ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(image).apply_image(image)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


def sample_image(cfg: CfgNode, file: str | None) -> Tensor:
    """The image to trace a model on, (C, H, W) float32."""
    if file:
        return load_image(cfg, file)
    height = cfg.INPUT.MIN_SIZE_TEST or 480
    size = (len(cfg.MODEL.PIXEL_MEAN), height, height + height // 3)
    return torch.randint(256, size, generator=torch.Generator().manual_seed(0)).float()


def print_differences(
    cfg: CfgNode, model: nn.Module, exported: ExportedModel, files: list[str]
) -> None:
    """A Markdown table with a row for each image and size."""
    columns = ["image", "size", "results", "exported", "unmatched", "boxes (px)", "scores"]
    extra = {"mask": cfg.MODEL.MASK_ON, "keypoint": cfg.MODEL.KEYPOINT_ON}
    columns += [f"{name}s" for name, is_on in extra.items() if is_on]
    print("Largest differences between the model and the exported one:\n")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for file in files:
        for scale in (1, 0.5):
            image = load_image(cfg, file, scale)
            with torch.no_grad():
                (expected,) = infer(model, [{"image": image}])
            found = compare_results(exported.infer(image), expected)
            row = [
                Path(file).name,
                f"{image.shape[1]} x {image.shape[2]}",
                *map(str, found[:3]),
                f"{found.box:.1e}",
                f"{found.score:.1e}",
                *(f"{getattr(found, name):.1e}" for name, is_on in extra.items() if is_on),
            ]
            print("| " + " | ".join(row) + " |", flush=True)


def run(args: argparse.Namespace) -> None:
    check_output_folder("--output", args.output)
    images = [*filter(None, [args.sample_image]), *args.check]
    for name in (FILES[args.format], DESCRIPTION):
        inputs = [*input_files(args), *images]
        check_output_file("--output", str(Path(args.output) / name), inputs)
    for file in images:  # Unreadable images are reported before the model is built.
        read_rgb(file)
    # A compiled backbone cannot be traced.
    overrides = [*args.opts, "TEST.COMPILE_BACKBONE", "False"]
    cfg = read_inference_config(args.config_file, overrides, args.dataset)
    if args.run_eval:
        check_run(cfg, eval_only=True)
    model = load_inference_model(cfg)
    print(f"export_model.py: the weights are {cfg.MODEL.WEIGHTS}")
    image = sample_image(cfg, args.sample_image)
    print(f"export_model.py: tracing for {args.format}, up to some minutes", flush=True)
    file = export_folder(cfg, model, image, args.output, args.format, args.opset)
    size = file.stat().st_size / 2**20
    print(f"export_model.py: wrote {file} ({size:.1f} MiB) and {DESCRIPTION} beside it")
    if args.check:
        print_differences(cfg, model, ExportedModel(args.output), args.check)
    if args.run_eval:
        setup_logger()
        cfg.OUTPUT_DIR = args.output  # the evaluators write there
        GATrainer.test(cfg, ExportedModel(args.output))
        print(f"export_model.py: predictions are in {Path(args.output) / 'inference'}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("export_model.py", ValueError):
        run(args)


if __name__ == "__main__":
    main()
