"""Some cells against all cells: feature adaption, and GA-RetinaNet's last convolutions.

    python benchmarks/adaption.py [--precision float32 amp]

Feature adaption: ``FeatureAdaption.at_cells`` on a share of the cells, against the whole map by
``FeatureAdaption.forward`` (*dense*) and by torchvision's *deform_conv2d* (in float32: it has no
bfloat16 kernel on a CPU). The last convolutions, to 80 classes or 4 deltas, start from adapted
features: ``conv3x3_at_cells`` against the convolution of the whole map (*dense*).

The results of all ways are compared first. *Pays from* is the lowest measured share of cells at
which the way for the whole map is the faster one. Cells are random, so neighbours share less of the
cache than the cells of objects. All ways of a line take turns; backward goes to features and
weights. amp is autocast, of feature adaption alone: float16 on a GPU, bfloat16 on a CPU.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence

import torch
import torchvision
from measure import (
    PRECISIONS,
    Step,
    add_common_arguments,
    amp_dtype,
    autocast,
    no_tf32,
    size_of,
    take_turns,
)
from report import Report, Row
from torch import Tensor, nn

from ga_detectron2.modeling.feature_adaption import FeatureAdaption, to_rows
from ga_detectron2.modeling.sparse_conv import NeighboringCells, conv3x3_at_cells

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# The pyramid of an image of 800x1333, padded to a multiple of 32, from stride 4 on.
LEVELS = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
MODES = ("forward", "forward+backward")
PARTS = ("adaption", "conv3x3 to 80", "conv3x3 to 4")
CHANNELS, GROUPS = 256, 4

# An input and what is computed from it.
Way = tuple[Tensor, Callable[[Tensor], Tensor]]


def draw_cells(share: float, count: int, device: str) -> Tensor:
    """(count,) bool with this share of random cells, at least one."""
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    chosen[torch.randperm(count, device=device)[: max(1, round(share * count))]] = True
    return chosen


def adaption_ways(
    size: tuple[int, int], precision: str, shares: Sequence[float], device: str
) -> dict[str, Way]:
    """Ways to adapt one map, by share ("0.05") or name; results (k, C)."""
    torch.manual_seed(0)
    count = size[0] * size[1]
    adaption = FeatureAdaption(CHANNELS, CHANNELS, GROUPS).to(device)
    features = torch.randn(1, CHANNELS, *size, device=device)
    dtype = amp_dtype(device) if precision == "amp" else torch.float32
    features = features.to(dtype, memory_format=torch.channels_last)
    deltas = 0.3 * torch.randn(1, count, 2, device=device)
    delta_map = deltas.transpose(1, 2).unflatten(2, size)

    def at_share(share: float) -> Callable[[Tensor], Tensor]:
        cells = draw_cells(share, count, device).nonzero().squeeze(1)
        return lambda x: adaption.at_cells(to_rows(x), cells, deltas[0, cells])

    def deform_conv2d(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            offsets = adaption.offset(delta_map)
            weight = adaption.conv.weight
            adapted = torchvision.ops.deform_conv2d(x.to(weight.dtype), offsets, weight, padding=1)
        return to_rows(adapted.relu()).rows.flatten(0, 1)

    def in_autocast(way: Callable[[Tensor], Tensor]) -> Way:
        def run(x: Tensor) -> Tensor:
            with autocast(precision, device):
                return way(x)

        return features, run

    ways = {f"{share:g}": at_share(share) for share in shares}
    ways["dense"] = lambda x: adaption(to_rows(x), deltas).rows.flatten(0, 1)
    ways["deform_conv2d"] = deform_conv2d
    return {name: in_autocast(way) for name, way in ways.items()}


def conv3x3_ways(
    size: tuple[int, int], outputs: int, shares: Sequence[float], device: str
) -> dict[str, Way]:
    """Ways to a 3x3 convolution of one map, by share or name; results (k, outputs)."""
    torch.manual_seed(0)
    count = size[0] * size[1]
    conv = nn.Conv2d(CHANNELS, outputs, 3, padding=1).to(device, memory_format=torch.channels_last)
    everything = torch.randn(count, CHANNELS, device=device)

    def at_share(share: float) -> Way:
        cells = NeighboringCells.of(draw_cells(share, count, device)[None], size)
        rows = everything[cells.known]
        return rows, lambda x: conv3x3_at_cells(x, cells.neighbors, conv, 2048)

    def dense(x: Tensor) -> Tensor:
        return to_rows(conv(x.unflatten(0, (1, *size)).permute(0, 3, 1, 2))).rows.flatten(0, 1)

    return {**{f"{share:g}": at_share(share) for share in shares}, "dense": (everything, dense)}


def make_step(way: Way, mode: str) -> Step:
    features, function = way
    if mode == "forward":
        return torch.no_grad()(lambda: function(features))
    features = features.detach().requires_grad_()
    gradient: list[Tensor] = []  # made once, of the shape and type of the first result

    def forward_and_backward() -> None:
        features.grad = None
        output = function(features)
        if not gradient:
            gradient.append(torch.ones_like(output))
        output.backward(gradient[0])

    return forward_and_backward


def largest_difference(ways: dict[str, Way]) -> float:
    """Of all ways that cover every cell, as a share of the largest value."""
    with torch.no_grad():
        results = [function(x).float() for name, (x, function) in ways.items()
                   if name in ("1", "dense", "deform_conv2d")]  # fmt: skip
    return max(float((x - results[-1]).abs().max() / results[-1].abs().max()) for x in results)


def measure_level(
    part: str, size: tuple[int, int], precision: str, mode: str, args: argparse.Namespace
) -> Row:
    if part == "adaption":
        ways = adaption_ways(size, precision, args.shares, args.device)
    else:
        ways = conv3x3_ways(size, int(part.split()[-1]), args.shares, args.device)
    with no_tf32():
        difference = largest_difference(ways)
    steps = [make_step(way, mode) for way in ways.values()]
    times = take_turns(steps, args.repeats, args.device, limit=args.seconds)
    milliseconds = {k: 1000 * statistics.median(x) for k, x in zip(ways, times, strict=True)}
    return {
        "part": part,
        "size": size,
        "precision": precision,
        "mode": mode,
        "milliseconds": milliseconds,
        "pays_from": {
            name: next((s for s in args.shares if milliseconds[f"{s:g}"] >= whole_map), None)
            for name, whole_map in milliseconds.items()
            if name in ("dense", "deform_conv2d")
        },
        "largest_difference": difference,
        "repeats": len(times[0]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument("--levels", type=size_of, nargs="+", default=LEVELS, metavar="HxW")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of cells, rising")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    report = Report(args.device, args.output, f"1 x {CHANNELS} channels")
    for part in PARTS:
        precisions = args.precision if part == "adaption" else ["float32"]
        for precision, mode, size in itertools.product(precisions, MODES, args.levels):
            report.add(measure_level(part, size, precision, mode, args))


if __name__ == "__main__":
    main()
