"""Python configurations (detectron2's LazyConfig), with mistakes told before work is lost."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ga_detectron2.data import make_train_loader
from ga_detectron2.data.classes import ModelClasses, check_dataset_classes
from ga_detectron2.data.records import get_records
from ga_detectron2.data.seeds import seeded
from ga_detectron2.errors import ConfigError
from ga_detectron2.modeling import GuidedAnchoring

from .datasets import check_dataset, register_arguments
from .device import available_device, check_device

__all__ = [
    "build_lazy",
    "build_lazy_train_loader",
    "check_lazy_run",
    "load_lazy_config",
    "use_available_device_lazy",
]

_ABSENT = object()
_NEEDED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
_WRONG_ARGUMENTS = (
    AssertionError,
    AttributeError,
    KeyError,
    OmegaConfBaseException,
    RuntimeError,
    TypeError,
    ValueError,
)


def load_lazy_config(
    config_file: str, overrides: Sequence[str] = (), datasets: Sequence[str] = ()
) -> DictConfig:
    """Read a Python configuration.

    Args:
        config_file: a Python file; it is executed.
        overrides: each ``KEY=VALUE``, with a key that is there or that the object to be built takes
            as an argument; ``+KEY=VALUE`` adds any other.
        datasets: to be registered first, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        ConfigError: any of these is wrong.
    """
    if not config_file:
        raise ConfigError(
            "--config-file is missing; name one, such as configs/lazy/ga_faster_R_50.py"
        )
    if not config_file.endswith(".py"):
        raise ConfigError(
            f"{config_file}: a Python config is needed, such as configs/lazy/ga_faster_R_50.py; "
            "YAML files are for tools/train_net.py"
        )
    register_arguments(datasets)
    try:
        cfg = LazyConfig.load(config_file)
    except Exception as error:  # it is a program, which may fail in any way
        raise ConfigError(f"{config_file}: {type(error).__name__}: {error}") from error
    missing = [key for key in _NEEDED if key not in cfg]
    if missing:
        raise ConfigError(
            f"{config_file} defines no '{missing[0]}'; a config needs {', '.join(_NEEDED)}, as "
            "configs/lazy/ga_faster_R_50.py has them"
        )
    return _override(cfg, overrides)


def use_available_device_lazy(cfg: DictConfig) -> str | None:
    """Set ``train.device`` to "cpu" where CUDA is asked for and absent.

    Returns:
        A note to log if it was changed.
    """
    cfg.train.device, note = available_device("train.device", cfg.train.device)
    return note


def check_lazy_run(cfg: DictConfig, num_processes: int = 1, eval_only: bool = False) -> None:
    """What :func:`check_run` is for YAML: refuse what would fail only later, with its key.

    Args:
        cfg: complete.
        num_processes: on all machines.
        eval_only: whether nothing is trained.

    Raises:
        ConfigError: with the key, its value, and what would be right.
    """
    classes = _classes_of_model(cfg)
    for split in ("test",) if eval_only else ("train", "test"):
        key = f"dataloader.{split}.dataset.names"
        for name in _dataset_names(cfg, key):
            check_dataset(key, name)
            if classes is not None:
                _check_classes(name, classes)
    amp = cfg.train.amp.enabled and not eval_only
    check_device("train.device", cfg.train.device, num_processes, "train.amp.enabled", amp)
    if eval_only:
        return
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    if batch is not None and (batch < 1 or batch % num_processes):
        raise ConfigError(
            f"dataloader.train.total_batch_size {batch} must be a multiple of the {num_processes} "
            "processes"
        )
    norm = OmegaConf.select(cfg, "train.clip_gradients.max_norm")
    if norm is not None and not norm > 0:
        raise ConfigError(
            f"train.clip_gradients.max_norm {norm} must be above 0, or null for no clipping"
        )


def build_lazy(cfg: DictConfig, key: str) -> Any:
    """What ``cfg`` describes under ``key``; a model is checked too.

    Raises:
        ConfigError: its arguments are wrong.
    """
    with _errors_of(key):
        built = instantiate(_without_unpickling(OmegaConf.select(cfg, key)))
    if key == "model":
        _check_sizes(built)
        _check_strides(built)
    return built


def build_lazy_train_loader(cfg: DictConfig, seed: int) -> Iterable[Any]:
    """What ``dataloader.train`` describes, as a stream that any iteration can start from.

    Args:
        cfg: complete.
        seed: what chance follows from; the same in all processes.

    Returns:
        in the place of detectron2's ``build_detection_train_loader`` what
        :func:`~ga_detectron2.data.make_train_loader` returns; any other loader as it is.

    Raises:
        ConfigError: its arguments are wrong, or an object is of a class that the model lacks.
    """
    key = "dataloader.train"
    node = OmegaConf.select(cfg, key)
    if _target(node) is not build_detection_train_loader:
        return build_lazy(cfg, key)

    def make_sampler(records: Sequence[Any]) -> Iterable[int]:
        if node.get("sampler") is None:  # detectron2's default
            return TrainingSampler(len(records))
        return build_lazy(cfg, f"{key}.sampler")

    _without_unpickling(node)
    with _errors_of(key):
        with seeded(seed):
            # Relative interpolations are resolved from where the node is in the config.
            parts = {
                name: instantiate(node[name])
                for name in node
                if name not in ("_target_", "sampler")
            }
        if isinstance(parts["dataset"], list) or node.get("sampler") is not None:
            with seeded(seed):
                parts["sampler"] = make_sampler(parts["dataset"])
        return make_train_loader(parts, seed, make_sampler, _classes_of_model(cfg))


def _without_unpickling(node: Any) -> Any:
    """Let a loader's ``dataset`` read files of proposals without executing them."""
    dataset = node.get("dataset") if isinstance(node, DictConfig) else None
    if isinstance(dataset, DictConfig) and _target(dataset) is get_detection_dataset_dicts:
        dataset._target_ = f"{get_records.__module__}.{get_records.__name__}"
    return node


def _target(node: DictConfig) -> Any:
    """What a node of a config is to call."""
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    try:
        yield
    except _WRONG_ARGUMENTS as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ConfigError(f"{key}: {reason or type(error).__name__}") from error


# ---------------------------------------------------------------------------------------- overrides


def _override(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    before = {}
    for override in overrides:
        key, equal, _ = override.partition("=")
        if not equal or not key or key.startswith("~") or key != key.strip():
            raise ConfigError(
                f"override '{override}' must read KEY=VALUE, such as optimizer.lr=0.01"
            )
        if key.startswith("+"):
            continue
        before[key] = _select(cfg, key)
        if before[key] is _ABSENT and not _is_argument(cfg, key):
            raise ConfigError(
                f"override '{override}': there is no '{key}'{_hint(cfg, key)}; +{override} adds it"
            )
    try:
        cfg = LazyConfig.apply_overrides(cfg, list(overrides))
    except Exception as error:  # hydra's parser has errors of many kinds
        what = ", ".join(f"'{override}'" for override in overrides)
        raise ConfigError(f"overrides {what}: {error}") from error
    for key, old in before.items():
        _check_type(key, old, _select(cfg, key))
    return cfg


def _select(cfg: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(cfg, key, default=_ABSENT)
    except OmegaConfBaseException:
        return _ABSENT


def _is_argument(cfg: DictConfig, key: str) -> bool:
    """Whether the object above ``key`` takes it as an argument."""
    parent, _, name = key.rpartition(".")
    node = _select(cfg, parent) if parent else _ABSENT
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    parameters = inspect.signature(_target(node)).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_type(key: str, old: Any, new: Any) -> None:
    if isinstance(old, bool):
        right, kind = isinstance(new, bool), "true or false"
    elif isinstance(old, int | float):
        right, kind = new is None or isinstance(new, int | float), "a number"
    elif isinstance(old, ListConfig):
        right, kind = isinstance(new, ListConfig), "a list, such as [1,2]"
    elif isinstance(old, DictConfig):
        right, kind = new is None or isinstance(new, DictConfig), "a section, with keys of its own"
    else:
        return
    if not right:
        raise ConfigError(f"{key}={new} should be {kind}, as {old} is")


def _hint(cfg: DictConfig, key: str) -> str:
    close = difflib.get_close_matches(key, list(_keys(cfg)), n=1, cutoff=0.8)
    return f", did you mean '{close[0]}'?" if close else ""


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, node):
        yield f"{prefix}{name}"
        value = node._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from _keys(value, f"{prefix}{name}.")


# ------------------------------------------------------------------------------------------- checks


def _dataset_names(cfg: DictConfig, key: str) -> list[str]:
    names = _select(cfg, key)
    if names is _ABSENT:  # a loader of another kind
        return []
    if isinstance(names, str):
        return [names]
    if key.startswith("dataloader.test"):
        raise ConfigError(f"{key} {list(names)} must be one name: an evaluator scores one data set")
    return list(names)


def _classes_of_model(cfg: DictConfig) -> ModelClasses | None:
    for key in ("model.num_classes", "model.roi_heads.num_classes"):
        number = _select(cfg, key)
        if isinstance(number, int):
            return ModelClasses(number, key)
    return None


def _check_classes(dataset_name: str, classes: ModelClasses) -> None:
    try:
        check_dataset_classes(dataset_name, classes)
    except ValueError as error:
        raise ConfigError(error) from error


def _check_sizes(model: nn.Module) -> None:
    """Refuse layers of no channels, which torch makes, and fails at when they are used."""
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, nn.UninitializedParameter) and parameter.numel() == 0:
            raise ConfigError(
                f"model: its {name} has the shape {tuple(parameter.shape)}, which holds nothing: "
                "numbers of channels and classes must be at least 1"
            )


def _check_strides(model: nn.Module) -> None:
    """Guided anchors need the strides of the levels they are for; a config states both."""
    backbone = getattr(model, "backbone", None)
    for name, part in model.named_modules():
        anchoring = getattr(part, "guided_anchoring", None)
        levels = getattr(part, "in_features", None) or getattr(part, "head_in_features", None)
        if not isinstance(anchoring, GuidedAnchoring) or not levels or backbone is None:
            continue
        key = ".".join(filter(None, ["model", name, "guided_anchoring.strides"]))
        shapes = backbone.output_shape()
        unknown = [level for level in levels if level not in shapes]
        if unknown:
            raise ConfigError(
                f"model: the backbone has no level {unknown[0]!r}, only {', '.join(shapes)}"
            )
        strides = [shapes[level].stride for level in levels]
        if list(anchoring.strides) != strides:
            raise ConfigError(
                f"{key} {list(anchoring.strides)} must be those of the levels {list(levels)}, "
                f"{strides}"
            )
