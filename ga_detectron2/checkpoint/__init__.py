"""Weights: reading files of detectron2, MMDetection and torchvision, and converting names."""

from .checkpointer import GACheckpointer
from .mmdet import convert_mmdet_state_dict

__all__ = ["GACheckpointer", "convert_mmdet_state_dict"]
