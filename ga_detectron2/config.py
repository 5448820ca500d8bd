"""The keys that guided anchoring adds to a detectron2 configuration.

Importing this module adds them to detectron2's ``get_cfg()``, with which its tools begin, and lets
``MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE`` take integers and floats; yacs alone accepts only values
of the default's type.
"""

from typing import Any

import yacs.config  # type: ignore[import-untyped]
from detectron2.config import CfgNode, defaults

from .errors import ConfigError

__all__ = ["add_ga_config", "guided_anchor_node", "use_guided_anchoring"]

_BASE_SCALE = "MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE"

# Settings of the published models, by key.
_GA_RPN = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "GuidedAnchorRPN",
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.IOU_LABELS": [0, -1, 1],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.RPN.SMOOTH_L1_BETA": 1.0,
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 2000,
    "MODEL.RPN.NMS_THRESH": 0.7,
}
_GA_RETINANET = {
    "MODEL.META_ARCHITECTURE": "GARetinaNet",
    _BASE_SCALE: 4,
    "MODEL.GUIDED_ANCHOR.SHAPE_REG_WEIGHTS": [1.0, 1.0],
    "MODEL.GUIDED_ANCHOR.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU": 0.4,
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, 1],
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.04,
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.25,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.RETINANET.PRIOR_PROB": 0.01,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
}
RETINANET_KEYS = [key.rpartition(".")[2] for key in _GA_RETINANET if "GUIDED_ANCHOR" in key]
"""Keys of ``MODEL.GUIDED_ANCHOR`` with another value in GA-RetinaNet than in GA-RPN."""


def add_ga_config(cfg: CfgNode) -> None:
    """Add ``MODEL.GUIDED_ANCHOR``, ``TEST.PROPOSAL_RECALL_LIMITS`` and ``TEST.COMPILE_BACKBONE``.

    The defaults of ``MODEL.GUIDED_ANCHOR`` are those of GA-RPN; ``configs/Base-GARetinaNet.yaml``
    and :func:`use_guided_anchoring` set the ones that differ in GA-RetinaNet. Settings for which
    detectron2 has keys (``MODEL.RPN.*``, ``MODEL.RETINANET.*``) use those keys.

    After ``import ga_detectron2``, ``detectron2.config.get_cfg()`` has the keys already; a
    configuration that has them is not changed.
    """
    if "GUIDED_ANCHOR" in cfg.MODEL:
        return
    cfg.MODEL.GUIDED_ANCHOR = _C = CfgNode()

    # -- Geometry ("Guided Anchoring", section 3; sizes in units of a level's stride) ------------
    # Side of a cell's square, from which its guided anchor is predicted. Integer or float.
    _C.OCTAVE_BASE_SCALE = 8
    # Approximate anchors of a cell, which serve only to assign shape targets: the number of
    # scales from one octave to the next, times the ratios of height to width.
    _C.SCALES_PER_OCTAVE = 3
    _C.ASPECT_RATIOS = [0.5, 1.0, 2.0]

    # -- Location branch (section 3.2) ---------------------------------------------------------
    # Inference skips cells with a lower location probability.
    _C.LOC_FILTER_THRESH = 0.01
    # Shares of a box's width and height that its centre region and its ignored region take.
    _C.CENTER_RATIO = 0.2
    _C.IGNORE_RATIO = 0.5
    _C.LOC_LOSS_WEIGHT = 1.0

    # -- Shape branch (section 3.3) --------------------------------------------------------------
    # The two shape outputs (dw, dh) are divided by these before exp.
    _C.SHAPE_REG_WEIGHTS = [1.0 / 0.14, 1.0 / 0.14]
    # Thresholds of the IoU of a cell (the best of its approximate anchors) with a box. Between
    # them the cell is negative (0), ignored (-1) or positive (1), as in MODEL.RPN.IOU_THRESHOLDS.
    _C.IOU_THRESHOLDS = [0.3, 0.7]
    _C.IOU_LABELS = [0, -1, 1]
    # A box whose best IoU is at least this makes the cells that reach it positive, regardless of
    # the thresholds. In the RPN this also holds for the match of guided anchors.
    _C.MIN_POSITIVE_IOU = 0.3
    # Cells sampled per image for the shape loss, and the largest share of positives among them.
    _C.BATCH_SIZE_PER_IMAGE = 256
    _C.POSITIVE_FRACTION = 0.5
    _C.SHAPE_LOSS_WEIGHT = 1.0
    # Transition point of the smooth L1 in the bounded IoU loss.
    _C.SHAPE_LOSS_BETA = 0.2

    # -- Feature adaption (section 3.4) ----------------------------------------------------------
    # Groups of channels that share the offsets of their taps. 0 holds the offsets at zero: features
    # are not adapted to shapes.
    _C.DEFORM_GROUPS = 4
    # Standard deviation of the convolution's initial weights. Heads with fewer than 256 channels
    # learn faster from larger ones: sqrt(2 / (9 * channels)), 0.06 for 64 channels.
    _C.ADAPTION_INIT_STD = 0.01

    # -- Backbones of timm (build_timm_fpn_backbone, build_ga_retinanet_timm_fpn_backbone) ---------
    cfg.MODEL.TIMM = CfgNode()
    # A name of timm.list_models(), such as "resnet50d" or "convnext_tiny".
    cfg.MODEL.TIMM.NAME = ""
    # Whether timm downloads its weights of this name.
    cfg.MODEL.TIMM.PRETRAINED = False
    # A file of weights to use instead.
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Strides of the feature maps; the pyramid of a RetinaNet leaves out those below 8.
    cfg.MODEL.TIMM.FEATURES = [4, 8, 16, 32]
    # Whether batch norms have fixed statistics and affine parameters.
    cfg.MODEL.TIMM.FROZEN_BN = True

    # -- Evaluation ------------------------------------------------------------------------------
    # Numbers of proposals per image at which the average recall of proposals is reported.
    cfg.TEST.PROPOSAL_RECALL_LIMITS = [100, 300, 1000]
    # Compile the backbone of models that only infer (--eval-only, demo, dumped proposals,
    # diagnosis) with torch.compile. It takes a minute or more and pays off for hundreds of images
    # (docs/benchmarks.md). Training, with its evaluations, and export ignore the key.
    cfg.TEST.COMPILE_BACKBONE = False


def guided_anchor_node(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.GUIDED_ANCHOR``.

    Raises:
        ConfigError: the section is missing.
    """
    if "GUIDED_ANCHOR" not in cfg.MODEL:
        raise ConfigError(
            "MODEL.GUIDED_ANCHOR is missing: call ga_detectron2.add_ga_config(cfg) before merging "
            "a file"
        )
    return cfg.MODEL.GUIDED_ANCHOR


def use_guided_anchoring(cfg: CfgNode) -> None:
    """Switch a detectron2 configuration to guided anchoring, with the published settings.

    The RPN of a two-stage model becomes a ``GuidedAnchorRPN``, a ``RetinaNet`` a ``GARetinaNet``.
    Only keys of ``MODEL.GUIDED_ANCHOR``, of the proposal generator and of RetinaNet's head change:
    no dataset, schedule, input size, backbone or ROI head.

    Example:
        >>> cfg = detectron2.model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
        >>> use_guided_anchoring(cfg)

    Raises:
        ConfigError: the model has no RPN and is not a RetinaNet, or its boxes are rotated.
    """
    architecture, generator = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if architecture in ("RetinaNet", "GARetinaNet"):
        published: dict[str, Any] = _GA_RETINANET
    elif generator in ("RPN", "GuidedAnchorRPN") and architecture != "SemanticSegmentor":
        # Guided proposals are better, so R-CNN models need fewer.
        number = 1000 if architecture == "ProposalNetwork" else 300
        limits = {f"MODEL.RPN.POST_NMS_TOPK_{mode}": number for mode in ("TRAIN", "TEST")}
        published = {**_GA_RPN, **limits}
    elif generator == "RRPN":
        raise ConfigError(
            "MODEL.PROPOSAL_GENERATOR.NAME RRPN proposes rotated boxes, which guided anchoring "
            "does not support: its anchors are axis-aligned"
        )
    else:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {architecture} with MODEL.PROPOSAL_GENERATOR.NAME "
            f"{generator} has no anchors to guide: use a configuration with an RPN or a RetinaNet"
        )
    add_ga_config(cfg)
    cfg.merge_from_list([part for item in published.items() for part in item])


def keys_with_rpn_defaults(cfg: CfgNode) -> list[str]:
    """Those of :data:`RETINANET_KEYS` that have GA-RPN's values."""
    defaults = CfgNode({"MODEL": {}, "TEST": {}})
    add_ga_config(defaults)
    node, default = guided_anchor_node(cfg), defaults.MODEL.GUIDED_ANCHOR
    return [key for key in RETINANET_KEYS if node[key] == default[key]]


def _accept_any_number(check: Any = yacs.config._check_and_coerce_cfg_value_type) -> None:
    """Accept an integer or a float for ``OCTAVE_BASE_SCALE``.

    yacs only takes a value of the default's type.
    """

    def check_type(replacement: Any, original: Any, key: str, full_key: str) -> Any:
        if key == "OCTAVE_BASE_SCALE" and {type(replacement), type(original)} <= {int, float}:
            return replacement
        return check(replacement, original, key, full_key)

    yacs.config._check_and_coerce_cfg_value_type = check_type


_accept_any_number()
add_ga_config(defaults._C)
