"""Operations of the heads, which no other load on the machine changes: guided against plain.

    python benchmarks/operations.py [--share 0.05]

The lines of benchmarks/heads.py by torch's FlopCounterMode: a multiplication or an addition in a
convolution, a matrix product or the interpolation of a moved tap is one operation. Targets, losses,
NMS and all else that is element by element is not counted, nor is the time that memory takes.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (its operators must be there to be counted)
from heads import LINES, make_step
from measure import Table, describe, headline, number, write_json
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


def bag_forward(table: Shape, indices: Shape, *_more: Any, **_options: Any) -> int:
    """embedding_bag: every index adds a row of the table, times its weight."""
    return 2 * math.prod(indices) * table[1]


def bag_backward(grad: Shape, indices: Shape, *_more: Any, **_options: Any) -> int:
    return 2 * math.prod(indices) * grad[1]


def bag_weight_backward(grad: Shape, _table: Shape, indices: Shape, *_more: Any, **_o: Any) -> int:
    return 2 * math.prod(indices) * grad[1]


def deform_forward(features: Shape, weight: Shape, offset: Shape, *_more: Any, **_o: Any) -> int:
    """The product, and four weighted values for each tap of each input channel."""
    cells = offset[0] * math.prod(offset[2:])
    taps = math.prod(weight[2:])
    return cells * taps * features[1] * (2 * weight[0] + 2 * 4)


def deform_backward(
    _grad: Shape, features: Shape, weight: Shape, offset: Shape, *_more: Any, **_o: Any
) -> int:
    return 2 * deform_forward(features, weight, offset)


def grid_sample(_features: Shape, _grid: Shape, *_more: Any, out_shape: Any, **_o: Any) -> int:
    return 2 * 4 * math.prod(out_shape)


def formulas() -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    return {
        aten._embedding_bag: bag_forward,
        aten._embedding_bag_forward_only: bag_forward,
        aten._embedding_bag_dense_backward: bag_backward,
        aten._embedding_bag_per_sample_weights_backward: bag_weight_backward,
        aten.grid_sampler_2d: grid_sample,
        torch.ops.torchvision.deform_conv2d: deform_forward,
        torch.ops.torchvision._deform_conv2d_backward: deform_backward,
    }


def count(step: Callable[[], object]) -> int:
    """Operations of one call."""
    with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
        step()
    return counter.get_total_flops()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    args = parser.parse_args(argv)
    args.device = "cpu"

    machine = describe("cpu", torch.get_num_threads())
    note = f"{args.batch} x {tuple(args.size)}, {args.share:.0%} of the cells pass"
    print(headline(machine, note) + "\n")
    table = Table("", "detectron2 (10⁹)", "ours (10⁹)", "ratio")
    results = []
    for i in args.lines:
        name, kind, mode, args.proposals = LINES[i]
        theirs, ours = (count(make_step(kind, mode, guided, args)) for guided in (False, True))
        table.add(name, number(theirs / 1e9), number(ours / 1e9), f"{ours / theirs:.2f}")
        results.append({"name": name, "detectron2": theirs, "ours": ours})
        write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
