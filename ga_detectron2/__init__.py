"""Guided anchoring (CVPR 2019) for detectron2. Importing this package registers everything."""

__version__ = "0.2.0"

try:
    import detectron2
except ImportError as error:
    raise ImportError(
        "ga_detectron2 extends detectron2, which is not installed. Install a build of it for your "
        "version of torch (see 'Installation' in detectron2's documentation), then import "
        "ga_detectron2 again"
    ) from error
try:
    from detectron2.modeling.meta_arch import dense_detector
except ImportError as error:
    raise ImportError(
        f"the detectron2 found at {list(detectron2.__path__)} is older than v0.6 or incomplete "
        f"({error}): ga_detectron2 needs v0.6 or newer"
    ) from error
del dense_detector

# Importing these registers datasets, traceable forms, CLIP_TYPE full_model, ga:// and models.
from . import data, export, gradient_clipping, model_zoo, modeling
from .config import add_ga_config, use_guided_anchoring
from .modeling.guided_anchoring import record_guided_anchors

__all__ = [
    "add_ga_config",
    "data",
    "export",
    "gradient_clipping",
    "model_zoo",
    "modeling",
    "record_guided_anchors",
    "use_guided_anchoring",
]
