"""Masks and keypoints of exported models, as the recipes have them, against their originals."""

import runpy
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from torch import nn

from ga_detectron2.engine import load_config
from ga_detectron2.export import ExportedModel, compare_results, export_folder, infer
from tests.export.models import CONFIGS, FAMILIES, make_model, noise, overrides_of

TOOL = Path(__file__).resolve().parents[2] / "tools" / "export_model.py"
HEADS = {
    "mask": [
        *("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", "2", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"),
    ],
    "keypoint": [
        *("MODEL.KEYPOINT_ON", "True", "MODEL.ROI_HEADS.NUM_CLASSES", "1"),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(16, 16)"),
    ],
}


def make_model_with(head: str) -> tuple[CfgNode, nn.Module]:
    """The small GA-Faster R-CNN with a head that says something of each of its boxes."""
    opts = [*overrides_of("ga_faster"), *HEADS[head]]
    cfg = load_config(str(CONFIGS / FAMILIES["ga_faster"]), opts)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    fits = {k: v.shape for k, v in model.state_dict().items()}
    _, base = make_model("ga_faster")
    weights = {k: v for k, v in base.state_dict().items() if fits.get(k) == v.shape}
    model.load_state_dict(weights, strict=False)
    last = (
        model.roi_heads.mask_head.predictor
        if head == "mask"
        else model.roi_heads.keypoint_head.score_lowres
    )
    nn.init.normal_(last.weight, std=0.5)
    return cfg, model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "file_format"),
    [("mask", "torchscript"), ("keypoint", "torchscript"), ("mask", "onnx")],
)
def test_same_masks_and_keypoints(tmp_path, head, file_format):
    if file_format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    cfg, model = make_model_with(head)
    export_folder(cfg, model, noise(96, 128, seed=1), tmp_path, file_format)
    exported = ExportedModel(tmp_path)
    field = f"pred_{head}s"
    assert field in exported.description["outputs"]
    nothing = model.pixel_mean.expand(-1, 64, 96).clone()
    for image in (noise(96, 128, seed=1), noise(33, 200, seed=2), nothing):
        with torch.no_grad():
            (expected,) = infer(model, [{"image": image}])
        found = exported.infer(image)
        assert found.get(field).shape == expected.get(field).shape
        assert (len(expected) == 0) == (image is nothing)
        differences = compare_results(found, expected)
        assert differences.unmatched == 0
        assert differences.mask < 1e-3
        assert differences.keypoint < 1e-2
        # In pixels of a larger image, as detectron2's evaluation asks for them.
        (results,) = exported([{"image": image, "height": 130, "width": 400}])
        pasted = detector_postprocess(expected, 130, 400).get(field)
        assert results["instances"].get(field).shape == pasted.shape


@pytest.mark.slow
def test_no_keypoints_in_onnx(tmp_path, capsys):
    pytest.importorskip("onnx")
    _, model = make_model_with("keypoint")
    torch.save({"model": model.state_dict(), "__author__": "test"}, tmp_path / "weights.pth")
    call = ["--config-file", str(CONFIGS / FAMILIES["ga_faster"]), "--format", "onnx"]
    call += ["--output", str(tmp_path / "exported"), *overrides_of("ga_faster")]
    call += [*HEADS["keypoint"], "MODEL.WEIGHTS", str(tmp_path / "weights.pth")]
    with pytest.raises(SystemExit, match=r"error: models with keypoints .*torchscript"):
        runpy.run_path(str(TOOL))["main"](call)
