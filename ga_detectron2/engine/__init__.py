"""Training: detectron2's trainer with whole-model clipping, and how a run is set up."""

from ga_detectron2.errors import ConfigError

from .inference_model import load_inference_model, read_inference_config
from .optimizer import build_optimizer, clip_full_model
from .predictor import GuidedPredictor, Prediction
from .run_config import check_run, load_config, use_available_device
from .trainer import GATrainer

__all__ = [
    "ConfigError",
    "GATrainer",
    "GuidedPredictor",
    "Prediction",
    "build_optimizer",
    "check_run",
    "clip_full_model",
    "load_config",
    "load_inference_model",
    "read_inference_config",
    "use_available_device",
]
