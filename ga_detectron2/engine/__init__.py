"""Training and inference: the trainer, configurations of runs, and models with their weights."""

from .guided_anchor_hook import GuidedAnchorHook
from .inference_model import load_inference_model, read_inference_config
from .predictor import GuidedPredictor, Prediction
from .run_config import check_run, load_config, use_available_device
from .trainer import GATrainer

__all__ = [
    "GATrainer",
    "GuidedAnchorHook",
    "GuidedPredictor",
    "Prediction",
    "check_run",
    "load_config",
    "load_inference_model",
    "read_inference_config",
    "use_available_device",
]
