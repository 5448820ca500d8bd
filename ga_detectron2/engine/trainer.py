"""detectron2's trainer with what guided anchoring needs of it."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
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
from torch.utils.data import DataLoader

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.data import TrainLoader, build_train_loader
from ga_detectron2.data.images import NamingDatasetMapper
from ga_detectron2.data.seeds import derive_seed, seed_all
from ga_detectron2.evaluation import ProposalRecallEvaluator
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .errors import ConfigError
from .gradients import add_in_order_of_rank
from .optimizer import build_optimizer
from .train_loop import build_step
from .watch import GuidedAnchorWatch

__all__ = ["GATrainer"]


class GATrainer(DefaultTrainer):
    """A :class:`DefaultTrainer` with

    - gradients clipped over the whole model (``SOLVER.CLIP_GRADIENTS.CLIP_TYPE: full_model``),
    - :class:`GACheckpointer`, which takes MMDetection's and torchvision's files,
    - a run that ends, with its iteration and the loss's name, when a loss is not finite,
    - COCO's scores for boxes, and average recall for the proposals of a ``ProposalNetwork``,
    - several processes without a GPU,
    - what guided anchors do, as numbers and pictures (:class:`GuidedAnchorWatch`),
    - a training that is cut off and resumed like one that is not: what chance does in an iteration
      follows from the seed, the iteration and the process, and the checkpoint has the seed.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: scaled to the number of processes if ``SOLVER.REFERENCE_WORLD_SIZE`` is set, see
                :meth:`DefaultTrainer.auto_scale_workers`.

        Raises:
            ConfigError: the model cannot be built from ``cfg``.
        """
        # DefaultTrainer's constructor would put a model on the CPU into DistributedDataParallel
        # with a list of GPUs, which that refuses; so the same parts are put together here.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger(distributed_rank=comm.get_rank())
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self._seed_is_chosen = cfg.SEED >= 0
        if not self._seed_is_chosen:
            cfg = with_seed(cfg, comm.shared_random_seed())

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self._trainer = build_step(cfg, distribute(model), data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = GACheckpointer(
            self._trainer.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As :meth:`DefaultTrainer.resume_or_load`; the main process's checkpoint counts."""
        super().resume_or_load(resume)
        self.start_iter = comm.all_gather(self.start_iter)[0]

    def train(self) -> OrderedDict[str, Any] | None:
        """As :meth:`DefaultTrainer.train`, with the data of the iteration that it starts from."""
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.seek(self.cfg.SEED, self.start_iter)
        elif self.start_iter > 0:
            logging.getLogger(__name__).warning(
                "The training data start anew: a resumed training is not that which was cut off"
            )
        if self.start_iter == self.max_iter:
            # Cut off after the last iteration's checkpoint, but before the final one.
            self.checkpointer.save("model_final", iteration=self.iter)
        return super().train()

    def run_step(self) -> None:
        """As :meth:`DefaultTrainer.run_step`, with random numbers of this iteration."""
        seed_all(derive_seed(self.cfg.SEED, self.iter, comm.get_rank()))
        super().run_step()

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`DefaultTrainer.state_dict`, with the ``seed`` that chance follows from."""
        return {**super().state_dict(), "seed": self.cfg.SEED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the seed of ``state_dict`` if ``SEED`` does not ask for another one."""
        super().load_state_dict(state_dict)
        if not self._seed_is_chosen:
            self.cfg = with_seed(self.cfg, state_dict.get("seed", self.cfg.SEED))

    def build_hooks(self) -> list[HookBase]:
        """As :meth:`DefaultTrainer.build_hooks`, with :class:`GuidedAnchorWatch`."""
        hooks = super().build_hooks()
        model = self._trainer.model
        if any(isinstance(m, GuidedAnchoring) for m in model.modules()):
            # Before the writers, which come last.
            hooks.insert(1, GuidedAnchorWatch(model, vis_period=self.cfg.VIS_PERIOD))
        return hooks

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """As :meth:`DefaultTrainer.build_train_loader`, with data that can be resumed.

        Override it with another ``mapper`` for :func:`~ga_detectron2.data.build_train_loader`.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[Any]:
        """As :meth:`DefaultTrainer.build_test_loader`, with errors that name the image."""
        return build_detection_test_loader(
            cfg, dataset_name, mapper=NamingDatasetMapper(cfg, False)
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """As :meth:`DefaultTrainer.build_model`, with one kind of error for a bad config."""
        try:
            return super().build_model(cfg)
        except (AssertionError, KeyError, ValueError) as error:
            raise ConfigError(error) from error

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


def distribute(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in DistributedDataParallel if there are several processes, on whichever device."""
    if next(model.parameters()).device.type == "cpu":
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=None)
        if comm.get_world_size() > 2:  # Two numbers have only one sum.
            add_in_order_of_rank(model)
        return model
    return create_ddp_model(model, broadcast_buffers=False)
