#!/usr/bin/env python
"""Run a model on pictures, a video or a webcam, and show what it finds and how.

    tools/demo.py --config-file configs/small/ga_rpn_R_18.yaml --input pictures --output seen
    tools/demo.py --config-file configs/ga_faster_R_50.yaml --video-input street.mp4 --show all \\
        --output street_seen.mp4 --opts MODEL.WEIGHTS ga://ga_faster_R_50

Arguments are those of detectron2's own demo, and --show, --json and --dataset. The weights are
MODEL.WEIGHTS where --opts gives it, or else the last checkpoint in OUTPUT_DIR.
"""

import argparse
import glob
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.images import printable, read_rgb
from ga_detectron2.engine import GuidedPredictor, Prediction, read_inference_config
from ga_detectron2.engine.command_line import (
    add_config_file,
    add_dataset,
    at_least,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.errors import ConfigError, DataError
from ga_detectron2.visualization import (
    MAX_OVERLAP,
    anchors_of_image,
    draw_predictions,
    make_panel,
    save_image,
    select_anchors,
)
from ga_detectron2.visualization.style import check_image_name

TILES = {
    "anchors": ("anchors",),
    "location": ("location", "levels"),
    "shape": ("shape",),
    "all": ("image", "location", "shape", "anchors", "proposals", "detections", "levels"),
}
"""What a panel shows for a --show that is a panel."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif")
"""Of the files of a folder that are taken for pictures."""
LEGIBLE_SIDE = 640
"""Smaller pictures are enlarged to this many pixels, for labels to fit in."""
WINDOW = "guided anchoring"
ESCAPE = 27


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config_file(parser)
    source = parser.add_argument_group("input").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="pictures, folders of pictures or glob patterns"
    )
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    source.add_argument("--webcam", action="store_true", help="the first webcam")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help="a folder, or a file for one picture or video; without it there is a window, where a "
        "key shows the next picture and Esc ends",
    )
    output.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="show detections of at least this score, 0 to 1 (default: 0.5)",
    )
    output.add_argument(
        "--show",
        choices=("detections", "proposals", *TILES),
        help="what to draw: the model's detections or proposals; its guided anchors, the location "
        "probability or the shapes that they come from; or all on one sheet (default: detections, "
        "or proposals if the model makes no detections)",
    )
    output.add_argument(
        "--max-boxes",
        type=at_least(1),
        default=25,
        metavar="N",
        help="draw and write at most this many proposals and anchors, the best (default: 25)",
    )
    output.add_argument(
        "--json", metavar="FILE", help="write the results, boxes in pixels, to this file as well"
    )
    add_dataset(parser, "DATASETS.TEST, whose classes' names are shown")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the configuration and their new values; comes last",
    )
    return parser.parse_args(argv)


class Demo:
    """Draws one picture after another, and collects the results."""

    def __init__(self, args: argparse.Namespace):
        self.predictor = GuidedPredictor(
            read_inference_config(args.config_file, args.opts, args.dataset)
        )
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
        self.results.append(
            {**source, "height": height, "width": width, **self._result(image, prediction)}
        )
        if self.show not in TILES:
            is_detections = self.show == "detections"
            return draw_predictions(
                image,
                getattr(prediction, self.show),
                self.predictor.metadata,
                score_thresh=self.args.confidence_threshold if is_detections else 0.0,
                max_boxes=None if is_detections else self.args.max_boxes,
                scale=max(1.0, LEGIBLE_SIDE / max(height, width)),
            )
        return make_panel(
            image,
            guided=prediction.guided,
            input_size=prediction.input_size,
            proposals=prediction.proposals,
            detections=prediction.detections,
            metadata=self.predictor.metadata,
            show=TILES[self.show],
            threshold=self.predictor.location_threshold,
            max_anchors=self.args.max_boxes,
            max_proposals=self.args.max_boxes,
            score_thresh=self.args.confidence_threshold,
        )

    def _result(self, image: np.ndarray, prediction: Prediction) -> dict[str, Any]:
        """For the JSON file; boxes are x1, y1, x2, y2 in pixels of the image."""
        result: dict[str, Any] = {}
        if prediction.detections is not None:
            result["detections"] = self._detections(prediction.detections.to("cpu"))
        if prediction.proposals is not None and (
            self.show in ("proposals", "all") or prediction.detections is None
        ):
            proposals = prediction.proposals.to("cpu")[: self.args.max_boxes]
            result["proposals"] = [
                {"box": box, "score": score}
                for box, score in zip(
                    proposals.proposal_boxes.tensor.tolist(),
                    proposals.objectness_logits.sigmoid().tolist(),
                    strict=True,
                )
            ]
        if prediction.guided is not None and self.show in ("anchors", "all"):
            size = (image.shape[0], image.shape[1])
            anchors = anchors_of_image(prediction.guided, 0, prediction.input_size, size)
            cells = select_anchors(
                anchors, self.predictor.location_threshold, self.args.max_boxes, MAX_OVERLAP
            ).cells
            result["anchors"] = [
                {
                    "box": anchors.boxes[i].tolist(),
                    "probability": float(anchors.probability[i]),
                    "stride": anchors.strides[anchors.level[i]],
                }
                for i in cells
            ]
        return result

    def _detections(self, detections: Instances) -> list[dict[str, Any]]:
        names = self.predictor.metadata.get("thing_classes", None)
        return [
            {
                "box": box,
                "score": score,
                "class_id": index,
                "class": names[index] if names else str(index),
            }
            for box, score, index in zip(
                detections.pred_boxes.tensor.tolist(),
                detections.scores.tolist(),
                detections.pred_classes.tolist(),
                strict=True,
            )
            if score >= self.args.confidence_threshold
        ]


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could not be written, before the model is built."""
    if args.json:
        check_output_file("--json", args.json)
    if args.input:
        if args.output and is_picture(args.output):
            check_image_name(args.output)
            check_output_file("--output", args.output)
        elif args.output:
            check_output_folder("--output", args.output)
        return
    target = video_target(args)
    for option, video in (("--video-input", args.video_input), ("--output", target)):
        if video and printable(video) != video:
            raise ConfigError(f"{option}: {video} is no UTF-8, which OpenCV needs for a video")
    if target:
        check_output_file("--output", target)


def is_picture(path: str) -> bool:
    """Whether a name is one of a picture, not of a folder."""
    return path.lower().endswith(SUFFIXES)


def find_files(inputs: list[str]) -> list[str]:
    """The files that --input means, each once. One that is not there is kept, to be reported."""
    files: list[str] = []
    for path in inputs:
        path = os.path.expanduser(path)
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            files += [os.path.join(path, x) for x in names if is_picture(x)]
        elif os.path.exists(path):
            files.append(path)
        else:
            files += sorted(x for x in glob.glob(path, recursive=True) if os.path.isfile(x)) or [
                path
            ]
    return list(dict.fromkeys(files))


def run_on_files(demo: Demo, args: argparse.Namespace) -> None:
    files = find_files(args.input)
    if not files:
        sys.exit(f"demo.py: error: there are no pictures in {', '.join(args.input)}")
    is_file = bool(args.output) and is_picture(args.output)
    if is_file and len(files) > 1:
        sys.exit(f"demo.py: error: --output {args.output} is one file, for {len(files)} pictures")
    taken: set[str] = set()
    unreadable = 0
    progress = tqdm(files, unit="picture")
    for path in progress:
        try:
            image = read_rgb(path)
        except DataError as error:
            progress.write(f"demo.py: skipped {error}", file=sys.stderr)
            unreadable += 1
            continue
        picture = demo(image, file=path)
        if not args.output:
            if not show_in_window(picture, wait=0):
                break
            continue
        target = args.output if is_file else free_name(args.output, path, taken)
        if os.path.exists(target) and os.path.samefile(target, path):
            sys.exit(f"demo.py: error: --output would overwrite {path}: choose another folder")
        save_image(picture, target)
    print(f"demo.py: {len(demo.results)} of {len(files)} pictures" + place(args.output))
    if unreadable == len(files):
        finish(demo, args)
        sys.exit("demo.py: error: none of the files could be read")


def free_name(folder: str, path: str, taken: set[str]) -> str:
    """Where the picture of ``path`` goes; files of one name from several folders get numbers."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() not in (".jpg", ".jpeg", ".png"):
        suffix = ".png"
    name, number = stem + suffix, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}{suffix}"
    taken.add(name)
    return os.path.join(folder, name)


def video_target(args: argparse.Namespace) -> str | None:
    """The file that the drawn video goes to."""
    if not args.output or os.path.splitext(args.output)[1]:
        return args.output or None
    source = "webcam" if args.webcam else args.video_input
    return os.path.join(args.output, f"{os.path.splitext(os.path.basename(source))[0]}.mp4")


def run_on_video(demo: Demo, args: argparse.Namespace) -> None:
    source = "webcam" if args.webcam else args.video_input
    if not args.webcam and not os.path.isfile(source):
        sys.exit(f"demo.py: error: there is no video {source}")
    video = cv2.VideoCapture(0 if args.webcam else source)
    if not video.isOpened():
        sys.exit(f"demo.py: error: {source} cannot be read")
    rate = video.get(cv2.CAP_PROP_FPS) or 25
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if not args.webcam else 0
    target = video_target(args)
    if target:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    writer = None
    try:
        for i, frame in enumerate(tqdm(frames(video), total=count or None, unit="frame")):
            picture = demo(frame, file=source, frame=i)
            if target is None:
                if not show_in_window(picture, wait=1):
                    break
                continue
            height, width = (x - x % 2 for x in picture.shape[:2])  # Codecs want even sizes.
            if writer is None:
                writer = cv2.VideoWriter(
                    target, cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height)
                )
                if not writer.isOpened():
                    sys.exit(f"demo.py: error: {target} cannot be written; name a .mp4 file")
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
    except KeyboardInterrupt:
        pass  # The way to end a webcam that has no window; what was written stays.
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not demo.results:
        sys.exit(f"demo.py: error: {source} has no frames that can be read")
    print(f"demo.py: {len(demo.results)} frames" + place(target))


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) RGB until there are no more."""
    while True:
        success, frame = video.read()
        if not success:
            return
        yield np.ascontiguousarray(frame[:, :, ::-1])


def show_in_window(picture: np.ndarray, wait: int) -> bool:
    """Show a picture for ``wait`` ms, or until a key is pressed if 0; False if it was Esc."""
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        cv2.imshow(WINDOW, picture[:, :, ::-1])
        return bool(cv2.waitKey(wait) & 0xFF != ESCAPE)
    except cv2.error:
        sys.exit("demo.py: error: no window can be opened here: write to a folder with --output")


def place(output: str | None) -> str:
    return f" are in {printable(output)}" if output else ""


def finish(demo: Demo, args: argparse.Namespace) -> None:
    if not args.json:
        return
    os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(demo.results, file, indent=1)
    print(f"demo.py: the results are in {printable(args.json)}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line("demo.py"):
        check_outputs(args)
        demo = Demo(args)
        print(f"demo.py: the weights are {printable(demo.predictor.cfg.MODEL.WEIGHTS)}")
        if args.input:
            run_on_files(demo, args)
        else:
            run_on_video(demo, args)
        finish(demo, args)


if __name__ == "__main__":
    main()
