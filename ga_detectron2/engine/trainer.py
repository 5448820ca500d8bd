"""detectron2's trainer for models with guided anchors, and any others."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.data import build_test_loader, build_train_loader
from ga_detectron2.modeling import GuidedAnchoring

from . import evaluators
from .build_errors import config_errors_of
from .gradients import add_in_order_of_rank
from .guided_anchor_hook import GuidedAnchorHook
from .resumable import ResumableTraining, resolve_seed
from .train_loop import build_step

__all__ = ["GATrainer"]


class GATrainer(ResumableTraining, DefaultTrainer):
    """A :class:`DefaultTrainer` with

    - exact resuming of interrupted runs (:class:`ResumableTraining`),
    - :class:`GACheckpointer`, which also reads the files of MMDetection and torchvision,
    - an error that names the iteration and the loss when a loss is not finite,
    - a check of the evaluators' ground truth before training starts,
    - average recall of proposals for a ``ProposalNetwork``,
    - statistics and pictures of guided anchors (:class:`GuidedAnchorHook`),
    - several processes on CPUs.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: configuration; :meth:`DefaultTrainer.auto_scale_workers` adapts it to the number
                of processes if ``SOLVER.REFERENCE_WORLD_SIZE`` is set.

        Raises:
            ConfigError: a part cannot be built from ``cfg``.
            DataError: the data cannot be used.
        """
        # DefaultTrainer's constructor passes a list of GPUs to DistributedDataParallel, which
        # refuses it for a model on the CPU.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger(distributed_rank=comm.get_rank())
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.seed, self.seed_is_chosen = resolve_seed(cfg.SEED), cfg.SEED >= 0
        cfg = with_seed(cfg, self.seed)

        model = self.build_model(cfg)
        with config_errors_of("the optimizer"):
            optimizer = self.build_optimizer(cfg, model)
        with config_errors_of("the learning rate schedule"):
            self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        with config_errors_of("DATASETS.TRAIN: the data loader"):
            data_loader = self.build_train_loader(cfg)
        self.check_test_sets(cfg)
        if cfg.TEST.AUG.ENABLED:
            with config_errors_of("TEST.AUG.ENABLED: test-time augmentation"):
                GeneralizedRCNNWithTTA(cfg, model)
        self._trainer = build_step(cfg, distribute(model), data_loader, optimizer)
        self.checkpointer = GACheckpointer(
            self._trainer.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.initial_weights = cfg.MODEL.WEIGHTS
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Hooks of :meth:`DefaultTrainer.build_hooks`, and :class:`GuidedAnchorHook`."""
        hooks = super().build_hooks()
        model = self._trainer.model
        if any(isinstance(module, GuidedAnchoring) for module in model.modules()):
            # Before the writers, which come last.
            hooks.insert(1, GuidedAnchorHook(model, vis_period=self.cfg.VIS_PERIOD))
        return hooks

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """Build a loader that can start from any iteration.

        For another ``mapper``, override this with :func:`~ga_detectron2.data.build_train_loader`.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[Any]:
        """Build a loader whose errors name the image.

        For another ``mapper``, override this with :func:`~ga_detectron2.data.build_test_loader`.
        """
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Build a model as :meth:`DefaultTrainer.build_model` does.

        Raises:
            ConfigError: in place of any other exception.
        """
        with config_errors_of("the model"):
            return super().build_model(cfg)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Build the evaluator of a dataset, see :func:`.evaluators.build_evaluator`.

        Args:
            output_folder: by default ``inference`` in ``OUTPUT_DIR``, with a folder for each
                dataset if there are several.
        """
        output_folder = output_folder or evaluators.results_folder(cfg, dataset_name)
        return evaluators.build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def check_test_sets(cls, cfg: CfgNode) -> None:
        """Check that ``DATASETS.TEST`` can be loaded and scored.

        Raises:
            ConfigError, DataError: a dataset cannot be loaded or scored.
        """
        for name in cfg.DATASETS.TEST:
            evaluators.check_records(name)
            cls.build_test_loader(cfg, name)
            with config_errors_of(f"DATASETS.TEST: the evaluator of '{name}'"):
                evaluator = cls.build_evaluator(cfg, name)
            evaluators.check_evaluator(cfg, name, evaluator)

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: torch.nn.Module) -> OrderedDict[str, Any]:
        """Score a ``GeneralizedRCNN`` with detectron2's test-time augmentation (``TEST.AUG``).

        Returns:
            results of :meth:`test`, with ``_TTA`` after the name of every task.
        """
        parts = [
            cls.build_evaluator(cfg, name, evaluators.results_folder(cfg, name, "inference_TTA"))
            for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), parts)
        return OrderedDict((f"{task}_TTA", scores) for task, scores in results.items())


def with_seed(cfg: CfgNode, seed: int) -> CfgNode:
    """A frozen copy of ``cfg`` with another ``SEED``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def distribute(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in DistributedDataParallel if there are several processes, on any device."""
    if next(model.parameters()).device.type != "cpu":
        return create_ddp_model(model, broadcast_buffers=False)
    model = create_ddp_model(model, broadcast_buffers=False, device_ids=None)
    if comm.get_world_size() > 2:  # The order of two summands does not matter.
        add_in_order_of_rank(cast(DistributedDataParallel, model))
    return model
