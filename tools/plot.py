#!/usr/bin/env python
"""Plot what was learned; each command has its own help, such as plot.py training --help.

    tools/plot.py training output/small/ga_rpn_R_18 --output training.png
    tools/plot.py shapes --config-file configs/small/ga_rpn_R_18.yaml --output shapes.png

Each command writes a picture, or a folder of them, and says where it is.
"""

import argparse
import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data import register_datasets
from ga_detectron2.data.images import printable, read_rgb
from ga_detectron2.engine import GuidedPredictor, Prediction, read_inference_config
from ga_detectron2.engine.command_line import (
    add_config_file,
    add_dataset,
    add_overrides,
    at_least,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.errors import ConfigError
from ga_detectron2.modeling import GuidedAnchoring
from ga_detectron2.visualization import (
    BoxShapes,
    RecallCurve,
    Tile,
    best_anchors,
    compose_panel,
    draw_anchor_matches,
    draw_ground_truth,
    draw_predictions,
    ground_truth_of,
    measure_shapes,
    plot_box_shapes,
    plot_recall_curves,
    plot_training_curves,
    save_image,
)
from ga_detectron2.visualization.recall import (
    DEFAULT_LIMITS,
    read_metrics,
    recall_of_metrics,
    recall_of_proposals,
)
from ga_detectron2.visualization.style import check_image_name

PANEL_SIDE = 640
"""Pixels of the longer side of a picture."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )

    def add_command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"Plot {text}.")

    training = add_command(
        "training", "losses, learning rate and scores of a run against its iterations"
    )
    training.add_argument("metrics", metavar="RUN", help="a metrics.json, or the run's OUTPUT_DIR")
    training.add_argument(
        "--keys",
        nargs="+",
        default=[],
        metavar="KEY",
        help="plot these entries of metrics.json alone, such as loss_anchor_shape",
    )
    training.set_defaults(function=plot_training)

    recall = add_command(
        "recall", "recall of proposals against their number, of two or more models"
    )
    recall.add_argument(
        "results",
        nargs="+",
        metavar="NAME=PATH",
        help="a box_proposals.pkl of an evaluation (with --test), or a metrics.json or OUTPUT_DIR "
        "of a run, of which the last recall counts",
    )
    recall.add_argument(
        "--test", metavar="NAME", help="data set that the proposals of a box_proposals.pkl are for"
    )
    recall.add_argument("--title", default="", help="title of the plot (default: none)")
    recall.set_defaults(function=plot_recall)

    shapes = add_command(
        "shapes", "width and height of guided anchors against those of the objects"
    )
    add_model(shapes, default_images=50)
    shapes.set_defaults(function=plot_shapes)

    anchors = add_command(
        "anchors", "anchors and proposals of two models on the same images, side by side"
    )
    anchors.add_argument(
        "--baseline-config-file",
        required=True,
        metavar="FILE",
        help="YAML configuration of the other model, which KEY VALUE change too",
    )
    anchors.add_argument(
        "--baseline-weights",
        metavar="FILE",
        help="weights of the other model (default: as for --weights)",
    )
    add_model(anchors, default_images=4)
    anchors.set_defaults(function=plot_anchors)

    pictures = {training: "training.png", recall: "recall.png", shapes: "shapes.png"}
    for command, name in pictures.items():
        command.add_argument(
            "--output", default=name, metavar="FILE", help=f"picture to write (default: {name})"
        )
    anchors.add_argument(
        "--output", default="anchors", metavar="DIR", help="folder for pictures (default: anchors)"
    )
    add_dataset(recall, "--test")
    for command in (shapes, anchors):
        add_dataset(command, "DATASETS.TEST")
    return parser.parse_args(argv)


def add_model(parser: argparse.ArgumentParser, default_images: int) -> None:
    add_config_file(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of the model (default: MODEL.WEIGHTS where that is given here, or else the "
        "last checkpoint in OUTPUT_DIR)",
    )
    parser.add_argument(
        "--num-images",
        type=at_least(1),
        default=default_images,
        metavar="N",
        help=f"take the first N images of DATASETS.TEST (default: {default_images})",
    )
    add_overrides(parser)


def plot_training(args: argparse.Namespace) -> None:
    title = f"Training: {os.path.basename(os.path.abspath(args.metrics))}"
    save_image(plot_training_curves(read_metrics(args.metrics), args.keys, title), args.output)


def plot_recall(args: argparse.Namespace) -> None:
    register_datasets(args.dataset)
    curves: list[RecallCurve] = []
    for result in tqdm(args.results, unit="model"):
        name, equals, path = result.partition("=")
        if not (name and equals and path):
            raise ValueError(f"'{result}' should read NAME=PATH")
        if not path.endswith(".pkl"):
            curves.append(recall_of_metrics(name, read_metrics(path)))
            continue
        if not args.test:
            raise ValueError(f"{path} needs --test NAME, the data set that its proposals are for")
        with contextlib.redirect_stdout(io.StringIO()):
            curves.append(recall_of_proposals(name, path, annotations(args.test), DEFAULT_LIMITS))
    save_image(plot_recall_curves(curves, args.title), args.output)


def annotations(dataset: str) -> str:
    """The local path of a registered data set's annotations."""
    if dataset not in DatasetCatalog:
        raise ValueError(f"there is no data set '{dataset}': register it with --dataset")
    json_file = MetadataCatalog.get(dataset).get("json_file")
    if json_file is None:
        raise ValueError(f"the data set '{dataset}' has no annotations in COCO's JSON format")
    return str(PathManager.get_local_path(json_file))


def load_predictor(
    args: argparse.Namespace, config_file: str, weights: str | None
) -> GuidedPredictor:
    overrides = [*args.opts, "MODEL.WEIGHTS", weights] if weights else args.opts
    return GuidedPredictor(read_inference_config(config_file, overrides, args.dataset))


def plot_shapes(args: argparse.Namespace) -> None:
    predictor = load_predictor(args, args.config_file, args.weights)
    if "guided" not in predictor.available:
        raise ConfigError(f"the model of {args.config_file} makes no guided anchors")
    settings = next(m for m in predictor.model.modules() if isinstance(m, GuidedAnchoring))
    parts = []
    for _, image, truth in test_images(predictor, args.num_images):
        prediction = predictor(image)
        if prediction.guided is not None and len(truth):
            boxes = to_input(truth.gt_boxes.tensor, image, prediction)
            parts.append(measure_shapes(prediction.guided, boxes, settings))
    if not parts:
        raise ValueError(f"the first {args.num_images} images hold no objects")
    title = f"Shapes of guided anchors on {', '.join(predictor.cfg.DATASETS.TEST)}"
    save_image(plot_box_shapes(BoxShapes.join(parts), title), args.output)


def plot_anchors(args: argparse.Namespace) -> None:
    models = [
        load_predictor(args, args.baseline_config_file, args.baseline_weights),
        load_predictor(args, args.config_file, args.weights),
    ]
    for name, image, truth in test_images(models[1], args.num_images):
        metadata = models[1].metadata
        scale = PANEL_SIDE / max(image.shape[:2])
        columns = [model_tiles(model, image, truth, scale) for model in models]
        tiles = [tile for row in zip(*columns, strict=False) for tile in row]
        if not len(truth):
            drawn = draw_ground_truth(image, truth, metadata, scale=scale)
            tiles.insert(0, Tile("ground_truth", "Ground truth: no objects", drawn))
        save_image(compose_panel(tiles, name), os.path.join(args.output, f"{name}.png"))


def model_tiles(
    model: GuidedPredictor, image: np.ndarray, truth: Instances, scale: float
) -> list[Tile]:
    """Best anchors of the objects, and best proposals if the model makes some."""
    prediction = model(image)
    is_guided = prediction.guided is not None
    label = "Guided anchors" if is_guided else "Sliding anchors"
    tiles = []
    anchors = prediction.anchors
    if prediction.guided is not None and anchors is not None:
        kept = prediction.guided.loc_logits[0].sigmoid() >= model.location_threshold
        anchors = anchors[kept.cpu()]
    if anchors is not None and len(anchors) and len(truth):
        boxes = to_input(truth.gt_boxes.tensor, image, prediction)
        best, iou = best_anchors(boxes, anchors)
        back = image.shape[1] / prediction.input_size[1], image.shape[0] / prediction.input_size[0]
        drawn = draw_anchor_matches(
            image,
            truth.gt_boxes.tensor.numpy(),
            anchors[best].numpy() * np.tile(back, 2),
            iou,
            [1 if is_guided else 0] * len(best),
            scale,
        )
        title = (
            f"{label}: best of {len(anchors)} for each object (dashed), mean IoU {iou.mean():.2f}"
        )
        tiles.append(Tile("anchors", title, drawn))
    if prediction.proposals is not None:
        count = min(2 * max(5, len(truth)), len(prediction.proposals))
        drawn = draw_predictions(image, prediction.proposals, max_boxes=count, scale=scale)
        tiles.append(Tile("proposals", f"{label}: best {count} proposals", drawn))
    return tiles


def test_images(
    predictor: GuidedPredictor, number: int
) -> Iterator[tuple[str, np.ndarray, Instances]]:
    """Name, RGB image and objects of the first images of ``DATASETS.TEST``."""
    names = predictor.cfg.DATASETS.TEST
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown or not names:
        raise ConfigError(
            f"DATASETS.TEST: there is no data set '{unknown[0]}'; register it with --dataset"
            if unknown
            else "DATASETS.TEST is empty; name a data set, such as ga_shapes_val"
        )
    records: list[dict[str, Any]] = [x for name in names for x in DatasetCatalog.get(name)]
    for record in tqdm(records[:number], unit="image"):
        image = read_rgb(record["file_name"])
        name = os.path.splitext(os.path.basename(record["file_name"]))[0]
        yield name, image, ground_truth_of(record, image)


def to_input(boxes: torch.Tensor, image: np.ndarray, prediction: Prediction) -> torch.Tensor:
    """Boxes in pixels of the image to pixels of the network's input."""
    height, width = prediction.input_size
    return boxes * boxes.new_tensor([width / image.shape[1], height / image.shape[0]]).repeat(2)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line(f"plot.py {args.command}", ValueError):
        if args.command == "anchors":
            check_output_folder("--output", args.output)
        else:
            check_image_name(args.output)
            check_output_file("--output", args.output)
        args.function(args)
    print(f"plot.py {args.command}: the result is in {printable(args.output)}")


if __name__ == "__main__":
    main()
