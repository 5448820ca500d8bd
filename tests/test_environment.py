"""The pinned environment: the parts that this package stands on are there and work together."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.layers import nms


def test_detectron2_finds_its_own_configs():
    """pkg_resources, which detectron2.model_zoo needs, is gone from setuptools 81 on."""
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN"


def test_torchvision_fits_torch():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_tensors_become_arrays():
    """torch 2.3 was built for NumPy 1 and cannot do this with NumPy 2."""
    assert torch.arange(3).numpy().tolist() == [0, 1, 2]


@pytest.mark.gpu
def test_torchvision_fits_torch_on_a_gpu():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10]], device="cuda")
    assert nms(boxes, torch.tensor([0.9, 0.8], device="cuda"), 0.5).tolist() == [0]
