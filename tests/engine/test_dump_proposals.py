"""tools/dump_proposals.py, and Fast R-CNN with its files."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config
from ga_detectron2.engine.proposal_dump import ProposalDump, as_proposal_network
from ga_detectron2.errors import ConfigError
from tests.engine.jobs import PROJECT, finish, free_port, start
from tests.scripts import load_script


@pytest.fixture
def dump_arguments(arguments: Callable, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments for a GA-RPN with random weights."""

    def make(*options: str, **overrides: object) -> list[str]:
        weights = tmp_path / "ga_rpn.pth"
        overrides = {"MODEL__FPN__OUT_CHANNELS": 32, "MODEL__RPN__POST_NMS_TOPK_TEST": 50,
                     **overrides}  # fmt: skip
        call = arguments("ga_rpn_R_50", *options, **overrides, MODEL__WEIGHTS=weights)
        if not weights.exists():
            torch.manual_seed(0)
            model = build_model(load_config(call[1], call[4 + len(options) :], [call[3]]))
            # Only some cells pass the filter, with different probabilities.
            torch.nn.init.normal_(model.proposal_generator.rpn_head.anchor_loc.weight, std=0.5)
            torch.save({"model": model.state_dict(), "__author__": "test"}, weights)
        return call

    return make


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
    script.main(dump_arguments("--output", str(whole)))
    expected = read(whole)
    assert expected["ids"] == [1, 2, 3, 4, 5, 6]
    assert all(len(boxes) > 0 for boxes in expected["boxes"])
    assert not (tmp_path / "whole.pkl.shards").exists()

    # Interrupted in the second shard of two images.
    call = dump_arguments("--output", str(output), "--shard-size", "2")
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
        script.main(dump_arguments("--output", str(output), "--shard-size", "2",
                                   MODEL__RPN__NMS_THRESH=0.5))  # fmt: skip
    weights = tmp_path / "ga_rpn.pth"
    content = weights.read_bytes()
    weights.write_bytes(content + b"\0")
    with pytest.raises(SystemExit, match="another file of weights"):
        script.main(call)
    weights.write_bytes(content)

    script.main(call)
    assert calls == [[1, 2], [3, 4], [3, 4], [5, 6]]
    assert "1 of 3 shards exist already" in capsys.readouterr().out
    assert_same(read(output), expected)
    assert not shards.exists()
    script.main(call)
    assert "is already complete" in capsys.readouterr().out
    assert len(calls) == 4


def test_damaged_shard_is_named(dump_arguments: Callable, tmp_path: Path) -> None:
    script = load_script("dump_proposals")
    args = script.parse_args(
        dump_arguments("--output", str(tmp_path / "out.pkl"), "--shard-size", "6")
    )
    dump, _ = script.open_dump(args)
    dump.prepare()
    (tmp_path / "out.pkl.shards" / "00000.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(SystemExit, match=r"00000.pkl: damaged or truncated"):
        script.main(dump_arguments("--output", str(tmp_path / "out.pkl"), "--shard-size", "6"))


def test_wrong_arguments_are_reported(dump_arguments: Callable, tmp_path: Path) -> None:
    script = load_script("dump_proposals")
    output = tmp_path / "mine.pkl"
    output.write_bytes(b"precious")
    with pytest.raises(SystemExit, match="exists and is not from this tool"):
        script.main(dump_arguments("--output", str(output)))
    assert output.read_bytes() == b"precious"
    with pytest.raises(SystemExit, match="there is no dataset 'none'"):
        script.main(dump_arguments("--output", "x.pkl", "--dataset-name", "none"))
    with pytest.raises(SystemExit, match=r"set MODEL.WEIGHTS"):
        script.main(
            [*dump_arguments("--output", "x.pkl"), "MODEL.WEIGHTS", "", "OUTPUT_DIR", "none"]
        )
    with pytest.raises(ConfigError, match=r"Identity makes no proposals"):
        as_proposal_network(torch.nn.Identity())


def test_proposals_of_a_detector_are_those_of_its_roi_heads(arguments: Callable) -> None:
    call = arguments("ga_faster_R_50")
    cfg = load_config(call[1], call[4:], [call[3]])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    records = DatasetCatalog.get("ga_tiny")[:2]
    inputs = [DatasetMapper(cfg, False)(record) for record in records]
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


def test_converts_mmdetections_file(
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


@pytest.mark.slow
def test_two_machines_of_two_processes(dump_arguments: Callable, tmp_path: Path) -> None:
    """Six shards of an image, divided among four processes."""
    load_script("dump_proposals").main(dump_arguments("--output", str(tmp_path / "one.pkl")))
    options = ["--num-gpus", "2", "--num-machines", "2", "--shard-size", "1",
               "--dist-url", f"tcp://127.0.0.1:{free_port()}",
               "--output", str(tmp_path / "four.pkl")]  # fmt: skip
    script = PROJECT / "tools" / "dump_proposals.py"
    jobs = [
        start([script, *dump_arguments(*options, "--machine-rank", str(rank))]) for rank in (0, 1)
    ]
    outputs = finish(*jobs)
    # Every shard was computed once.
    assert sum(output.count(f"Shard {i} of 6") for output in outputs for i in range(1, 7)) == 6
    assert "proposals" in outputs[0].splitlines()[-1]
    assert_same(read(tmp_path / "four.pkl"), read(tmp_path / "one.pkl"))
    assert not (tmp_path / "four.pkl.shards").exists()


@pytest.mark.slow
@pytest.mark.photographs
def test_fast_rcnn_trains_and_scores_on_proposals(
    arguments: Callable, dump_arguments: Callable, shared_folder: Path, tmp_path: Path
) -> None:
    folder = shared_folder / "data" / "coco_tiny"
    json_file = folder / "annotations" / "instances_val2017.json"
    contents = json.loads(json_file.read_text())
    ids = sorted({a["image_id"] for a in contents["annotations"] if not a["iscrowd"]})[:4]
    for key, id_of in (("images", "id"), ("annotations", "image_id")):
        contents[key] = [x for x in contents[key] if x[id_of] in ids]
    (tmp_path / "photos.json").write_text(json.dumps(contents))
    # With "coco" in the name, detectron2 accepts gaps between the ids of categories.
    name = f"coco_photos_{tmp_path.name}"
    options = ["--dataset", f"{name}={tmp_path / 'photos.json'}:{folder / 'val2017'}"]
    size = {"INPUT__MIN_SIZE_TRAIN": "(96,)", "INPUT__MIN_SIZE_TEST": 96}
    data = {"DATASETS__TRAIN": f"('{name}',)", "DATASETS__TEST": f"('{name}',)"}
    dump = dump_arguments("--output", str(tmp_path / "proposals.pkl"), "--shard-size", "3",
                          "--dataset-name", name, **size)  # fmt: skip
    load_script("dump_proposals").main([*options, *dump])
    proposals = read(tmp_path / "proposals.pkl")
    assert proposals["ids"] == ids
    for boxes, image_id in zip(proposals["boxes"], ids, strict=True):
        image = next(x for x in contents["images"] if x["id"] == image_id)
        assert len(boxes) > 0
        # In pixels of the original image; the model sees a smaller one.
        assert boxes[:, 2].max() <= image["width"]
        assert max(boxes[:, 2].max(), boxes[:, 3].max()) > 200

    files = f"('{tmp_path / 'proposals.pkl'}',)"
    call = arguments("ga_fast_R_50", *options, **size, **data, MODEL__ROI_HEADS__NUM_CLASSES=80,
                     MODEL__FPN__OUT_CHANNELS=32, MODEL__ROI_BOX_HEAD__FC_DIM=64,
                     DATASETS__PROPOSAL_FILES_TRAIN=files,
                     DATASETS__PROPOSAL_FILES_TEST=files)  # fmt: skip
    load_script("train_net").main(call)
    written: dict = {}
    for line in (tmp_path / "output" / "metrics.json").read_text().splitlines():
        written.update(json.loads(line))
    assert {"loss_cls", "loss_box_reg", "bbox/AP"} <= set(written)
    assert not any("rpn" in key or "anchor" in key for key in written)
    found = json.loads(
        (tmp_path / "output" / "inference" / "coco_instances_results.json").read_text()
    )
    assert {x["image_id"] for x in found} <= set(ids)
    state = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert not any(key.startswith("proposal_generator") for key in state["model"])
