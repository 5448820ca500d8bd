"""The keys that guided anchoring adds to a detectron2 configuration."""

from detectron2.config import CfgNode


def add_ga_config(cfg: CfgNode) -> None:
    """Add ``MODEL.GUIDED_ANCHOR``, ``TEST.PROPOSAL_RECALL_LIMITS``, ``TEST.COMPILE_BACKBONE``.

    The defaults of ``MODEL.GUIDED_ANCHOR`` are those of GA-RPN; ``configs/Base-GARetinaNet.yaml``
    sets the ones that differ in GA-RetinaNet. Whatever detectron2 already has a key for
    (``MODEL.RPN.*``, ``MODEL.RETINANET.*``) keeps that key.
    """
    cfg.MODEL.GUIDED_ANCHOR = _C = CfgNode()

    # -- Geometry ("Guided Anchoring", section 3; sizes in units of a level's stride) ------------
    # Side of a cell's square, the shape from which its guided anchor is predicted.
    _C.OCTAVE_BASE_SCALE = 8
    # The approximate anchors of a cell, which serve only to assign shape targets: this many
    # scales between one octave and the next, times these ratios of height to width.
    _C.SCALES_PER_OCTAVE = 3
    _C.ASPECT_RATIOS = [0.5, 1.0, 2.0]

    # -- Location branch (section 3.2) ---------------------------------------------------------
    # In inference, cells whose location probability is lower are left out.
    _C.LOC_FILTER_THRESH = 0.01
    # Shares of a box's width and height that its centre region and its ignored region take.
    _C.CENTER_RATIO = 0.2
    _C.IGNORE_RATIO = 0.5
    _C.LOC_LOSS_WEIGHT = 1.0

    # -- Shape branch (section 3.3) --------------------------------------------------------------
    # The two shape outputs (dw, dh) are divided by these before exp.
    _C.SHAPE_REG_WEIGHTS = [1.0 / 0.14, 1.0 / 0.14]
    # IoU of a cell (the best of its approximate anchors) with a box, from which on the cell is
    # negative (0), ignored (-1) or positive (1), as in MODEL.RPN.IOU_THRESHOLDS.
    _C.IOU_THRESHOLDS = [0.3, 0.7]
    _C.IOU_LABELS = [0, -1, 1]
    # A box whose best IoU is at least this gets the cells that reach it, whatever the thresholds
    # say. In the RPN this also holds for the match of guided anchors.
    _C.MIN_POSITIVE_IOU = 0.3
    # Cells sampled in an image for the shape loss, and the largest share of positives in them.
    _C.BATCH_SIZE_PER_IMAGE = 256
    _C.POSITIVE_FRACTION = 0.5
    _C.SHAPE_LOSS_WEIGHT = 1.0
    # Where the smooth L1 of the bounded IoU loss turns from quadratic to linear.
    _C.SHAPE_LOSS_BETA = 0.2

    # -- Feature adaption (section 3.4) ----------------------------------------------------------
    _C.DEFORM_GROUPS = 4

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
    # Numbers of proposals an image at which the average recall of proposals is reported.
    cfg.TEST.PROPOSAL_RECALL_LIMITS = [100, 300, 1000]
    # Whether models that only infer (--eval-only, the demo, dumped proposals, diagnosis) have their
    # backbone compiled by torch.compile. It takes a minute or more, and pays for hundreds of
    # images: docs/benchmarks.md. Trainings, with the scores on their way, and exports do without.
    cfg.TEST.COMPILE_BACKBONE = False


def guided_anchor_node(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.GUIDED_ANCHOR``.

    Raises:
        ValueError: the section is missing.
    """
    if "GUIDED_ANCHOR" not in cfg.MODEL:
        raise ValueError(
            "MODEL.GUIDED_ANCHOR is missing: call ga_detectron2.add_ga_config(cfg) before merging "
            "a file"
        )
    return cfg.MODEL.GUIDED_ANCHOR
