"""detectron2's trainer with what guided anchoring needs of it."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.data import build_test_loader, build_train_loader
from ga_detectron2.data.records import records_to_score
from ga_detectron2.errors import ConfigError, DataError
from ga_detectron2.evaluation import ProposalRecallEvaluator

from .gradients import add_in_order_of_rank
from .optimizer import build_optimizer
from .resumable import ResumableTraining, seed_or_chance
from .train_loop import build_step
from .watch import watch_guided_anchors

__all__ = ["GATrainer"]

# What building a model raises for values of a configuration.
_WRONG_VALUES = (
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class GATrainer(ResumableTraining, DefaultTrainer):
    """A :class:`DefaultTrainer` with

    - gradients clipped over the whole model (``SOLVER.CLIP_GRADIENTS.CLIP_TYPE: full_model``),
    - :class:`GACheckpointer`, which takes MMDetection's and torchvision's files,
    - a run that ends, with its iteration and the loss's name, when a loss is not finite,
    - COCO's scores for boxes, and average recall for the proposals of a ``ProposalNetwork``,
    - several processes without a GPU,
    - what guided anchors do, as numbers and pictures (:class:`GuidedAnchorWatch`),
    - a training that is cut off and resumed like one that is not (:class:`ResumableTraining`).
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: scaled to the number of processes if ``SOLVER.REFERENCE_WORLD_SIZE`` is set, see
                :meth:`DefaultTrainer.auto_scale_workers`.

        Raises:
            ConfigError: the model cannot be built from ``cfg``, or the data cannot be used.
        """
        # DefaultTrainer's constructor would put a model on the CPU into DistributedDataParallel
        # with a list of GPUs, which that refuses; so the same parts are put together here.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger(distributed_rank=comm.get_rank())
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.seed, self.seed_is_chosen = seed_or_chance(cfg.SEED), cfg.SEED >= 0
        cfg = with_seed(cfg, self.seed)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        try:
            data_loader = self.build_train_loader(cfg)
            if cfg.MODEL.LOAD_PROPOSALS:  # Now, and not when the training is at its end.
                for name in cfg.DATASETS.TEST:
                    records_to_score(cfg, name)
        except DataError as error:
            raise ConfigError(error) from error
        self._trainer = build_step(cfg, distribute(model), data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = GACheckpointer(
            self._trainer.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.initial_weights = cfg.MODEL.WEIGHTS
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """As :meth:`DefaultTrainer.build_hooks`, with :class:`GuidedAnchorWatch`."""
        hooks = super().build_hooks()
        # Before the writers, which come last.
        hooks[1:1] = watch_guided_anchors(self._trainer.model, self.cfg.VIS_PERIOD)
        return hooks

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """As :meth:`DefaultTrainer.build_train_loader`, with data that can be resumed.

        Override it with another ``mapper`` for :func:`~ga_detectron2.data.build_train_loader`.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[Any]:
        """As :meth:`DefaultTrainer.build_test_loader`, with errors that name the image.

        Override it with another ``mapper`` for :func:`~ga_detectron2.data.build_test_loader`.
        """
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """As :meth:`DefaultTrainer.build_model`, with one kind of error for a bad config."""
        try:
            return super().build_model(cfg)
        except _WRONG_VALUES as error:
            words = str(error.args[0]) if error.args else ""
            if isinstance(error, AssertionError | KeyError | ValueError) and " " in words:
                raise ConfigError(words) from error
            # torch's and Python's, of values that nobody checks; a KeyError is the value alone
            what = f"{type(error).__name__}: {words}".rstrip(": ")
            raise ConfigError(f"the model cannot be built ({what})") from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """As :meth:`DefaultTrainer.build_optimizer`, with clipping over the whole model."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """The evaluator that belongs to a data set and the configured model.

        Args:
            cfg: its ``MODEL.META_ARCHITECTURE`` tells whether boxes or proposals are scored.
            dataset_name: registered; its metadata's ``evaluator_type`` chooses the evaluator.
                A data set without one is taken for COCO, into whose format detectron2 converts it.
            output_folder: for what the evaluator writes; ``OUTPUT_DIR``/inference without.

        Raises:
            ConfigError: there is no evaluator for this data set.
        """
        output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if kind in ("coco", "coco_panoptic_seg"):
            coco = COCOEvaluator(
                dataset_name,
                output_dir=output_folder,
                kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            )
            if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
                return coco
            limits = cfg.TEST.PROPOSAL_RECALL_LIMITS
            return DatasetEvaluators([coco, ProposalRecallEvaluator(dataset_name, limits)])
        if kind == "lvis":
            return LVISEvaluator(dataset_name, output_dir=output_folder)
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        raise ConfigError(
            f"DATASETS.TEST: '{dataset_name}' has the evaluator type '{kind}'; boxes can be "
            "scored with coco, coco_panoptic_seg, lvis and pascal_voc"
        )

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: torch.nn.Module) -> OrderedDict[str, Any]:
        """Score a ``GeneralizedRCNN`` with detectron2's test-time augmentation (``TEST.AUG``).

        Returns:
            what :meth:`test` returns, with ``_TTA`` behind the name of every task.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{task}_TTA", scores) for task, scores in results.items())


def with_seed(cfg: CfgNode, seed: int) -> CfgNode:
    """A frozen copy of ``cfg`` with another ``SEED``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def distribute(
    model: torch.nn.Module, broadcast_buffers: bool = False, **keys: Any
) -> torch.nn.Module:
    """``model`` in DistributedDataParallel if there are several processes, on whichever device.

    Args:
        model: on its device.
        broadcast_buffers, keys: of detectron2's ``create_ddp_model``.
    """
    keys["broadcast_buffers"] = broadcast_buffers
    if next(model.parameters()).device.type != "cpu":
        return create_ddp_model(model, **keys)
    model = create_ddp_model(model, **{**keys, "device_ids": None})
    # Two numbers have only one sum; a model takes one such hook.
    if comm.get_world_size() > 2 and not keys.get("fp16_compression"):
        add_in_order_of_rank(cast(DistributedDataParallel, model))
    return model
