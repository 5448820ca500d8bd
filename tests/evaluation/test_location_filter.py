"""Thresholds of the location filter: against loops, and against one ordinary run for each."""

import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model

from ga_detectron2 import record_guided_anchors
from ga_detectron2.data.images import NamingDatasetMapper
from ga_detectron2.engine import load_config
from ga_detectron2.evaluation import ProposalRecallEvaluator
from ga_detectron2.evaluation.diagnosis import GuidedAnchorDiagnosis, diagnose
from ga_detectron2.evaluation.location_filter import (
    FilterRow,
    choose_threshold,
    count_kept,
    format_filter_table,
)
from tests.recipes.runs import CONFIGS


def test_counts_against_loops() -> None:
    torch.manual_seed(0)
    probability = torch.rand(200).round(decimals=1)  # some are equal to a threshold
    centers = torch.randint(200, (30,))
    thresholds = (0.0, 0.3, 0.5, 0.95)
    expected = [
        [sum(p >= t for p in probability), sum(probability[c] >= t for c in centers)]
        for t in torch.tensor(thresholds)
    ]
    assert count_kept(probability, centers, thresholds).tolist() == expected


@pytest.mark.parametrize(
    ("recalls", "best"),
    [([1.0, 0.995, 0.994], 0.1), ([0.9, 0.9, 0.9], None), ([None] * 3, None)],
)
def test_highest_threshold_that_keeps_the_centers(recalls: list, best: float | None) -> None:
    rows = [
        FilterRow(t, 0.5, recall, None if recall is None else 40.0, 1.0)
        for t, recall in zip((0.01, 0.1, 0.3), recalls, strict=True)
    ]
    assert choose_threshold(rows) == best
    table = format_filter_table(rows)
    assert "| 0.01 | 50.0 % |" in table
    assert ("None of these" in table) is (best is None)


@pytest.mark.parametrize("name", ["ga_rpn", "ga_faster", "ga_retinanet"])
def test_one_pass_equals_a_run_for_each_threshold(name: str) -> None:
    overrides = [
        *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.FPN.NORM", ""),
        *("MODEL.FPN.OUT_CHANNELS", 32, "INPUT.MIN_SIZE_TEST", 96),
        *("DATASETS.TEST", ("ga_shapes_val",), "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
        *("MODEL.RETINANET.NORM", ""),
    ]
    cfg = load_config(str(CONFIGS / "small" / f"{name}_R_18.yaml"), overrides)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for key, parameter in model.named_parameters():
        if "anchor_loc." in key:  # probabilities of all sizes
            torch.nn.init.normal_(parameter, std=100.0 if "weight" in key else 0.0)
    rows = diagnose(cfg, model, "ga_shapes_val", max_images=3)["location_filter"]
    settings = next(m for m in model.modules() if hasattr(m, "loc_filter_thresh"))
    assert settings.loc_filter_thresh == 0.01  # as before
    assert rows[0]["kept_share"] > rows[-1]["kept_share"] > 0
    assert rows[0]["milliseconds"] > 0

    if name == "ga_faster":  # its proposals are those of this model
        model = build_proposal_network(cfg, model)
    loader = build_detection_test_loader(
        DatasetCatalog.get("ga_shapes_val")[:3], mapper=NamingDatasetMapper(cfg, False)
    )
    for row in rows:
        for module in model.modules():
            if hasattr(module, "loc_filter_thresh"):
                module.loc_filter_thresh = row["threshold"]
        with record_guided_anchors(model) as records:
            diagnosis = GuidedAnchorDiagnosis("ga_shapes_val", model, records)
            found = inference_on_dataset(model, loader, diagnosis)["guided_anchors"]["all"]
        assert row["kept_share"] == found["kept_share"]
        assert row["center_recall"] == found["center_recall"]
        recall = ProposalRecallEvaluator("ga_shapes_val", [100])
        if name == "ga_retinanet":
            recall = DetectionsAsProposals("ga_shapes_val", [100])
        expected = inference_on_dataset(model, loader, recall)["proposal_recall"]["AR@100"]
        assert row["recall"] == pytest.approx(expected, abs=1e-9)


def build_proposal_network(cfg, detector):
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    network = build_model(cfg).eval()
    network.load_state_dict(detector.state_dict(), strict=False)
    return network


class DetectionsAsProposals(ProposalRecallEvaluator):
    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for output in outputs:
            output["proposals"] = output["instances"]
            output["proposals"].proposal_boxes = output["instances"].pred_boxes
            output["proposals"].objectness_logits = output["instances"].scores
        super().process(inputs, outputs)
