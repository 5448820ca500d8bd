"""To be run as a script: three processes train twice, in one go and after a new start.

Prints "the same" if the weights of both are, bit for bit, and "the mean" if the first gradient is
that of one process with the data of all.
"""

import copy
import tempfile

import torch
from torch import distributed, multiprocessing, nn

from ga_detectron2.engine.trainer import distribute

PROCESSES = 3


class Backwards(nn.Module):
    """Its layers are used in another order than they are listed: their gradients come otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(37, 37) for _ in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in (3, 0, 6, 1, 5, 2, 4):
            x = self.layers[i](x).tanh()
        return x.square().mean()


def data(rank: int, step: int) -> torch.Tensor:
    return torch.randn(5, 37, generator=torch.Generator().manual_seed(10 * step + rank))


def train(model: nn.Module, rank: int, first: int, last: int) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in range(first, last):
        optimizer.zero_grad()
        model(data(rank, step)).backward()
        optimizer.step()
    return copy.deepcopy(model.module.state_dict())


def work(rank: int, file: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=PROCESSES
    )
    torch.manual_seed(0)
    model = Backwards()
    alone = copy.deepcopy(model)
    whole = distribute(model)
    cut_off = train(whole, rank, 0, 1)
    gradient = whole.module.layers[3].weight.grad.clone()
    expected = train(whole, rank, 1, 5)
    resumed = Backwards()
    resumed.load_state_dict(cut_off)
    found = train(distribute(resumed), rank, 1, 5)
    if rank == 0:
        sum(alone(data(r, 0)) for r in range(PROCESSES)).backward()
        if torch.allclose(gradient, alone.layers[3].weight.grad / PROCESSES, atol=1e-7):
            print("the mean")
        print("the same" if all(torch.equal(found[k], expected[k]) for k in expected) else "differ")
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(work, (f"{folder}/a",), PROCESSES, start_method="fork")
