"""tools/dump_proposals.py."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.engine.proposal_dump import ProposalDump, as_proposal_network
from ga_detectron2.errors import ConfigError
from tests.scripts import load_script


@pytest.fixture
def dump_arguments(arguments: Callable, save_weights: Callable) -> Callable[..., list[str]]:
    """Makes arguments for a GA-RPN with random weights, which sees smaller images."""

    def pass_some_cells(model: nn.Module) -> None:
        torch.nn.init.normal_(model.proposal_generator.rpn_head.anchor_loc.weight, std=0.5)

    weights = save_weights("ga_rpn_R_50", pass_some_cells)
    keys = {"INPUT__MIN_SIZE_TEST": 32, "MODEL__WEIGHTS": weights}
    return lambda *options, **more: arguments("ga_rpn_R_50", *options, **{**keys, **more})


def read(path: Path) -> dict:
    with path.open("rb") as file:
        return pickle.load(file)


def assert_same(found: dict, expected: dict) -> None:
    assert found["ids"] == expected["ids"]
    assert found["bbox_mode"] == expected["bbox_mode"]
    for key in ("boxes", "objectness_logits"):
        for a, b in zip(found[key], expected[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_shards_are_resumed_and_merged(
    dump_arguments: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    script = load_script("dump_proposals")
    whole, output = tmp_path / "whole.pkl", tmp_path / "new" / "out.pkl"
    script.main(dump_arguments("--output", whole))
    expected = read(whole)
    assert expected["ids"] == [1, 2, 3, 4, 5, 6]
    for boxes in expected["boxes"]:
        # In pixels of the original image, twice as large as what the model sees.
        assert 48 < boxes[:, 2].max() <= 96
    assert not (tmp_path / "whole.pkl.shards").exists()

    # Interrupted in the second shard of two images.
    call = dump_arguments("--output", output, "--shard-size", 2)
    original, calls = ProposalDump._propose, []

    def fail_at_second(self: ProposalDump, network: object, records: list) -> object:
        calls.append([r["image_id"] for r in records])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, network, records)

    monkeypatch.setattr(ProposalDump, "_propose", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        script.main(call)
    shards = tmp_path / "new" / "out.pkl.shards"
    assert [path.name for path in shards.iterdir()] == ["00000.pkl"]
    assert not output.exists()

    # Other weights or settings are refused.
    capsys.readouterr()
    with pytest.raises(SystemExit, match="another configuration of the model"):
        script.main([*call, "MODEL.RPN.NMS_THRESH", "0.5"])
    weights = tmp_path / "ga_rpn_R_50.pth"
    content = weights.read_bytes()
    weights.write_bytes(content + b"\0")
    with pytest.raises(SystemExit, match="another file of weights"):
        script.main(call)
    weights.write_bytes(content)

    # A damaged shard is named.
    first = (shards / "00000.pkl").read_bytes()
    (shards / "00000.pkl").write_bytes(first[:9])
    with pytest.raises(SystemExit, match=r"00000.pkl: damaged or truncated"):
        script.main(call)
    (shards / "00000.pkl").write_bytes(first)

    capsys.readouterr()
    script.main(call)
    assert calls == [[1, 2], [3, 4], [3, 4], [5, 6]]
    assert "3 of 3 shards exist already" in capsys.readouterr().out
    assert_same(read(output), expected)
    assert not shards.exists()
    script.main(call)
    assert "is already complete" in capsys.readouterr().out
    assert len(calls) == 4


def test_wrong_arguments_are_reported(dump_arguments: Callable, tmp_path: Path) -> None:
    script = load_script("dump_proposals")
    output = tmp_path / "mine.pkl"
    output.write_bytes(b"precious")
    with pytest.raises(SystemExit, match="exists and is not from this tool"):
        script.main(dump_arguments("--output", output))
    assert output.read_bytes() == b"precious"
    with pytest.raises(SystemExit, match="there is no dataset 'none'"):
        script.main(dump_arguments("--output", "x.pkl", "--dataset-name", "none"))
    with pytest.raises(SystemExit, match=r"set MODEL.WEIGHTS"):
        script.main(dump_arguments("--output", "x.pkl", MODEL__WEIGHTS="", OUTPUT_DIR="none"))
    with pytest.raises(ConfigError, match=r"Identity makes no proposals"):
        as_proposal_network(torch.nn.Identity())


def test_proposals_of_a_detector_are_those_of_its_roi_heads(config: Callable) -> None:
    cfg = config("ga_faster_R_50")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    inputs = [DatasetMapper(cfg, False)(record) for record in DatasetCatalog.get("ga_tiny")[:2]]
    heads_got = []
    model.roi_heads.register_forward_pre_hook(lambda _, inputs: heads_got.extend(inputs[2]))
    with torch.no_grad():
        model(inputs)
        found = as_proposal_network(model).eval()(inputs)
    for output, expected in zip(found, heads_got, strict=True):
        # The images are as large as the original ones: nothing is scaled.
        assert len(expected) > 0
        np.testing.assert_allclose(
            output["proposals"].proposal_boxes.tensor, expected.proposal_boxes.tensor, atol=1e-4
        )


def test_mmdetections_file_is_converted(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """In the order of the JSON file, which is not that of the ids."""
    json_file, folder = tiny_dataset.removeprefix("ga_tiny=").rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    contents["images"].reverse()
    (tmp_path / "reversed.json").write_text(json.dumps(contents))
    arrays = [np.full((i, 5), 1 / (i + 1), dtype=np.float32) for i in range(6)]
    (tmp_path / "mmdet.pkl").write_bytes(pickle.dumps(arrays))
    script = load_script("dump_proposals")
    dataset = f"ga_tiny_{tmp_path.name}={tmp_path / 'reversed.json'}:{folder}"
    call = ["--from-mmdet", str(tmp_path / "mmdet.pkl"), "--output", str(tmp_path / "out.pkl"),
            "--dataset", dataset, "--dataset-name", dataset.split("=")[0]]  # fmt: skip
    script.main(call)
    assert "15 proposals of 6 images" in capsys.readouterr().out
    found = read(tmp_path / "out.pkl")
    by_id = dict(zip(found["ids"], map(len, found["boxes"]), strict=True))
    assert by_id == {6: 0, 5: 1, 4: 2, 3: 3, 2: 4, 1: 5}
    (tmp_path / "mmdet.pkl").write_bytes(pickle.dumps(arrays[:5]))
    with pytest.raises(SystemExit, match="holds 5 images, but the dataset has 6"):
        script.main(call)
