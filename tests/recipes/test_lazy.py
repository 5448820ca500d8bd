"""Lazy configs describe the same models and runs as the YAML ones."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from omegaconf import DictConfig, ListConfig

from ga_detectron2.engine import load_config
from tests.runs import CONFIGS, GA_LOSSES, losses, metrics
from tests.scripts import load_script

NAMES = ["ga_rpn_R_50", "ga_faster_R_50", "ga_retinanet_R_50"]
BOX_LOSSES = {"loss_cls", "loss_box_reg"}
LOSSES = {
    "ga_faster_R_50": GA_LOSSES | BOX_LOSSES,
    "ga_retinanet_R_50": {"loss_anchor_loc", "loss_anchor_shape"} | BOX_LOSSES,
}


def load(name: str, *overrides: str) -> DictConfig:
    cfg = LazyConfig.load(str(CONFIGS / "lazy" / f"{name}.py"))
    return LazyConfig.apply_overrides(cfg, list(overrides))


def load_yaml(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *overrides])


def settings(value: object) -> object:
    """What an object was configured with; layers of its own are left to themselves."""
    if isinstance(value, ListConfig | tuple | list):
        return [settings(v) for v in value if not isinstance(v, torch.nn.Module)]
    if isinstance(value, dict):  # of losses' weights, where one that is missing is 1
        return {k: v for k, v in value.items() if not (str(k).startswith("loss_") and v == 1.0)}
    if isinstance(value, torch.nn.Module) or type(value).__module__.startswith("detectron2."):
        attributes = vars(value).items()
        return {
            k: settings(v)
            for k, v in attributes
            if not k.startswith("_") and not isinstance(v, torch.nn.Module)
        }
    return value


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_are_those_of_the_yaml(name: str) -> None:
    with torch.device("meta"):
        expected = build_model(load_yaml(name, "MODEL.DEVICE", "meta"))
        found = instantiate(load(name).model)
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (expected, found)]
    assert shapes[0] == shapes[1]
    frozen = [
        {n for n, p in m.named_parameters() if not p.requires_grad} for m in (expected, found)
    ]
    assert frozen[0] == frozen[1]
    assert any("res2" in n for n in frozen[0])
    for (path, one), (other_path, other) in zip(
        expected.named_modules(), found.named_modules(), strict=True
    ):
        assert path == other_path
        assert type(one) is type(other)
        assert settings(one) == settings(other), path


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_schedule_and_data_are_those_of_the_yaml(name: str) -> None:
    cfg, yaml = load(name), load_yaml(name)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8))
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert cfg.optimizer.lr == yaml.SOLVER.BASE_LR
    assert optimizer.defaults["momentum"] == yaml.SOLVER.MOMENTUM
    decays = {g["weight_decay"] for g in optimizer.param_groups}
    assert decays == {yaml.SOLVER.WEIGHT_DECAY, yaml.SOLVER.WEIGHT_DECAY_NORM}
    multiplier = instantiate(cfg.lr_multiplier)
    expected = build_lr_scheduler(yaml, torch.optim.SGD(model.parameters(), lr=1.0))
    for i in (0, 1, 250, 499, 500, 1000, 59999, 60001, 79999, 80001, 89999):
        assert multiplier(i / 90000) == pytest.approx(expected._multiplier(i / 90000))
    assert cfg.train.max_iter == yaml.SOLVER.MAX_ITER
    assert cfg.optimizer.max_norm == yaml.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert cfg.dataloader.train.total_batch_size == yaml.SOLVER.IMS_PER_BATCH
    assert cfg.dataloader.train.dataset.names == yaml.DATASETS.TRAIN[0]
    for split in ("train", "test"):
        mapper = instantiate(cfg.dataloader[split].mapper)
        as_yaml = DatasetMapper(yaml, split == "train")
        assert mapper.image_format == as_yaml.image_format
        assert mapper.use_instance_mask is as_yaml.use_instance_mask
        for one, other in zip(mapper.augmentations.augs, as_yaml.augmentations.augs, strict=True):
            assert type(one) is type(other)
        sizes = [tuple(m.augmentations.augs[0].short_edge_length) for m in (mapper, as_yaml)]
        assert set(sizes[0]) == set(sizes[1])
        assert {m.augmentations.augs[0].max_size for m in (mapper, as_yaml)} == {1333}


# A user's config starts from another one.
DERIVED = """
from detectron2.config import LazyConfig
from tests.recipes.runs import narrow_lazy

cfg = narrow_lazy(LazyConfig.load('{file}'), {name!r})
model, dataloader, train = cfg.model, cfg.dataloader, cfg.train
optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier
del cfg
"""


@pytest.fixture
def lazy_arguments(tiny_dataset: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the arguments of lazyconfig_train_net.py, for two iterations."""

    def arguments(name: str, *options: str, **overrides: object) -> list[str]:
        keys = {
            "train": {"init_checkpoint": "''", "device": "cpu", "max_iter": 2, "log_period": 1,
                      "output_dir": tmp_path / "output"},
            "dataloader.train": {"dataset.names": "ga_tiny", "total_batch_size": 2,
                                 "num_workers": 0,
                                 "mapper.augmentations.0.short_edge_length": [64]},
            "dataloader.test": {"dataset.names": "ga_tiny", "num_workers": 0,
                                "mapper.augmentations.0.short_edge_length": 64},
            "optimizer": {"lr": 0.0001},
        }  # fmt: skip
        if "rpn" not in name:
            keys["model.roi_heads" if "faster" in name else "model"] = {"num_classes": 2}
        keys["train"].update(overrides)
        file = tmp_path / f"{name}.py"
        file.write_text(DERIVED.format(file=CONFIGS / "lazy" / f"{name}.py", name=name))
        return [
            *("--config-file", str(file), "--dataset", tiny_dataset, *options),
            *(f"{node}.{key}={v}" for node, values in keys.items() for key, v in values.items()),
        ]

    return arguments


@pytest.fixture(scope="module")
def script():
    return load_script("lazyconfig_train_net")


@pytest.mark.parametrize("name", LOSSES)
def test_two_iterations(script, lazy_arguments: Callable, tmp_path: Path, name: str) -> None:
    output = tmp_path / "output"
    script.main(lazy_arguments(name))
    found = losses(output)
    assert set(found) == LOSSES[name]
    assert all(math.isfinite(v) for v in found.values())
    assert "bbox/AP" in metrics(output)
    assert (output / "config.yaml").is_file()


def test_resuming_and_scoring(
    script, lazy_arguments: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output"
    script.main(lazy_arguments("ga_rpn_R_50"))
    assert set(losses(output)) == GA_LOSSES
    assert {"box_proposals/AR@100", "proposal_recall/AR@300"} <= set(metrics(output))
    capfd.readouterr()
    script.main(lazy_arguments("ga_rpn_R_50", "--resume", max_iter=3))
    assert "Starting training from iteration 2" in capfd.readouterr().out
    weights = output / "model_final.pth"
    script.main(lazy_arguments("ga_rpn_R_50", "--eval-only", init_checkpoint=weights))
    printed = capfd.readouterr().out
    assert "Starting training" not in printed
    assert "copypaste: Task: proposal_recall" in printed


def test_optimizer_clips_the_whole_model() -> None:
    cfg = load("ga_rpn_R_50", "optimizer.lr=1.0", "optimizer.momentum=0", "optimizer.max_norm=0.25")
    cfg.optimizer.weight_decay = 0.0
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    cfg.optimizer.params.model = model
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = instantiate(cfg.optimizer)
    model(torch.ones(2, 4)).square().sum().mul(100).backward()
    optimizer.step()
    moved = [(p - q).flatten() for p, q in zip(model.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.25, rel=1e-4)


def test_missing_weights_are_reported_in_one_line(script, lazy_arguments: Callable) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(lazy_arguments("ga_rpn_R_50", init_checkpoint="absent.pth"))
    assert str(stop.value.code).startswith("lazyconfig_train_net.py: error: absent.pth: ")
