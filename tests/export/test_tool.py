"""tools/export_model.py as a user calls it."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ga_detectron2.engine import GATrainer
from tests.export.models import CONFIGS, FAMILIES, make_model, overrides_of

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "export_model.py"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of GA-RPN with weights, for an image of 60 x 80 pixels."""
    folder = tmp_path_factory.mktemp("tool")
    _, model = make_model("ga_rpn")
    torch.save({"model": model.state_dict(), "__author__": "test"}, folder / "weights.pth")
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "image.png"), image)
    return [
        *("--config-file", str(CONFIGS / FAMILIES["ga_rpn"])),
        *("--output", str(folder / "exported"), "--check", str(folder / "image.png")),
        *(*overrides_of("ga_rpn"), "MODEL.WEIGHTS", str(folder / "weights.pth")),
        *("INPUT.MIN_SIZE_TEST", "60"),
    ]


def main(argv: list[str]) -> None:
    runpy.run_path(str(SCRIPT))["main"](argv)


def test_table_and_files(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    main(arguments)
    printed = capsys.readouterr().out
    folder = Path(arguments[3])
    assert f"wrote {folder / 'model.ts'}" in printed
    rows = [x.strip("| ").split(" | ") for x in printed.splitlines() if "| image.png" in x]
    assert [row[1] for row in rows] == ["60 x 80", "30 x 40"]
    assert int(rows[0][2]) > 0
    for row in rows:
        assert row[2] == row[3]
        assert row[4] == "0"
        assert float(row[5]) < 0.01
    description = json.loads((folder / "model.json").read_text())
    assert description["input"]["min_size_test"] == 60
    assert description["outputs"] == ["objectness_logits", "proposal_boxes", "image_size"]


def test_scores(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--run-eval with the exported model, on two drawn images."""
    images, annotations = [], []
    for i in range(2):
        image = np.full((60, 80, 3), 40 * i, np.uint8)
        image[10:40, 20:60] = 200
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 60, "width": 80})
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [20, 10, 40, 30]}
            | {"area": 1200, "iscrowd": 0}
        )
    contents = {"info": {}, "images": images, "annotations": annotations}
    contents["categories"] = [{"id": 1, "name": "thing"}]
    (tmp_path / "two.json").write_text(json.dumps(contents))
    call = [*arguments, "DATASETS.TEST", "('ga_two',)", "--run-eval"]
    call += ["--dataset", f"ga_two={tmp_path / 'two.json'}:{tmp_path}"]
    # What is logged goes to the stream of whichever test set up detectron2's logger first.
    score, scores = GATrainer.test, []
    monkeypatch.setattr(GATrainer, "test", lambda *args: scores.append(score(*args)))
    main(call)
    assert "AR@100" in scores[0]["proposal_recall"]
    assert list((Path(arguments[3]) / "inference").iterdir())


def test_mistakes(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*argv: str) -> str:
        with pytest.raises(SystemExit) as error:
            main(list(argv))
        return capsys.readouterr().err + str(error.value)

    config = [*arguments[:2], "OUTPUT_DIR", str(tmp_path / "none")]
    new = ["--output", str(tmp_path / "new")]
    assert "--output" in refused(*config)
    assert "set MODEL.WEIGHTS" in refused(*config, *new)
    assert "absent.jpg: there is no such file" in refused(*config, *new, "--check", "absent.jpg")
    assert "is a file, not a folder" in refused(*config, "--output", str(SCRIPT))
    # Before the model is built, for which there are no weights.
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 8), 40_000, np.uint16))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for option in ("--check", "--sample-image"):
        for name, reason in (("deep.png", "more than 8 bits"), ("bad.jpg", "cannot be decoded")):
            file = str(tmp_path / name)
            told = refused(*config, *new, option, file)
            assert told.startswith(f"export_model.py: error: {file}: ")
            assert reason in told
    assert "--opset: must be at least 16" in refused(*config, *new, "--opset", "11")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install onnx" in refused(*config, *new, "--format", "onnx")
    assert not (tmp_path / "new").exists()
