"""Weights: reading files of detectron2, MMDetection and torchvision, and converting names."""

from ga_detectron2.errors import CheckpointError

from .checkpointer import GACheckpointer
from .mmdet import convert_mmdet_state_dict

__all__ = ["CheckpointError", "GACheckpointer", "convert_mmdet_state_dict"]
