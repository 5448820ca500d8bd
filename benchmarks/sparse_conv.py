"""GA-RetinaNet's last convolutions, 3x3, at a share of the cells and on all: where each way pays.

    python benchmarks/sparse_conv.py [--outputs 80 4] [--levels 100x168 50x84]

Both ways start from the adapted features of the cells and their neighbours, and end with the output
at the cells: *sparse* gathers nine taps for each, *dense* lays the features out as a map for the
convolution of all cells. ``sparse_conv.conv3x3`` goes from one to the other at DENSE_FROM. Cells
are drawn at random; a share's two ways take turns. The crossover is interpolated as in adaption.py.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from adaption import MODES, crossover, make_step, share_text, size_of
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
from torch import Tensor, nn

from ga_detectron2.modeling import sparse_conv

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
# The pyramid of an image of 800x1333, padded to a multiple of 32, from stride 8 on.
LEVELS = ("100x168", "50x84", "25x42", "13x21")
OUTPUTS = (80, 4)  # classes of COCO, and a box


def make_steps(
    size: tuple[int, int], outputs: int, share: float, mode: str, args: argparse.Namespace
) -> list[Step]:
    """The sparse and the dense way."""
    torch.manual_seed(0)
    count = size[0] * size[1]
    chosen = torch.zeros(args.batch, count, dtype=torch.bool, device=args.device)
    for of_image in chosen:
        of_image[torch.randperm(count)[: max(1, round(share * count))]] = True
    cells = sparse_conv.NeighboringCells.of(chosen, size)
    conv = nn.Conv2d(args.channels, outputs, 3, padding=1).to(args.device)
    conv.to(memory_format=torch.channels_last)
    rows = torch.randn(len(cells.known), args.channels, device=args.device)

    def way(dense_from: float) -> Step:
        def run(rows: Tensor) -> Tensor:
            before, sparse_conv.DENSE_FROM = sparse_conv.DENSE_FROM, dense_from
            try:
                return sparse_conv.conv3x3(rows, cells, conv, (args.batch, *size))
            finally:
                sparse_conv.DENSE_FROM = before

        return make_step(run, rows, mode)

    return [way(1.0), way(0.0)]


def measure_level(
    size: tuple[int, int], outputs: int, mode: str, args: argparse.Namespace
) -> dict[str, Any]:
    limit = args.seconds / len(args.shares)
    pairs = [
        take_turns(
            make_steps(size, outputs, share, mode, args), args.repeats, args.device, limit=limit
        )
        for share in args.shares
    ]
    sparse, dense = ([pair[i] for pair in pairs] for i in (0, 1))
    return {
        "size": size,
        "outputs": outputs,
        "mode": mode,
        "shares": list(args.shares),
        "sparse_s": sparse,
        "dense_s": dense,
    }


def add_row(table: Table, result: dict[str, Any]) -> None:
    sparse = [statistics.median(x) for x in result["sparse_s"]]
    dense = statistics.median(statistics.median(x) for x in result["dense_s"])
    table.add(
        "x".join(map(str, result["size"])),
        result["outputs"],
        result["mode"],
        *(number(1000 * t) for t in (*sparse, dense)),
        share_text(crossover(result["shares"], sparse, dense)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=7)
    parser.add_argument("--levels", type=size_of, nargs="+", default=[size_of(x) for x in LEVELS])
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of cells, rising")
    parser.add_argument("--outputs", type=int, nargs="+", default=OUTPUTS, help="channels")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args(argv)
    args.shares = sorted(args.shares)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    print(headline(machine, f"{args.batch} x {args.channels} channels, medians, milliseconds\n"))
    shares = (f"{100 * s:g} %" for s in args.shares)
    table = Table("cells", "outputs", "", *shares, "dense", "dense pays from", text_columns=3)
    results = []
    for outputs in args.outputs:
        for mode in args.modes:
            for size in args.levels:
                results.append(measure_level(size, outputs, mode, args))
                add_row(table, results[-1])
                write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
