"""Statistics and pictures of guided anchors during training."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from torch import nn

from ga_detectron2 import record_guided_anchors
from ga_detectron2.engine import GuidedAnchorHook


def images() -> list[dict]:
    """A batch of different sizes; the second image has no objects."""
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.tensor([[8.0, 8, 60, 40], [30, 20, 90, 60]]), torch.zeros(0, 4)]
    sizes = [(64, 96), (96, 64)]
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": Instances(
                size, gt_boxes=Boxes(b), gt_classes=torch.zeros(len(b), dtype=torch.int64)
            ),
        }
        for size, b in zip(sizes, boxes, strict=True)
    ]


class Pictures(EventWriter):
    """Remembers which pictures there were, by iteration."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, np.ndarray]]] = {}

    def write(self) -> None:
        for name, picture, iteration in get_event_storage()._vis_data:
            self.seen.setdefault(name, []).append((iteration, picture))
        get_event_storage().clear_images()


@pytest.fixture(params=["ga_rpn", "ga_retinanet"])
def model(request: pytest.FixtureRequest, config: Callable) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config(f"small/{request.param}_R_18", MODEL__RESNETS__NORM="FrozenBN"))


class Trainer(SimpleTrainer):
    """Also writes out the pictures after every step."""

    writer = Pictures()

    def after_step(self) -> None:
        super().after_step()
        self.writer.write()


def run(model: nn.Module, hook: GuidedAnchorHook, iterations: int) -> tuple[dict, dict]:
    trainer = Trainer(model, [images()] * iterations, torch.optim.SGD(model.parameters(), 1e-9))
    trainer.writer = Pictures()
    trainer.register_hooks([hook])
    trainer.train(0, iterations)
    history = {k: v.values() for k, v in trainer.storage.histories().items()}
    return history, trainer.writer.seen


def test_scalars_and_pictures_are_periodic(model: nn.Module) -> None:
    history, pictures = run(model, GuidedAnchorHook(model, period=2, vis_period=3), 5)
    ours = {name: v for name, v in history.items() if name.startswith("guided_anchors/")}
    assert len(ours) == 7
    for values in ours.values():
        assert [iteration for _, iteration in values] == [1, 3]
    assert set(pictures) == {f"guided_anchors/{x}" for x in ("location", "anchors", "targets")}
    for seen in pictures.values():
        assert [iteration for iteration, _ in seen] == [0, 3]
        for _, picture in seen:
            assert picture.dtype == np.uint8
            assert picture.shape[0] == 3
            assert picture.std() > 0
    # The model is unchanged.
    hooks = [m._forward_hooks for m in model.modules()] + [model._forward_pre_hooks]
    assert not any(hooks)


def test_scalars_are_those_of_the_batch(model: nn.Module) -> None:
    batch = images()
    with record_guided_anchors(model) as records, EventStorage():
        model(batch)
    guided = records[0]
    history, _ = run(model, GuidedAnchorHook(model, period=1), 1)
    found = {name.split("/")[-1]: values[0][0] for name, values in history.items()}
    # Cells within the images, (H, W) pixels, of the padded maps.
    x, y = guided.grid.centers.unbind(dim=1)
    inside = torch.stack([(y < 64) & (x < 96), (y < 96) & (x < 64)])
    kept = guided.loc_logits.sigmoid() >= 0.01
    assert 0 < found["kept_share"] < 1
    assert found["kept_share"] == pytest.approx(kept[inside].float().mean().item())
    iou = pairwise_iou(batch[0]["instances"].gt_boxes, Boxes(guided.anchors[0][inside[0]]))
    assert found["iou_guided"] == pytest.approx(iou.amax(dim=1).mean().item(), rel=1e-5)


def test_batch_without_objects_has_no_scalars_of_objects(model: nn.Module) -> None:
    hook = GuidedAnchorHook(model, period=1, vis_period=1)
    without = images()[1]
    with mock.patch(f"{__name__}.images", return_value=[without, without]):
        history, pictures = run(model, hook, 1)
    assert "guided_anchors/kept_share" in history
    assert "guided_anchors/iou_guided" not in history
    assert len(pictures) == 3


def test_model_without_guided_anchors_is_refused() -> None:
    with pytest.raises(ValueError, match="has no guided anchors"):
        GuidedAnchorHook(nn.Linear(1, 1))


def test_trainer_of_detectron2_takes_the_hook(config: Callable, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    trainer = DefaultTrainer(config("ga_rpn_R_50", DATASETS__TEST="()"))
    trainer.register_hooks([GuidedAnchorHook(trainer.model, period=2)])
    trainer.train()
    assert 0 <= trainer.storage.latest()["guided_anchors/kept_share"][0] <= 1
