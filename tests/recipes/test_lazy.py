"""Lazy configs: the same models and runs as the YAML ones, and mistakes in them."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode, LazyCall, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, ListConfig

from ga_detectron2.data import register_datasets
from ga_detectron2.engine import lazy_trainer, load_config
from ga_detectron2.engine.lazy_config import (
    build_lazy,
    build_lazy_train_loader,
    check_lazy_run,
    load_lazy_config,
)
from ga_detectron2.errors import ConfigError
from tests.engine.test_resume import CutOffError, assert_same
from tests.recipes.runs import (
    CONFIGS,
    GA_LOSSES,
    losses,
    metrics,
    narrow_lazy,
    narrow_overrides,
)
from tests.scripts import load_script

NAMES = ["ga_rpn_R_50", "ga_faster_R_50", "ga_retinanet_R_50"]
EXPECTED = {
    "ga_rpn_R_50": (GA_LOSSES, {"box_proposals/AR@100", "proposal_recall/AR@300"}),
    "ga_faster_R_50": (GA_LOSSES | {"loss_cls", "loss_box_reg"}, {"bbox/AP"}),
    "ga_retinanet_R_50": (
        {"loss_anchor_loc", "loss_anchor_shape", "loss_cls", "loss_box_reg"},
        {"bbox/AP"},
    ),
}


def load(name: str, *overrides: str) -> DictConfig:
    return load_lazy_config(str(CONFIGS / "lazy" / f"{name}.py"), overrides)


def load_yaml(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *overrides])


def batch() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    images = []
    for h, w in ((64, 96), (96, 64)):
        gt = Instances((h, w))
        gt.gt_boxes = Boxes(torch.tensor([[5.0, 9.0, 5 + w / 2, 9 + h / 2], [30, 20, 50, 60]]))
        gt.gt_classes = torch.tensor([3, 79])
        image = torch.randint(256, (3, h, w), dtype=torch.uint8, generator=generator)
        images.append({"image": image, "height": h, "width": w, "instances": gt})
    return images


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
        found = build_lazy(load(name), "model")
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
def test_losses_and_outputs_are_those_of_the_yaml(name: str) -> None:
    torch.manual_seed(0)
    expected = build_model(load_yaml(name, *narrow_overrides()))
    if "retinanet" in name:
        torch.nn.init.zeros_(expected.head.cls_score.bias)  # scores above the threshold
    found = build_lazy(narrow_lazy(load(name), name), "model")
    found.load_state_dict(expected.state_dict())
    computed: list[list[dict]] = []
    for model in (expected, found):
        torch.manual_seed(1)  # of what is sampled
        with EventStorage(), torch.no_grad():
            losses_by_name = model(batch())
            model.eval()
            outputs = [next(iter(output.values())).get_fields() for output in model(batch())]
        computed.append([losses_by_name, *outputs])
    for one, other in zip(*computed, strict=True):
        assert set(one) == set(other)
        for key in one:
            a, b = (getattr(fields[key], "tensor", fields[key]) for fields in (one, other))
            assert torch.equal(a, b), key
    assert set(computed[0][0]) == EXPECTED[name][0]
    assert len(computed[0]) == 3
    assert all(len(v) > 0 for fields in computed[0][1:] for v in fields.values())


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
    assert cfg.train.clip_gradients.max_norm == yaml.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
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


# A config of one's own begins with another one.
DERIVED = """
from detectron2.config import LazyConfig
from tests.recipes.runs import narrow_lazy

cfg = narrow_lazy(LazyConfig.load('{file}'), {name!r})
model, dataloader, train = cfg.model, cfg.dataloader, cfg.train
optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier
del cfg
"""


@pytest.fixture
def lazy_arguments(shapes_with_parts: str, tmp_path: Path) -> Callable[..., list[str]]:
    def arguments(name: str, *options: str) -> list[str]:
        key = "model.roi_heads.num_classes" if "faster" in name else "model.num_classes"
        overrides = [
            "train.init_checkpoint=''",
            "train.device=cpu",
            "train.max_iter=2",
            "train.log_period=1",
            "train.seed=1",
            f"train.output_dir={tmp_path / 'output'}",
            "dataloader.train.dataset.names=ga_parts",
            "dataloader.test.dataset.names=ga_parts",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
            "dataloader.test.mapper.augmentations.0.short_edge_length=64",
            *([] if "rpn" in name else [f"{key}=1"]),
        ]
        file = tmp_path / f"{name}.py"
        file.write_text(DERIVED.format(file=CONFIGS / "lazy" / f"{name}.py", name=name))
        flags = [o for o in options if o.startswith("--")]
        rest = [o for o in options if not o.startswith("--")]
        return [
            "--config-file",
            str(file),
            "--dataset",
            shapes_with_parts,
            *flags,
            *overrides,
            *rest,
        ]

    return arguments


@pytest.fixture(scope="module")
def script():
    return load_script("lazyconfig_train_net")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if "rpn" in n else n for n in NAMES]
)
def test_two_iterations(
    script, lazy_arguments: Callable, tmp_path: Path, name: str, capfd: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output"
    script.main(lazy_arguments(name, "optimizer.lr=0.0001"))
    found = losses(output)
    expected_losses, expected_scores = EXPECTED[name]
    assert set(found) == expected_losses
    assert all(math.isfinite(v) for v in found.values())
    assert expected_scores <= set(metrics(output))
    assert metrics(output)["iteration"] in (1, 2)
    assert (output / "config.yaml").is_file()
    if name != "ga_rpn_R_50":
        return

    capfd.readouterr()
    script.main(lazy_arguments(name, "--resume", "train.max_iter=3", "optimizer.lr=0.0001"))
    printed = capfd.readouterr().out
    assert "Starting training from iteration 2" in printed
    assert f"Everything that was written is in {output}" in printed
    weights = f"train.init_checkpoint={output / 'model_final.pth'}"
    script.main(lazy_arguments(name, "--eval-only", weights))
    printed = capfd.readouterr().out
    assert "Starting training" not in printed
    assert "copypaste: Task: proposal_recall" in printed


RESUMED = (
    "train.checkpointer.period=2",
    "train.max_iter=7",
    "train.log_period=2",
    "optimizer.lr=0.01",
    "lr_multiplier.warmup_length=0.5",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[48,56,64]",
)


@pytest.fixture
def train(script, lazy_arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Train, or resume, until an iteration fails; what the last checkpoint holds."""

    def train(folder: str, name: str, *overrides: str, stop_in: int | None = None) -> dict:
        output = tmp_path / folder
        with monkeypatch.context() as patch:
            run_step = lazy_trainer.LazyTrainer.run_step

            def step(trainer: lazy_trainer.LazyTrainer) -> None:
                if trainer.iter == stop_in:
                    raise CutOffError
                run_step(trainer)

            patch.setattr(lazy_trainer.LazyTrainer, "run_step", step)
            keys = [*RESUMED, f"train.output_dir={output}", *overrides]
            try:
                script.main(lazy_arguments(name, "--resume", *keys))
            except CutOffError:
                assert stop_in is not None
        last = (output / "last_checkpoint").read_text()
        return torch.load(output / last, weights_only=True)

    return train


@pytest.mark.parametrize(
    "name", ["ga_rpn_R_50", pytest.param("ga_retinanet_R_50", marks=pytest.mark.slow)]
)
def test_a_training_that_was_cut_off_is_that_which_was_not(train: Callable, name: str) -> None:
    whole = train("whole", name)
    assert whole["iteration"] == 6
    cut = train("cut", name, stop_in=5)
    assert cut["iteration"] == 3
    assert_same(train("cut", name), whole)
    other = train("other", name, "train.seed=2")
    key = next(k for k in whole["model"] if k.endswith("fpn_output3.weight"))
    assert not torch.equal(other["model"][key], whole["model"][key])


@pytest.mark.slow
def test_without_a_seed_the_checkpoint_has_one(train: Callable) -> None:
    name, unknown = "ga_rpn_R_50", "train.seed=-1"
    seed = train("cut", name, unknown, stop_in=3)["trainer"]["seed"]
    assert train("cut", name, unknown)["trainer"]["seed"] == seed
    assert train("other", name, unknown, stop_in=3)["trainer"]["seed"] != seed


# As detectron2's own users have them: no seed, no clipping, its own mapper.
DETECTRON2S = """
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from tests.recipes.runs import narrow_backbone

model = model_zoo.get_config("common/models/retinanet.py").model
model.backbone = L(narrow_backbone)(config="ga_retinanet_R_50")
model.head.input_shape = [ShapeSpec(channels=32)] * 5
model.head.conv_dims = [32]
model.num_classes = {classes}
dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.use_instance_mask = False
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 2
for split in ("train", "test"):
    dataloader[split].dataset.names = "{data}"
    dataloader[split].mapper.augmentations[0].max_size = 64
optimizer = model_zoo.get_config("common/optim.py").SGD
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
train = model_zoo.get_config("common/train.py").train
train.update(max_iter=2, output_dir="{output}", device="cpu")
"""


def test_a_config_of_detectron2s_own_runs(
    script, shapes_with_parts: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    register_datasets([shapes_with_parts])
    file, output = tmp_path / "own.py", tmp_path / "own"
    file.write_text(DETECTRON2S.format(classes=1, data="ga_parts", output=output))
    script.main(["--config-file", str(file), "--resume"])
    assert set(losses(output)) == {"loss_cls", "loss_box_reg"}
    seed = torch.load(output / "model_final.pth", weights_only=True)["trainer"]["seed"]
    script.main(["--config-file", str(file), "--resume", "train.max_iter=3"])
    state = torch.load(output / "model_final.pth", weights_only=True)
    assert (state["iteration"], state["trainer"]["seed"]) == (2, seed)
    assert "start anew" not in capfd.readouterr().out


def test_a_class_too_many_is_told_before_training(script, tmp_path: Path) -> None:
    name = "ga_unnamed_classes"
    annotation = {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 4}
    record = {"file_name": "cat.png", "image_id": 0, "width": 9, "height": 9}
    DatasetCatalog.register(name, lambda: [{**record, "annotations": [annotation]}])
    file = tmp_path / "own.py"
    file.write_text(DETECTRON2S.format(classes=4, data=name, output=tmp_path / "own"))
    with pytest.raises(SystemExit) as stop:
        script.main(["--config-file", str(file)])
    DatasetCatalog.remove(name)
    assert str(stop.value.code) == (
        "lazyconfig_train_net.py: error: dataloader.train: cat.png: an object is of class 4 "
        "(category_id), but model.num_classes is 4: classes must be from 0 to 3"
    )


def test_a_loader_of_ones_own_is_taken_as_it_is() -> None:
    cfg = load("ga_rpn_R_50")
    cfg.dataloader.train = LazyCall(list)(iterable=[1, 2])
    with pytest.raises(ConfigError, match=r"dataloader\.train: list\(\) takes no keyword"):
        build_lazy_train_loader(cfg, 1)
    cfg.dataloader.train = LazyCall(SimpleNamespace)(a=1)
    assert build_lazy_train_loader(cfg, 1) == SimpleNamespace(a=1)


def test_gradients_are_clipped_over_the_whole_model(
    script, lazy_arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SGD's first step at rate 1, the weights move by the norm that is left."""
    start: dict[str, torch.Tensor] = {}
    moved: list[float] = []

    class Trainer(lazy_trainer.LazyTrainer):
        def train(self, start_iter: int, max_iter: int) -> None:
            start.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
            self.run_one()

        def run_one(self) -> None:
            self.iter = 0
            with EventStorage():
                self.run_step()
            parts = [(p - start[n]).flatten() for n, p in self.model.named_parameters()]
            moved.append(torch.cat(parts).norm().item())

    monkeypatch.setattr(lazy_trainer, "LazyTrainer", Trainer)
    script.main(
        lazy_arguments(
            "ga_rpn_R_50",
            "optimizer.lr=1.0",
            "optimizer.weight_decay=0.0",
            "optimizer.momentum=0.0",
            "train.clip_gradients.max_norm=0.25",
        )
    )
    assert moved == [pytest.approx(0.25, rel=0.01)]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.max_itr=5", "there is no 'train.max_itr', did you mean 'train.max_iter'?"),
        ("optimizer.lr", "must read KEY=VALUE"),
        ("optimizer.lr=fast", "optimizer.lr=fast should be a number"),
        ("train.amp.enabled=1", "train.amp.enabled=1 should be true or false"),
        ("model.proposal_generator.guided_anchoring.center_ration=0.3",
         "did you mean 'model.proposal_generator.guided_anchoring.center_ratio'"),
        ("model.proposal_generator.in_features=p2", "should be a list"),
        ("dataloader.train.dataset.names=ga_shapes_trian", "mean 'ga_shapes_train'"),
        ("dataloader.train.total_batch_size=0", "dataloader.train.total_batch_size 0"),
        ("train.clip_gradients.max_norm=0", "train.clip_gradients.max_norm 0 must be above 0"),
        ("train.amp.enabled=true", "train.amp.enabled needs a CUDA device"),
        ("model.proposal_generator.guided_anchoring.strides=[8,16,32,64,128]",
         "no square is smaller than 64 pixels"),
        ("model.proposal_generator.head.deform_groups=5",
         "DEFORM_GROUPS 5 does not divide the head's 32 channels"),
        ("train.init_checkpoint=absent.pth", "absent.pth"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_in_one_line(
    script, lazy_arguments: Callable, override: str, told: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(lazy_arguments("ga_rpn_R_50", override))
    message = str(stop.value.code)
    assert message.startswith("lazyconfig_train_net.py: error: ")
    assert told in message
    assert "\n" not in message


def test_other_mistakes(script, lazy_arguments: Callable, tmp_path: Path) -> None:
    for name, told in (
        ("absent.py", "absent.py"),
        ("x.yaml", "tools/train_net.py"),
        ("", "missing"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_lazy_config(name)
    (tmp_path / "mine.py").write_text("model = dict()\n")
    with pytest.raises(ConfigError, match="defines no 'dataloader'"):
        load_lazy_config(str(tmp_path / "mine.py"))
    with pytest.raises(SystemExit, match=r"train\.init_checkpoint"):
        script.main(lazy_arguments("ga_rpn_R_50", "--eval-only"))
    cfg = load("ga_faster_R_50", "dataloader.train.dataset.names=ga_shapes_train",
               "dataloader.test.dataset.names=ga_shapes_val")  # fmt: skip
    with pytest.raises(ConfigError, match=r"model\.roi_heads\.num_classes is 80.*has 5 classes"):
        check_lazy_run(cfg)


def test_what_an_object_takes_may_be_added() -> None:
    cfg = load("ga_rpn_R_50", "model.proposal_generator.min_box_size=4", "+train.note=mine")
    assert cfg.model.proposal_generator.min_box_size == 4
    assert cfg.train.note == "mine"
    with torch.device("meta"):
        assert build_lazy(cfg, "model").proposal_generator.min_box_size == 4.0


@pytest.mark.parametrize("channels", [0, -1, "x", None])
def test_channels_that_no_layer_has(channels: object) -> None:
    """What torch says of them, as a RuntimeError or a TypeError, names the part of the config."""
    cfg = load("ga_rpn_R_50")
    cfg.model.backbone.out_channels = channels
    with pytest.raises(ConfigError, match=r"^model: ") as error:
        build_lazy(cfg, "model")
    assert "\n" not in str(error.value)
