"""To be run as a script: of two processes, the second has a loss that is NaN at iteration 1."""

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ga_detectron2.engine.train_loop import GASimpleTrainer


class Losses(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, iteration: int) -> dict[str, torch.Tensor]:
        bad = comm.get_rank() == 1 and iteration == 1
        return {"loss_a": self.weight, "loss_b": self.weight * (float("nan") if bad else 1.0)}


def train() -> None:
    model = DistributedDataParallel(Losses())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GASimpleTrainer(model, range(10), optimizer).train(0, 10)


if __name__ == "__main__":
    launch(train, 2, dist_url="auto")
