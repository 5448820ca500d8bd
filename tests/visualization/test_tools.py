"""tools/demo.py, visualize_results.py and plot.py as a user calls them."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ga_detectron2.data.images import read_rgb
from ga_detectron2.engine import GuidedPredictor
from tests.small_models import write_model


@pytest.fixture
def pictures(two_pictures, tmp_path) -> Path:
    """A folder with two images, a damaged one, and another file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(Path(two_pictures.rpartition(":")[2]).glob("*.png")):
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("text")
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def demo(tool, detector, two_pictures):
    def run(*arguments: object, config: str = detector) -> None:
        tool("demo").main(
            ["--config-file", config, "--dataset", two_pictures, *(str(x) for x in arguments)]
        )

    return run


def test_demo_skips_and_reports_unreadable_images(demo, pictures, tmp_path, capsys) -> None:
    results = tmp_path / "results.json"
    demo(
        *("--input", pictures, tmp_path / "absent.jpg", "--output", tmp_path / "out"),
        *("--json", results, "--confidence-threshold", 0.1, "--show", "all", "--max-boxes", 5),
    )
    assert files_in(tmp_path / "out") == ["picture0.png", "picture1.png"]
    output, errors = capsys.readouterr()
    assert f"skipped {pictures / 'broken.jpg'}: the image cannot be decoded" in errors
    assert f"skipped {tmp_path / 'absent.jpg'}: there is no such file" in errors
    assert "notes.txt" not in errors
    assert f"2 of 4 images are in {tmp_path / 'out'}" in output
    first, second = json.loads(results.read_text())
    assert (first["file"], first["height"], first["width"]) == (
        str(pictures / "picture0.png"),
        60,
        90,
    )
    assert second["height"] == 80
    assert all(
        x["score"] >= 0.1 and x["class"] == f"kind{x['class_id']}" for x in first["detections"]
    )
    assert len(first["detections"]) > 0
    assert len(first["proposals"]) == 5
    assert [set(x) for x in first["anchors"]] == [{"box", "probability", "stride"}] * 5
    boxes = np.array([x["box"] for x in first["detections"]])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 90
    assert boxes[:, 3].max() <= 60


def test_demo_without_a_readable_image_fails(demo, pictures, tmp_path) -> None:
    with pytest.raises(SystemExit) as stop:
        demo("--input", pictures / "broken.jpg", "--output", tmp_path / "out")
    assert stop.value.code == "demo.py: error: none of the files could be read"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit, match="no images in"):
        demo("--input", empty, "--output", tmp_path / "out")


@pytest.mark.parametrize("show", ["detections", "proposals", "anchors", "location", "shape"])
def test_demo_shows_each_kind(demo, pictures, tmp_path, show) -> None:
    target = tmp_path / f"{show}.png"
    demo("--input", f"{pictures}/*0.png", "--output", target, "--show", show)
    assert min(cv2.imread(str(target)).shape[:2]) > 400  # 60x90 enlarged, to be legible


def test_demo_refuses_to_show_missing_results(demo, pictures, plain_detector, proposer) -> None:
    with pytest.raises(SystemExit, match=r"--show shape: .* makes no guided anchors"):
        demo("--input", pictures, "--show", "shape", config=plain_detector)
    with pytest.raises(SystemExit, match=r"--show detections: .* makes no detections"):
        demo("--input", pictures, "--show", "detections", config=proposer)


def test_demo_shows_proposals_where_there_are_no_detections(
    demo, pictures, tmp_path, proposer
) -> None:
    results = tmp_path / "results.json"
    demo(
        *("--input", pictures / "picture0.png", "--output", tmp_path, "--json", results),
        config=proposer,
    )
    (result,) = json.loads(results.read_text())
    assert len(result["proposals"]) > 10
    assert "detections" not in result


def test_demo_overwrites_no_input(demo, pictures) -> None:
    before = (pictures / "picture0.png").read_bytes()
    for output in (pictures, pictures / "picture0.png"):
        with pytest.raises(SystemExit, match="overwritten"):
            demo("--input", pictures / "picture0.png", "--output", output)
    assert (pictures / "picture0.png").read_bytes() == before


def test_demo_keeps_pictures_of_the_same_name_apart(demo, pictures, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(pictures / "picture0.png", other)
    out = tmp_path / "out"
    demo("--input", pictures / "picture0.png", other / "picture0.png", "--output", out)
    assert files_in(out) == ["picture0.png", "picture0_2.png"]


def test_demo_on_a_video(demo, pictures, tmp_path) -> None:
    source = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    assert writer.isOpened()
    for i in range(3):
        writer.write(np.full((48, 64, 3), 80 * i, np.uint8))
    writer.release()
    results = tmp_path / "results.json"
    demo("--video-input", source, "--output", tmp_path / "out", "--json", results)
    video = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    shapes = []
    while (frame := video.read())[0]:
        shapes.append(frame[1].shape)
    assert shapes == [(480, 640, 3)] * 3
    assert [x["frame"] for x in json.loads(results.read_text())] == [0, 1, 2]
    source = tmp_path / "out" / "film.mp4"
    before = source.read_bytes()
    for output in (source, source.parent):
        with pytest.raises(SystemExit, match="overwritten"):
            demo("--video-input", source, "--output", output)
    assert source.read_bytes() == before
    for bad in (tmp_path / "absent.mp4", pictures / "notes.txt"):
        with pytest.raises(SystemExit, match=bad.name):
            demo("--video-input", bad, "--output", tmp_path / "out")


NO_TEXT = "nonutf\udcff"
"""A file name that is not UTF-8, on which OpenCV crashes."""


def test_demo_accepts_names_that_are_not_utf8(demo, pictures, tmp_path, capsys) -> None:
    picture = tmp_path / f"{NO_TEXT}.png"
    shutil.copy(pictures / "picture0.png", picture)
    out = tmp_path / f"out{NO_TEXT}"
    results = tmp_path / f"{NO_TEXT}.json"
    demo("--input", picture, "--output", out, "--json", results)
    assert files_in(out) == [f"{NO_TEXT}.png"]
    assert read_rgb(str(out / f"{NO_TEXT}.png")).shape[1] == 640
    assert json.loads(results.read_text())[0]["file"] == str(picture)
    printed = capsys.readouterr().out
    assert f"1 of 1 images are in {tmp_path}/outnonutf\\xff" in printed


@pytest.mark.parametrize(
    ("source", "output", "option"),
    [(f"{NO_TEXT}.avi", "out", "--video-input"), ("film.avi", f"{NO_TEXT}.mp4", "--output")],
)
def test_demo_refuses_video_names_that_are_not_utf8(demo, tmp_path, source, output, option) -> None:
    (tmp_path / source).write_bytes(b"")
    with pytest.raises(SystemExit, match=f"^demo.py: error: {option}: .*not UTF-8"):
        demo("--video-input", tmp_path / source, "--output", tmp_path / output)


def test_demo_unwritable_outputs_fail_early(demo, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(GuidedPredictor, "__init__", lambda *_: pytest.fail("a model was built"))
    (tmp_path / "file").write_text("")
    for option, path in (("--json", tmp_path), ("--output", tmp_path / "file" / "a.png")):
        with pytest.raises(SystemExit, match=f"^demo.py: error: .*{option}: "):
            demo("--input", pictures / "picture0.png", option, path)


def test_demo_without_a_display_points_to_output(demo, pictures, monkeypatch) -> None:
    def fail(*_args):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", fail, raising=False)
    with pytest.raises(SystemExit, match="write to a folder with --output"):
        demo("--input", pictures / "picture0.png")


def test_visualize_results(tool, detector, two_pictures, tmp_path, capsys) -> None:
    arguments = ["--config-file", detector, "--dataset", two_pictures, "--output", str(tmp_path)]
    tool("visualize_results").main(arguments)
    assert files_in(tmp_path) == ["overview.png", "picture0.png", "picture1.png"]
    for name in files_in(tmp_path):
        assert min(cv2.imread(str(tmp_path / name)).shape[:2]) > 600
    output = capsys.readouterr().out
    assert str(tmp_path / "overview.png") in output
    assert "detector.pth" in output


def test_visualize_results_of_proposals(tool, proposer, two_pictures, tmp_path) -> None:
    arguments = ["--config-file", proposer, "--dataset", two_pictures, "--num-images", "1"]
    tool("visualize_results").main([*arguments, "OUTPUT_DIR", str(tmp_path)])
    assert files_in(tmp_path / "visualization") == ["overview.png", "picture0.png"]


def test_plot_shapes_and_anchors(tool, detector, plain_detector, two_pictures, tmp_path) -> None:
    model = ["--config-file", detector, "--dataset", two_pictures]
    tool("plot").main(["shapes", *model, "--output", str(tmp_path / "shapes.png")])
    assert cv2.imread(str(tmp_path / "shapes.png")).shape[1] > 1000
    folder = tmp_path / "anchors"
    tool("plot").main(
        ["anchors", *model, "--baseline-config-file", plain_detector, "--output", str(folder)]
    )
    assert files_in(folder) == ["picture0.png", "picture1.png"]
    with pytest.raises(SystemExit, match="makes no guided anchors"):
        tool("plot").main(["shapes", "--config-file", plain_detector, "--dataset", two_pictures])


def test_plots_overwrite_no_input(tool, detector, two_pictures) -> None:
    folder = two_pictures.rpartition(":")[2]
    model = ["--config-file", detector, "--dataset", two_pictures]
    baseline = ["--baseline-config-file", detector]
    for arguments in (["shapes"], ["anchors", *baseline]):
        output = folder if arguments[0] == "anchors" else f"{folder}/picture0.png"
        with pytest.raises(SystemExit, match="overwritten"):
            tool("plot").main([*arguments, *model, "--output", output])
    with pytest.raises(SystemExit, match="overwritten"):
        tool("visualize_results").main([*model, "--output", folder])


def test_plot_recall(tool, tmp_path, capsys) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"iteration": 9, "proposal_recall/AR@10": 5.0}) + "\n")
    target = tmp_path / "recall.png"
    tool("plot").main(["recall", f"a={metrics}", f"b={tmp_path}", "--output", str(target)])
    assert cv2.imread(str(target)).shape[0] > 300
    assert f"the result is in {target}" in capsys.readouterr().out
    for arguments, message in (
        ([str(metrics)], "should read NAME=PATH"),
        (["a=b.pkl"], "needs --test NAME"),
        (["a=b.pkl", "--test", "absent"], "no dataset 'absent'"),
        ([f"a={tmp_path / 'absent'}"], "No such file"),
    ):
        with pytest.raises(SystemExit, match=message):
            tool("plot").main(["recall", *arguments])


def test_tools_take_grey_models_and_images_of_any_size(
    tool, model_folder, two_pictures, demo, pictures, tmp_path
) -> None:
    keys = ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [100.0], "MODEL.PIXEL_STD", [57.0])
    config = str(write_model(model_folder, "grey", *keys, "INPUT.MIN_SIZE_TEST", 0))
    demo("--input", pictures / "picture0.png", "--output", tmp_path / "demo.png", config=config)
    assert (tmp_path / "demo.png").is_file()
    arguments = ["--config-file", config, "--dataset", two_pictures, "--num-images", "1"]
    tool("visualize_results").main([*arguments, "--output", str(tmp_path / "results")])
    assert "picture0.png" in files_in(tmp_path / "results")
