"""tools/diagnose.py."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config
from tests.scripts import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "diagnose.py"


@pytest.mark.parametrize(
    ("config", "strides"),
    [("ga_faster_R_50", [4, 8, 16, 32, 64]), ("ga_retinanet_R_50", [8, 16, 32, 64, 128])],
)
def test_table_and_json(
    arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, config: str, strides: list
) -> None:
    small = {"MODEL__FPN__OUT_CHANNELS": 32, "MODEL__WEIGHTS": tmp_path / "weights.pth"}
    call = arguments(config, **small)
    model = build_model(load_config(call[1], call[4:], [call[3]]))
    # So that the location probability is 0.5 everywhere.
    for key, value in model.state_dict().items():
        if "anchor_loc." in key:
            value.zero_()
    torch.save({"model": model.state_dict(), "__author__": "test"}, tmp_path / "weights.pth")
    main = runpy.run_path(str(SCRIPT))["main"]
    main(["--json", str(tmp_path / "out.json"), "--max-images", "3", *call])
    printed = capsys.readouterr().out
    assert f"| stride {strides[0]} |" in printed
    assert "The location branch " in printed
    written = json.loads((tmp_path / "out.json").read_text())
    found = written["datasets"]["ga_tiny"]
    assert found["images"] == 3
    assert [level["stride"] for level in found["levels"]] == strides
    # Of 64 x 96 pixels, rounded up.
    cells = [-(-64 // s) * -(-96 // s) for s in strides]
    assert [level["cells"] for level in found["levels"]] == [3 * n for n in cells]
    assert found["all"]["objects"] == 1 + 2 + 3
    assert found["all"]["kept_share"] == found["all"]["center_recall"] == 1
    assert found["all"]["center_probability"] == pytest.approx(0.5)
    assert 0 < found["all"]["iou_kept"] == found["all"]["iou_guided"] <= 1


def test_missing_weights_are_reported(arguments: Callable) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit, match=r"diagnose.py: error: .*set MODEL.WEIGHTS"):
        main(arguments("ga_rpn_R_50"))
    with pytest.raises(SystemExit, match=r"error: absent.pth"):
        main(arguments("ga_rpn_R_50", MODEL__WEIGHTS="absent.pth"))


@pytest.mark.parametrize(
    "tool", ["diagnose", "dump_proposals", pytest.param("train_net", marks=pytest.mark.slow)]
)
def test_models_of_other_classes_than_the_training_set(
    arguments: Callable, tool: str, tmp_path: Path
) -> None:
    """They fail because of missing weights, not the five classes of DATASETS.TRAIN."""
    options = {
        "dump_proposals": ["--output", str(tmp_path / "p.pkl")],
        "train_net": ["--eval-only"],
    }
    keys = {"MODEL__WEIGHTS": "absent.pth", "DATASETS__TRAIN": "('ga_shapes_train',)"}
    with pytest.raises(SystemExit, match=r"absent\.pth"):
        load_script(tool).main(arguments("ga_retinanet_R_50", *options.get(tool, []), **keys))
