"""A loss that is not finite ends the run, and is named."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from ga_detectron2.engine.train_loop import GASimpleTrainer


class Losses(torch.nn.Module):
    """Returns prepared values as losses, iteration by iteration."""

    def __init__(self, values: list[dict[str, float]]):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.values = iter(values)

    def forward(self, _: object) -> dict[str, torch.Tensor]:
        # Of several types, as in mixed precision.
        types = [torch.float16, torch.float64]
        losses = next(self.values).items()
        return {k: (v * self.weight).to(types[i % 2]) for i, (k, v) in enumerate(losses)}


def train(values: list[dict[str, float]]) -> tuple[GASimpleTrainer, Losses]:
    model = Losses(values)
    trainer = GASimpleTrainer(model, [None] * 10, torch.optim.SGD(model.parameters(), lr=0.1))
    return trainer, model


def test_finite_losses_are_written_as_detectron2_writes_them() -> None:
    trainer, _ = train([{"loss_a": 1.0, "loss_b": 2.0}])
    with EventStorage() as storage:
        trainer.run_step()
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(3)
    assert latest["loss_a"] == pytest.approx(1)
    assert latest["loss_b"] == pytest.approx(2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_error_names_the_loss_and_the_iteration(value: float) -> None:
    good = {"loss_anchor_loc": 0.1, "loss_rpn_cls": 0.1}
    trainer, model = train([good, good, {**good, "loss_rpn_cls": value}])
    with pytest.raises(FloatingPointError) as error:
        trainer.train(0, 3)
    message = str(error.value)
    assert "iteration 2" in message
    assert f"loss_rpn_cls is {value}" in message
    assert "loss_anchor_loc" not in message
    assert "\n" not in message
    # Two steps of gradient 0.2; the third has not changed the weights.
    assert model.weight.item() == pytest.approx(1 - 2 * 0.1 * 0.2)


def test_opposite_infinities_do_not_hide_in_their_sum() -> None:
    trainer, _ = train([{"loss_a": math.inf, "loss_b": -math.inf}])
    with pytest.raises(FloatingPointError, match=r"loss_a is inf, loss_b is -inf"):
        trainer.train(0, 1)
