"""Feature adaption alone: a share of the cells against all of them, where each way pays.

    python benchmarks/adaption.py [--dtypes float32 bfloat16] [--levels 100x168 50x84]

Ways: *sparse*, FeatureAdaption.at_cells on a share of the cells; *dense*, FeatureAdaption on all of
them; *deform_conv2d*, torchvision's operator with the same weights, in float32 always, since it
has no kernel for bfloat16 on a CPU. Their results are compared first. The crossover is the share
from which on a dense way is the faster one, interpolated between the shares that were measured.
bfloat16 and float16 are features of that type under autocast. Cells are drawn at random, so that
neighbours share less of the cache than where objects are. The backward pass goes to features and
weights. All ways of one level take turns.
"""

import argparse
import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from measure import (
    Step,
    Table,
    add_common_arguments,
    describe,
    headline,
    number,
    take_turns,
    write_json,
)
from torch import Tensor

from ga_detectron2.modeling.feature_adaption import FeatureAdaption, to_rows

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# The pyramid of an image of 800x1333, padded to a multiple of 32, from stride 4 on.
LEVELS = ("200x336", "100x168", "50x84", "25x42", "13x21")
MODES = ("forward", "forward+backward")


def deform_conv(adaption: FeatureAdaption, features: Tensor, deltas: Tensor) -> Tensor:
    """All cells by torchvision's operator: (N, C, H, W) and (N, 2, H, W) to (N, C, H, W)."""
    with torch.autocast(features.device.type, enabled=False):
        offsets = adaption.offset(deltas.detach().float())
        features = features.to(adaption.conv.weight.dtype)
        return torchvision.ops.deform_conv2d(
            features, offsets, adaption.conv.weight, padding=1
        ).relu()


def make_ways(
    size: tuple[int, int], dtype: torch.dtype, shares: Sequence[float], args: argparse.Namespace
) -> dict[str | float, Callable[[Tensor], Tensor]]:
    """From features (N, C, H, W) to adapted rows (k, C), by share or by name of a dense way."""
    torch.manual_seed(0)
    device = args.device
    adaption = FeatureAdaption(args.channels, args.channels, args.groups).to(device)
    deltas = 0.3 * torch.randn(args.batch, 2, *size, device=device)
    delta_rows = deltas.flatten(2).transpose(1, 2).contiguous()  # (N, H * W, 2)
    count = args.batch * size[0] * size[1]
    order = torch.randperm(count, device=device)

    def at_share(share: float) -> Callable[[Tensor], Tensor]:
        cells = order[: max(1, round(share * count))].sort().values
        cell_deltas = delta_rows.flatten(0, 1)[cells]
        return lambda features: adaption.at_cells(to_rows(features), cells, cell_deltas)

    ways: dict[str | float, Callable[[Tensor], Tensor]] = {s: at_share(s) for s in shares}
    ways["dense"] = lambda features: adaption(to_rows(features), delta_rows).rows.flatten(0, 1)
    ways["deform_conv2d"] = lambda features: to_rows(
        deform_conv(adaption, features, deltas)
    ).rows.flatten(0, 1)
    context: Callable[[], Any] = contextlib.nullcontext
    if dtype != torch.float32:
        kind = torch.device(device).type

        def context() -> torch.autocast:
            return torch.autocast(kind, dtype)

    def in_context(way: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(features: Tensor) -> Tensor:
            with context():
                return way(features)

        return run

    return {name: in_context(way) for name, way in ways.items()}


def make_step(way: Callable[[Tensor], Tensor], features: Tensor, mode: str) -> Step:
    if mode == "forward":

        def forward() -> None:
            with torch.no_grad():
                way(features)

        return forward

    features = features.detach().requires_grad_()
    output_grad: list[Tensor] = []  # Made once, of the shape and type of the first result.

    def forward_and_backward() -> None:
        features.grad = None
        output = way(features)
        if not output_grad:
            output_grad.append(torch.ones_like(output))
        output.backward(output_grad[0])

    return forward_and_backward


def crossover(shares: Sequence[float], sparse: Sequence[float], dense: float) -> float | None:
    """The least share from which on the sparse way takes longer than the dense one; None: never."""
    if sparse[0] > dense:
        return 0.0
    points = list(zip(shares, sparse, strict=True))
    for (s0, t0), (s1, t1) in itertools.pairwise(points):
        if t1 > dense:
            # Straight between the two on a logarithmic scale, where both are nearly so.
            along = (math.log(dense) - math.log(t0)) / (math.log(t1) - math.log(t0))
            return math.exp(math.log(s0) + along * (math.log(s1) - math.log(s0)))
    return None


def measure_level(
    size: tuple[int, int], dtype_name: str, mode: str, args: argparse.Namespace
) -> dict[str, Any]:
    dtype = getattr(torch, dtype_name)
    ways = make_ways(size, dtype, args.shares, args)
    features = torch.randn(args.batch, args.channels, *size, device=args.device).to(
        dtype, memory_format=torch.channels_last
    )
    with torch.no_grad():
        expected = ways["deform_conv2d"](features).float()
        scale = expected.abs().max()
        difference = {
            name: float((ways[name](features).float() - expected).abs().max() / scale)
            for name in ("dense", *([1.0] if 1.0 in ways else []))
        }
    times = take_turns(
        [make_step(way, features, mode) for way in ways.values()],
        args.repeats,
        args.device,
        limit=args.seconds,
    )
    return {
        "size": size,
        "dtype": dtype_name,
        "mode": mode,
        "shares": list(args.shares),
        "sparse_s": times[: len(args.shares)],
        "dense_s": times[-2],
        "deform_conv2d_s": times[-1],
        "largest_difference": max(difference.values()),
    }


def share_text(share: float | None) -> str:
    if share is None:
        return "never"
    return "always" if share == 0 else f"{100 * share:.3g} %"


def add_row(table: Table, result: dict[str, Any]) -> None:
    sparse = [statistics.median(x) for x in result["sparse_s"]]
    dense = statistics.median(result["dense_s"])
    deform = statistics.median(result["deform_conv2d_s"])
    table.add(
        "x".join(map(str, result["size"])),
        result["dtype"],
        result["mode"],
        *(number(1000 * t) for t in (*sparse, dense, deform)),
        share_text(crossover(result["shares"], sparse, dense)),
        share_text(crossover(result["shares"], sparse, deform)),
        f"{result['largest_difference']:.0e}",
    )


def size_of(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument("--levels", type=size_of, nargs="+", default=[size_of(x) for x in LEVELS])
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of cells, rising")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args(argv)
    args.shares = sorted(args.shares)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    note = f"{args.batch} x {args.channels} channels, {args.groups} groups, medians, milliseconds"
    print(headline(machine, note) + "\n")
    table = Table(
        "cells",
        "type",
        "",
        *(f"{100 * s:g} %" for s in args.shares),
        "dense",
        "deform_conv2d",
        "dense pays from",
        "deform_conv2d pays from",
        "largest difference",
        text_columns=3,
    )
    results = []
    for dtype_name in args.dtypes:
        for mode in args.modes:
            for size in args.levels:
                results.append(measure_level(size, dtype_name, mode, args))
                add_row(table, results[-1])
                write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
