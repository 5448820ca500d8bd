#!/usr/bin/env python
"""Plot what a model has learned. For the options of a command, see plot.py COMMAND --help.

    tools/plot.py shapes --config-file configs/small/ga_rpn_R_18.yaml --output shapes.png
    tools/plot.py recall GA-RPN=output/ga_rpn RPN=output/rpn --output recall.png

Each command writes a picture or a folder of pictures. For training curves, use
tensorboard --logdir OUTPUT_DIR.
"""

import argparse
import logging
import os

from detectron2.data import MetadataCatalog
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.images import printable
from ga_detectron2.engine import GuidedPredictor, check_run, read_inference_config
from ga_detectron2.engine.command_line import (
    add_dataset,
    add_model,
    add_number,
    errors_in_one_line,
    input_files,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.engine.run_config import check_dataset, register_arguments
from ga_detectron2.errors import ConfigError
from ga_detectron2.evaluation import recall_of_metrics, recall_of_proposals
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.visualization import (
    BoxShapes,
    RecallCurve,
    compose_panel,
    first_records,
    make_match_tiles,
    make_tiles,
    measure_shapes,
    plot_box_shapes,
    plot_recall_curves,
    read_samples,
    save_image,
)
from ga_detectron2.visualization.style import image_format

LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of proposals per image at which recall is plotted."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )

    def add_command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"Plot {text}.")

    recall = add_command("recall", "recall against the number of proposals, for several models")
    recall.add_argument(
        "results",
        nargs="+",
        metavar="NAME=PATH",
        help="box_proposals.pkl of an evaluation (with --test), or metrics.json or OUTPUT_DIR of a "
        "training, whose last recall is plotted",
    )
    recall.add_argument(
        "--test", metavar="NAME", help="dataset to which the box_proposals.pkl files belong"
    )
    recall.add_argument("--title", default="", help="title of the plot (default: none)")
    add_dataset(recall, "--test")
    recall.set_defaults(function=plot_recall)

    shapes = add_command(
        "shapes", "width and height of guided anchors against those of the objects"
    )
    add_predictor(shapes, default_images=50)
    shapes.set_defaults(function=plot_shapes)

    anchors = add_command(
        "anchors", "anchors and proposals of two models on the same images, side by side"
    )
    anchors.add_argument(
        "--baseline-config-file",
        required=True,
        metavar="FILE",
        help="YAML configuration of the other model; KEY VALUE pairs apply to both",
    )
    anchors.add_argument(
        "--baseline-weights",
        metavar="FILE",
        help="weights of the other model (default: as for --weights)",
    )
    add_predictor(anchors, default_images=4)
    anchors.set_defaults(function=plot_anchors)

    for command, name in ((recall, "recall.png"), (shapes, "shapes.png")):
        command.add_argument(
            "--output", default=name, metavar="FILE", help=f"picture to write (default: {name})"
        )
    anchors.add_argument(
        "--output", default="anchors", metavar="DIR", help="folder for pictures (default: anchors)"
    )
    return parser.parse_args(argv)


def add_predictor(parser: argparse.ArgumentParser, default_images: int) -> None:
    add_model(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of the model (default: MODEL.WEIGHTS if given on the command line, else the "
        "last checkpoint in OUTPUT_DIR)",
    )
    add_number(parser, "--num-images", default_images, "use the first N images of DATASETS.TEST")


def load_predictor(
    args: argparse.Namespace, config_file: str, weights: str | None
) -> GuidedPredictor:
    overrides = [*args.opts, "MODEL.WEIGHTS", weights] if weights else args.opts
    cfg = read_inference_config(config_file, overrides, args.dataset)
    check_run(cfg, eval_only=True)
    return GuidedPredictor(cfg)


def plot_recall(args: argparse.Namespace) -> None:
    register_arguments(args.dataset)
    curves = []
    for result in tqdm(args.results, unit="model"):
        name, _, path = result.partition("=")
        if not (name and path):
            raise ConfigError(f"'{result}' should read NAME=PATH")
        if path.endswith(".pkl"):
            recall = recall_of_proposals(path, annotations(args.test, path), LIMITS)
        else:
            recall = recall_of_metrics(path)
        curves.append(RecallCurve(name, list(recall), list(recall.values())))
    save_image(plot_recall_curves(curves, args.title), args.output)


def annotations(dataset: str | None, path: str) -> str:
    """The annotations of a registered dataset."""
    if not dataset:
        raise ConfigError(f"{path} needs --test NAME, the dataset to which its proposals belong")
    check_dataset("--test", dataset)
    json_file: str | None = MetadataCatalog.get(dataset).get("json_file")
    if json_file is None:
        raise ConfigError(f"--test: dataset '{dataset}' has no annotations in COCO's JSON format")
    return json_file


def plot_shapes(args: argparse.Namespace) -> None:
    predictor = load_predictor(args, args.config_file, args.weights)
    settings = [x for x in predictor.model.modules() if isinstance(x, GuidedAnchoring)]
    if not settings:
        raise ConfigError(f"the model of {args.config_file} makes no guided anchors")
    datasets = predictor.cfg.DATASETS.TEST
    records = first_records(datasets, args.num_images)
    check_output_file("--output", args.output, [record["file_name"] for _, record in records])
    parts = []
    for sample in read_samples(tqdm(records, unit="image")):
        prediction = predictor(sample.image)
        if prediction.guided is not None and len(sample.ground_truth):
            boxes = sample.ground_truth.gt_boxes
            height, width = prediction.input_size
            boxes.scale(width / sample.image.shape[1], height / sample.image.shape[0])
            parts.append(measure_shapes(prediction.guided, boxes.tensor, settings[0]))
    if not parts:
        raise ConfigError(f"the first {args.num_images} images contain no objects")
    title = f"Shapes of guided anchors on {', '.join(datasets)}"
    save_image(plot_box_shapes(BoxShapes.join(parts), title), args.output)


def plot_anchors(args: argparse.Namespace) -> None:
    models = [
        load_predictor(args, args.baseline_config_file, args.baseline_weights),
        load_predictor(args, args.config_file, args.weights),
    ]
    records = first_records(models[1].cfg.DATASETS.TEST, args.num_images)
    check_output_folder("--output", args.output, [record["file_name"] for _, record in records])
    for sample in read_samples(tqdm(records, unit="image")):
        image, truth = sample.image, sample.ground_truth
        columns = []
        for model in models:
            prediction = model(image)
            anchors, kind = prediction.anchors, "Sliding anchors"
            if prediction.guided is not None and anchors is not None:
                kept = prediction.guided.loc_logits[0].sigmoid() >= model.location_threshold
                anchors, kind = anchors[kept.cpu()], "Guided anchors"
            columns.append(
                make_match_tiles(
                    image,
                    truth,
                    anchors,
                    prediction.input_size,
                    prediction.proposals,
                    kind,
                    color=int(prediction.guided is not None),
                )
            )
        tiles = [tile for row in zip(*columns, strict=False) for tile in row]
        if not len(truth):
            tiles += make_tiles(image, ground_truth=truth, metadata=models[1].metadata)
        picture = compose_panel(tiles, sample.name)
        save_image(picture, os.path.join(args.output, f"{sample.name}.png"))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line(f"plot.py {args.command}"):
        if args.command == "anchors":
            check_output_folder("--output", args.output)
        else:
            image_format(args.output)
            check_output_file("--output", args.output, input_files(args))
        args.function(args)
    print(f"plot.py {args.command}: the result is in {printable(args.output)}")


if __name__ == "__main__":
    main()
