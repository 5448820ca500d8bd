"""tools/diagnose.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from tests.scripts import load_script


def always_half(model: nn.Module) -> None:
    """Make the location probability 0.5 everywhere."""
    for key, value in model.state_dict().items():
        if "anchor_loc." in key:
            value.zero_()


@pytest.mark.parametrize(
    ("name", "strides"),
    [("ga_faster_R_50", [4, 8, 16, 32, 64]), ("ga_retinanet_R_50", [8, 16, 32, 64, 128])],
)
def test_table_and_json(
    arguments: Callable,
    save_weights: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    name: str,
    strides: list,
) -> None:
    options = ["--json", tmp_path / "out.json", "--max-images", 3]
    # The classes of the training set do not matter.
    keys = {"MODEL__WEIGHTS": save_weights(name, always_half),
            "DATASETS__TRAIN": "('ga_shapes_train',)"}  # fmt: skip
    load_script("diagnose").main(arguments(name, *options, **keys))
    printed = capsys.readouterr().out
    assert f"| stride {strides[0]} |" in printed
    assert "The location branch " in printed
    found = json.loads((tmp_path / "out.json").read_text())["datasets"]["ga_tiny"]
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
    main = load_script("diagnose").main
    with pytest.raises(SystemExit, match=r"diagnose.py: error: .*set MODEL.WEIGHTS"):
        main(arguments("ga_rpn_R_50"))
    with pytest.raises(SystemExit, match=r"error: absent.pth"):
        main(arguments("ga_rpn_R_50", MODEL__WEIGHTS="absent.pth"))
