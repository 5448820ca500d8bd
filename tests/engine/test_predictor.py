"""The predictor against detectron2's own, and which weights it takes."""

import logging

import cv2
import pytest
import torch
from detectron2.engine import DefaultPredictor

from ga_detectron2 import record_guided_anchors
from ga_detectron2.engine import GuidedPredictor, load_config, read_inference_config
from ga_detectron2.engine.inference_model import find_weights
from ga_detectron2.errors import ConfigError


def load_predictor(*arguments) -> GuidedPredictor:
    return GuidedPredictor(read_inference_config(*arguments))


@pytest.fixture
def picture(two_pictures):
    """The first image of the dataset, RGB."""
    folder = two_pictures.rpartition(":")[2]
    return cv2.imread(f"{folder}/picture0.png")[:, :, ::-1]


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_detections_are_those_of_detectron2(detector, two_pictures, picture, input_format) -> None:
    predictor = load_predictor(detector, ["INPUT.FORMAT", input_format], [two_pictures])
    default = DefaultPredictor(predictor.cfg)
    with record_guided_anchors(default.model) as records:
        expected = default(picture[:, :, ::-1])["instances"]
    actual = predictor(picture)
    assert actual.detections is not None
    assert len(expected) > 10
    assert torch.equal(actual.detections.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(actual.detections.scores, expected.scores)
    assert torch.equal(actual.guided.loc_logits, records[0].loc_logits)
    assert torch.equal(actual.anchors, records[0].anchors[0])
    assert actual.input_size == (96, 144)  # 60x90, the shorter side to 96
    assert predictor.available == {"anchors", "guided", "proposals", "detections"}


def test_proposals_are_in_pixels_of_the_image(proposer, detector, two_pictures, picture) -> None:
    # A detector hands out the same proposals beside its detections, and its weights are enough.
    twin = load_predictor(detector, [], [two_pictures])
    cfg = load_config(proposer)
    cfg.MODEL.WEIGHTS = twin.cfg.MODEL.WEIGHTS
    predictor = GuidedPredictor(cfg)
    expected = DefaultPredictor(cfg)(picture[:, :, ::-1])["proposals"]
    for actual in (predictor(picture).proposals, twin(picture).proposals):
        assert len(expected) > 10
        assert torch.equal(actual.proposal_boxes.tensor, expected.proposal_boxes.tensor)
        assert torch.equal(actual.objectness_logits, expected.objectness_logits)
    assert predictor(picture).detections is None
    assert predictor.available == {"anchors", "guided", "proposals"}


def test_a_model_of_detectron2_has_its_own_anchors(plain_detector, two_pictures, picture) -> None:
    predictor = load_predictor(plain_detector, [], [two_pictures])
    prediction = predictor(picture)
    assert prediction.guided is None
    # Padded to 96x160; five levels from stride 4, with five sizes of three ratios each.
    cells = sum(-(-96 // s) * -(-160 // s) for s in (4, 8, 16, 32, 64))
    assert prediction.anchors.shape == (5 * 3 * cells, 4)
    assert "guided" not in predictor.available


def test_weights_of_the_command_line_come_before_those_of_the_run(detector, tmp_path) -> None:
    def weights(*overrides: str) -> str:
        overrides = ("OUTPUT_DIR", str(tmp_path), *overrides)
        return find_weights(load_config(detector, overrides), overrides)

    assert weights().endswith("detector.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert weights() == str(tmp_path / "model_final.pth")
    assert weights("MODEL.WEIGHTS", "other.pth") == "other.pth"
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"no checkpoint can be read .*; set MODEL.WEIGHTS"):
        weights()
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "model_0000001.pth")
    assert weights() == str(tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").unlink()
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        weights("MODEL.WEIGHTS", "")


@pytest.mark.parametrize(
    "weights",
    [
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "ga://resnext101_32x4d",
        "ga://efficientnet_lite0",
    ],
)
def test_a_pretrained_backbone_is_no_trained_model(detector, tmp_path, weights) -> None:
    cfg = load_config(detector, ["OUTPUT_DIR", str(tmp_path)])
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    with pytest.raises(ConfigError, match="a backbone alone"):
        find_weights(cfg, [])


def test_loaded_proposals_are_refused(detector) -> None:
    with pytest.raises(ConfigError, match="LOAD_PROPOSALS must be False"):
        load_predictor(detector, ["MODEL.LOAD_PROPOSALS", "True"])


def test_without_cuda_it_runs_on_the_cpu_and_says_so(detector, caplog, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert load_predictor(detector, ["MODEL.DEVICE", "cuda"]).cfg.MODEL.DEVICE == "cpu"
    assert "No CUDA device" in caplog.text


def test_classes_are_not_named_after_another_dataset(detector, two_pictures, caplog) -> None:
    names = load_predictor(detector, [], [two_pictures]).metadata.thing_classes
    assert names == [f"kind{i}" for i in range(5)]
    # COCO has 80 classes, the model five.
    with caplog.at_level(logging.WARNING):
        predictor = load_predictor(detector, ["DATASETS.TEST", "('coco_2017_val',)"])
    assert predictor.metadata.get("thing_classes") is None
    assert "Classes are shown as numbers: MODEL.ROI_HEADS.NUM_CLASSES is 5" in caplog.text
    assert load_predictor(detector, ["DATASETS.TRAIN", "('coco_2017_val',)"], [two_pictures])
    assert caplog.text.count("as numbers") == 1
