"""The trainer that a Python configuration (detectron2's LazyConfig) describes."""

import weakref
from collections import OrderedDict
from typing import Any

import torch
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig

from ga_detectron2.checkpoint import GACheckpointer

from .lazy_config import build_lazy, build_lazy_train_loader
from .optimizer import clip_full_model
from .resumable import ResumableTraining, seed_or_chance
from .train_loop import GAAMPTrainer, GASimpleTrainer
from .trainer import distribute
from .watch import watch_guided_anchors

__all__ = ["LazyAMPTrainer", "LazyTrainer", "build_lazy_trainer", "evaluate_lazy"]


class LazyTrainer(ResumableTraining, GASimpleTrainer):
    """:class:`SimpleTrainer` of a training that can be resumed; made by :func:`build_lazy_trainer`.

    Its checkpoints are those of detectron2's own ``tools/lazyconfig_train_net.py``, with a seed.
    """


class LazyAMPTrainer(ResumableTraining, GAAMPTrainer):
    """:class:`LazyTrainer` in mixed precision."""


def build_lazy_trainer(cfg: DictConfig) -> LazyTrainer | LazyAMPTrainer:
    """A trainer with model, data, optimizer, schedule and hooks of ``cfg``.

    After ``resume_or_load``, call ``train(trainer.start_iter, trainer.max_iter)``.

    Args:
        cfg: of :func:`.load_lazy_config`; ``optimizer.params.model`` is set.

    Raises:
        ConfigError: a part cannot be built.
    """
    model = build_lazy(cfg, "model").to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = build_lazy(cfg, "optimizer")
    clip = cfg.train.get("clip_gradients")
    if clip is not None and clip.max_norm is not None:
        clip_full_model(optimizer, clip.max_norm, clip.get("norm_type", 2.0))
    chosen = cfg.train.get("seed", -1)
    seed = seed_or_chance(chosen)
    data_loader = build_lazy_train_loader(cfg, seed)

    kind = LazyAMPTrainer if cfg.train.amp.enabled else LazyTrainer
    trainer = kind(distribute(model, **cfg.train.ddp), data_loader, optimizer)
    trainer.seed, trainer.seed_is_chosen = seed, chosen >= 0
    trainer.initial_weights = cfg.train.init_checkpoint
    trainer.max_iter = cfg.train.max_iter
    trainer.checkpointer = GACheckpointer(
        trainer.model, cfg.train.output_dir, trainer=weakref.proxy(trainer)
    )
    trainer.register_hooks(_hooks(cfg, trainer))
    return trainer


def evaluate_lazy(cfg: DictConfig, model: torch.nn.Module) -> OrderedDict[str, Any]:
    """Score ``model`` on ``dataloader.test`` with ``dataloader.evaluator``, if there is one."""
    if "evaluator" not in cfg.dataloader:
        return OrderedDict()
    loader = build_lazy(cfg, "dataloader.test")
    results = inference_on_dataset(model, loader, build_lazy(cfg, "dataloader.evaluator"))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _hooks(cfg: DictConfig, trainer: LazyTrainer | LazyAMPTrainer) -> list[HookBase]:
    is_main = comm.is_main_process()
    found = [
        hooks.IterationTimer(),
        *watch_guided_anchors(trainer.model, cfg.train.get("vis_period", 0)),
        hooks.LRScheduler(scheduler=build_lazy(cfg, "lr_multiplier")),
    ]
    if is_main:
        found.append(hooks.PeriodicCheckpointer(trainer.checkpointer, **cfg.train.checkpointer))
    found.append(hooks.EvalHook(cfg.train.eval_period, lambda: evaluate_lazy(cfg, trainer.model)))
    if is_main:
        # The last, so that it also writes what the others have put into the storage.
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        found.append(hooks.PeriodicWriter(writers, cfg.train.log_period))
    return found
