"""Weights: reading files of detectron2, MMDetection and torchvision, and converting names."""

from .errors import CheckpointError
from .mmdet import convert_mmdet_state_dict

__all__ = ["CheckpointError", "convert_mmdet_state_dict"]
