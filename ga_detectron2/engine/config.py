"""The keys that this package's trainer adds to a detectron2 configuration."""

from detectron2.config import CfgNode


def add_trainer_config(cfg: CfgNode) -> None:
    """Add what detectron2 has no key for to ``cfg``.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` is detectron2's own key; beside its "value" and "norm",
    :func:`~ga_detectron2.engine.optimizer.build_optimizer` takes "full_model".
    """
    # Numbers of proposals an image at which ProposalRecallEvaluator reports average recall.
    cfg.TEST.PROPOSAL_RECALL_LIMITS = [100, 300, 1000]
