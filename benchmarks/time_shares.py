"""Where the time of the guided heads goes: shares of operators, by torch's profiler.

    python benchmarks/time_shares.py [--share 0.05] [--repeats 2] [--device cpu]

The lines of benchmarks/heads.py, guided side. An operator's time is its own, without those that it
calls; on a GPU that of its kernels. Convolutions are those that cover whole maps. What is computed
for chosen cells alone is a product of matrices: not only feature adaption's, but also the 1x1
branches after it and RetinaNet's last 3x3 convolutions. What is in no group stands in the last
column, by name, the longest first.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import torch
from heads import LINES, make_step
from measure import Table, add_common_arguments, describe, headline, synchronize, write_json
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first group one of whose words is in an operator's name has its time.
GROUPS = {
    "convolutions": ("deform_conv2d", "convolution", "cudnn", "conv2d"),
    "gathering taps": ("embedding_bag", "grid_sampler"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addbmm"),
}
NAMED = 5  # operators of the rest that are named


def group_of(operator: str) -> str | None:
    for group, words in GROUPS.items():
        if any(word in operator for word in words):
            return group
    return None


def operator_times(
    step: Callable[[], object], repeats: int, device: str, limit: float = float("inf")
) -> Counter[str]:
    """Microseconds of each operator over some calls, after one that is not counted.

    Args:
        step: what is called.
        repeats: how often, at most.
        device: "cpu" or one of CUDA.
        limit: seconds after which it is not called again.
    """
    step()
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        start = perf_counter()
        for _ in range(repeats):
            step()
            synchronize(device)
            if perf_counter() - start > limit:
                break
    return sum_times(profiled.key_averages(), device)


def sum_times(events: Iterable[Any], device: str) -> Counter[str]:
    """Own microseconds by operator, of what torch's profiler averages by name."""
    times: Counter[str] = Counter()
    for event in events:
        # A GPU's kernels are events, too, whose times their operators have already.
        if event.device_type != DeviceType.CPU:
            continue
        if device == "cpu":
            times[event.key] += event.self_cpu_time_total
        elif hasattr(event, "self_device_time_total"):
            times[event.key] += event.self_device_time_total
        else:  # the name of torch 2.3
            times[event.key] += event.self_cuda_time_total
    return times


def shares(times: Counter[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Of all time, the shares of the groups, and those of the operators of no group."""
    total = sum(times.values())
    grouped, rest = dict.fromkeys(GROUPS, 0.0), {}
    for operator, value in times.most_common():
        group = group_of(operator)
        if group is None:
            rest[operator] = value / total
        else:
            grouped[group] += value / total
    return grouped, rest


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=2)
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    note = f"{args.batch} x {tuple(args.size)}, {args.boxes} boxes, {args.share:.0%} of cells pass"
    print(headline(machine, note) + "\n")
    table = Table("", *GROUPS, "the rest", "longest of the rest")
    results = []
    for i in args.lines:
        name, kind, mode, args.proposals = LINES[i]
        step = make_step(kind, mode, True, args)
        times = operator_times(step, args.repeats, args.device, limit=args.seconds)
        grouped, rest = shares(times)
        longest = [f"{o.removeprefix('aten::')} {s:.1%}" for o, s in list(rest.items())[:NAMED]]
        cells = [f"{share:.1%}" for share in (*grouped.values(), sum(rest.values()))]
        table.add(name, *cells, ", ".join(longest))
        results.append({"name": name, "microseconds": dict(times)})
        write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
