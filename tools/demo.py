#!/usr/bin/env python
"""Run a model on images, a video or a webcam, and show its results and guided anchors.

    tools/demo.py --config-file configs/small/ga_rpn_R_18.yaml --input pictures --output seen
    tools/demo.py --config-file configs/ga_faster_R_50.yaml --video-input street.mp4 --show all \\
        --output street_seen.mp4 --opts MODEL.WEIGHTS ga://ga_faster_R_50

Takes the options of detectron2's demo and --show, --max-boxes, --json and --dataset. Weights are
MODEL.WEIGHTS if given in --opts, else the last checkpoint in OUTPUT_DIR.
"""

import argparse
import glob
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.images import printable, read_rgb
from ga_detectron2.engine import GuidedPredictor, Prediction, read_inference_config
from ga_detectron2.engine.command_line import (
    add_confidence_threshold,
    add_config_file,
    add_dataset,
    add_number,
    errors_in_one_line,
    input_files,
    make_parser,
    write_json,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.errors import ConfigError, DataError
from ga_detectron2.visualization import (
    anchors_of_image,
    draw_predictions,
    make_panel,
    save_image,
    select_anchors,
)
from ga_detectron2.visualization.boxes import class_name
from ga_detectron2.visualization.style import image_format

TILES = {
    "anchors": ("anchors",),
    "location": ("location", "levels"),
    "shape": ("shape",),
    "all": ("image", "location", "shape", "anchors", "proposals", "detections", "levels"),
}
"""Tiles of a panel for each --show that is a panel."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")
"""Extensions of image files."""
LEGIBLE_SIDE = 640
"""Smaller images are enlarged to this many pixels, so that labels fit in."""
WINDOW = "guided anchoring"
ESCAPE = 27


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config_file(parser)
    source = parser.add_argument_group("input").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="images, folders of images or glob patterns"
    )
    source.add_argument("--video-input", metavar="FILE", help="video file")
    source.add_argument("--webcam", action="store_true", help="use the first webcam")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help="folder, or file for a single image or video (default: a window; any key shows the "
        "next image, Esc quits)",
    )
    add_confidence_threshold(output)
    output.add_argument(
        "--show",
        choices=("detections", "proposals", *TILES),
        help="what to draw: detections or proposals; guided anchors, location probability or "
        "anchor shapes; or all of them on one sheet (default: detections, or proposals if "
        "the model makes no detections)",
    )
    add_number(output, "--max-boxes", 25, "draw and write at most the N best proposals and anchors")
    output.add_argument(
        "--json", metavar="FILE", help="also write the results to this file, with boxes in pixels"
    )
    add_dataset(parser, "DATASETS.TEST, whose class names are shown")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="configuration keys and their new values; must come last",
    )
    return parser.parse_args(argv)


class Demo:
    """Draws one image after another, and collects the results."""

    def __init__(self, args: argparse.Namespace):
        cfg = read_inference_config(args.config_file, args.opts, args.dataset)
        self.predictor = GuidedPredictor(cfg)
        self.args = args
        available = self.predictor.available
        self.show = args.show or ("detections" if "detections" in available else "proposals")
        needed = self.show if self.show in ("detections", "proposals") else "guided"
        if needed not in available and self.show != "all":
            raise ConfigError(
                f"--show {self.show}: the model of {args.config_file} makes no "
                + ("guided anchors" if needed == "guided" else needed)
            )
        self.results: list[dict[str, Any]] = []

    def __call__(self, image: np.ndarray, **source: Any) -> np.ndarray:
        """The picture (H, W, 3) RGB for an image (H, W, 3) RGB from ``source``."""
        prediction = self.predictor(image)
        height, width = image.shape[:2]
        found = self._describe(prediction, height, width)
        self.results.append({**source, "height": height, "width": width, **found})
        args, metadata = self.args, self.predictor.metadata
        if self.show not in TILES:
            is_detections = self.show == "detections"
            return draw_predictions(
                image,
                getattr(prediction, self.show),
                metadata,
                score_thresh=args.confidence_threshold if is_detections else 0.0,
                max_boxes=None if is_detections else args.max_boxes,
                scale=max(1.0, LEGIBLE_SIDE / max(height, width)),
            )
        guided = prediction.guided
        return make_panel(
            image,
            anchors=None if guided is None else anchors_of_image(guided, prediction.input_size),
            proposals=prediction.proposals,
            detections=prediction.detections,
            metadata=metadata,
            show=TILES[self.show],
            threshold=self.predictor.location_threshold,
            max_anchors=args.max_boxes,
            max_proposals=args.max_boxes,
            score_thresh=args.confidence_threshold,
        )

    def _describe(self, prediction: Prediction, height: int, width: int) -> dict[str, Any]:
        """Results for the JSON file; boxes are x1, y1, x2, y2 in pixels of the image."""
        result: dict[str, Any] = {}
        if prediction.detections is not None:
            found = prediction.detections.to("cpu")
            found = found[found.scores >= self.args.confidence_threshold]
            classes = found.pred_classes.tolist()
            names = [class_name(index, self.predictor.metadata) for index in classes]
            columns = {"score": found.scores.tolist(), "class_id": classes, "class": names}
            result["detections"] = rows(found.pred_boxes.tensor.tolist(), columns)
        if prediction.proposals is not None and (
            self.show in ("proposals", "all") or prediction.detections is None
        ):
            proposals = prediction.proposals.to("cpu")[: self.args.max_boxes]
            scores = proposals.objectness_logits.sigmoid().tolist()
            result["proposals"] = rows(proposals.proposal_boxes.tensor.tolist(), {"score": scores})
        if prediction.guided is not None and self.show in ("anchors", "all"):
            anchors = anchors_of_image(prediction.guided, prediction.input_size)
            threshold = self.predictor.location_threshold
            selected = select_anchors(anchors, threshold, self.args.max_boxes)
            boxes = anchors.boxes * np.tile(anchors.scale_to((height, width)), 2)
            columns = {
                "probability": anchors.probability[selected].tolist(),
                "stride": [anchors.strides[i] for i in anchors.level[selected]],
            }
            result["anchors"] = rows(boxes[selected].tolist(), columns)
        return result


def rows(boxes: list[list[float]], columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One dictionary for each box."""
    lines = zip(boxes, *columns.values(), strict=True)
    return [dict(zip(("box", *columns), line, strict=True)) for line in lines]


def check_outputs(args: argparse.Namespace, files: list[str]) -> None:
    """Refuse outputs that cannot be written, or that are inputs, before the model is built."""
    inputs = [*input_files(args), *files]
    if args.json:
        check_output_file("--json", args.json, inputs)
    target = video_target(args)
    if args.input and args.output and is_image(args.output):
        image_format(args.output)
        check_output_file("--output", args.output, inputs)
        if len(files) > 1:
            raise ConfigError(
                f"--output {args.output} names a single file, but there are {len(files)} images"
            )
    elif args.input and args.output:
        check_output_folder("--output", args.output, files)
    elif target:
        check_output_file("--output", target, inputs)
    for option, video in (("--video-input", args.video_input), ("--output", target)):
        if not args.input and video and printable(video) != video:
            raise ConfigError(f"{option}: {video} is not UTF-8, which OpenCV needs for a video")


def is_image(path: str) -> bool:
    """Whether a name is that of an image, not of a folder."""
    return path.lower().endswith(SUFFIXES)


def find_files(inputs: list[str]) -> list[str]:
    """The files of --input, each once. Missing ones are kept, to be reported."""
    files: list[str] = []
    for path in map(os.path.expanduser, inputs):
        if os.path.isdir(path):
            files += [os.path.join(path, x) for x in sorted(os.listdir(path)) if is_image(x)]
        elif os.path.exists(path):
            files.append(path)
        else:
            found = [x for x in glob.glob(path, recursive=True) if os.path.isfile(x)]
            files += sorted(found) or [path]
    if not files:
        raise ConfigError(f"there are no images in {', '.join(inputs)}")
    return list(dict.fromkeys(files))


def run_on_files(demo: Demo, files: list[str]) -> None:
    output = demo.args.output
    is_file = bool(output) and is_image(output)
    taken: set[str] = set()
    progress = tqdm(files, unit="image")
    for path in progress:
        try:
            image = read_rgb(path)
        except DataError as error:
            progress.write(f"demo.py: skipped {error}", file=sys.stderr)
            continue
        picture = demo(image, file=path)
        if output:
            save_image(picture, output if is_file else free_name(output, path, taken))
        elif not show_in_window(picture, wait=0):
            break
    print(f"demo.py: {len(demo.results)} of {len(files)} images" + place(output))


def free_name(folder: str, path: str, taken: set[str]) -> str:
    """Where the picture of ``path`` goes; files of the same name get numbers."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    suffix = suffix if suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    name, number = stem + suffix, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}{suffix}"
    taken.add(name)
    return os.path.join(folder, name)


def video_target(args: argparse.Namespace) -> str | None:
    """The file to which the drawn video goes."""
    if args.input or not args.output or os.path.splitext(args.output)[1]:
        return args.output or None
    source = args.video_input or "webcam"
    return os.path.join(args.output, f"{os.path.splitext(os.path.basename(source))[0]}.mp4")


def run_on_video(demo: Demo, source: str | None, target: str | None) -> None:
    """Draw the frames of a video file, or of the webcam if ``source`` is None."""
    if source and not os.path.isfile(source):
        raise ConfigError(f"--video-input: there is no file {source}")
    video = cv2.VideoCapture(source or 0)
    if not video.isOpened():
        raise DataError(f"{source or 'the webcam'} cannot be read")
    rate = video.get(cv2.CAP_PROP_FPS) or 25
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if source else 0
    writer = None
    try:
        for i, frame in enumerate(tqdm(frames(video), total=count or None, unit="frame")):
            picture = demo(frame, file=source or "webcam", frame=i)
            if target is None:
                if not show_in_window(picture, wait=1):
                    break
                continue
            height, width = (x - x % 2 for x in picture.shape[:2])  # Codecs want even sizes.
            if writer is None:
                writer = open_writer(target, rate, (width, height))
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
    except KeyboardInterrupt:
        pass  # The way to end a webcam without a window; what was written stays.
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not demo.results:
        raise DataError(f"{source or 'the webcam'} has no frames that can be read")
    print(f"demo.py: {len(demo.results)} frames" + place(target))


def open_writer(target: str, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise ConfigError(f"--output: {target} cannot be written; name a .mp4 file")
    return writer


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) RGB until there are no more."""
    while (read := video.read())[0]:
        yield np.ascontiguousarray(read[1][:, :, ::-1])


def show_in_window(picture: np.ndarray, wait: int) -> bool:
    """Show a picture for ``wait`` ms, or until a key is pressed if 0; False if it was Esc."""
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        cv2.imshow(WINDOW, picture[:, :, ::-1])
        return bool(cv2.waitKey(wait) & 0xFF != ESCAPE)
    except cv2.error as error:
        raise ConfigError(
            "no window can be opened here: write to a folder with --output"
        ) from error


def place(output: str | None) -> str:
    return f" are in {printable(output)}" if output else ""


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line("demo.py"):
        files = find_files(args.input) if args.input else [*filter(None, [args.video_input])]
        check_outputs(args, files)
        demo = Demo(args)
        print(f"demo.py: the weights are {printable(demo.predictor.cfg.MODEL.WEIGHTS)}")
        if args.input:
            run_on_files(demo, files)
        else:
            run_on_video(demo, args.video_input, video_target(args))
        if args.json:
            write_json("demo.py", args.json, demo.results)
        if not demo.results:
            raise DataError("none of the files could be read")


if __name__ == "__main__":
    main()
