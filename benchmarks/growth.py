"""How the heads' cost grows: with image size, number of boxes, batch and share of kept cells.

    python benchmarks/growth.py [--series size boxes batch share] [--seconds 20]
    python benchmarks/growth.py --plot-only

The same lines as benchmarks/heads.py, against the same peers, at several values of one setting
while the others stay; the line with proposals in two of the series. Numbers of boxes matter in
training alone, shares in inference alone. Writes
growth.json after every point to OUTPUT, and growth_SERIES.png for every series to IMAGES; the plots
can be made again from growth.json without a measurement.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from heads import LINES, time_line
from matplotlib.ticker import FuncFormatter, NullLocator
from measure import Table, add_common_arguments, describe, headline, number

from ga_detectron2.visualization.style import (
    figure_image,
    line_color,
    new_figure,
    save_image,
    tidy_axes,
)


class Series(NamedTuple):
    """Values of one setting.

    Attributes:
        label: of the setting.
        values: of it.
        fixed: other settings that are not as in ``BASE``.
        modes: of which the lines are.
        proposals: whether the line is one of them whose training step makes proposals.
    """

    label: str
    values: Sequence[Any]
    fixed: Mapping[str, Any]
    modes: Sequence[str]
    proposals: bool = False


BASE = {"size": (800, 1333), "boxes": 60, "batch": 1, "share": 0.05}
BOTH = ("inference", "training")
SERIES = {
    "size": Series(
        "megapixels",
        ((200, 333), (400, 667), (600, 1000), (800, 1333), (1000, 1667)),
        {},
        BOTH,
        proposals=True,
    ),
    "boxes": Series("boxes an image", (1, 20, 60, 200, 500), {}, ("training",), proposals=True),
    "batch": Series("images a batch", (1, 2, 4, 8), {"size": (400, 667)}, BOTH),
    "share": Series(
        "cells that pass (%)", (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), {}, ("inference",)
    ),
}
HEADS = {"rpn": ("RPN", "GA-RPN"), "retinanet": ("RetinaNet", "GA-RetinaNet")}


def measure_series(
    name: str, series: Series, machine: dict, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Times of both sides at every value, for every line of benchmarks/heads.py that matters."""
    points = []
    print(f"\n{series.label}: {name}\n")
    table = Table("line", series.label, "detectron2 (s)", "ours (s)", "ratio")
    for value in series.values:
        for line, kind, mode, proposals in LINES:
            if mode not in series.modes or (proposals and not series.proposals):
                continue
            settings = {**BASE, **series.fixed, **args.fixed, name: value}
            case = argparse.Namespace(**vars(args), proposals=proposals, **settings)
            theirs, ours = time_line(kind, mode, case)
            points.append(
                {
                    "series": name,
                    "kind": kind,
                    "mode": mode,
                    "proposals": proposals,
                    **settings,
                    "detectron2_s": theirs,
                    "ours_s": ours,
                }
            )
            a, b = statistics.median(theirs), statistics.median(ours)
            table.add(line, abscissa(name, value), number(a), number(b), f"{b / a:.2f}")
    return points


def abscissa(name: str, value: Any) -> float:
    """Where a value stands on the axis of its series."""
    if name == "size":
        return round(value[0] * value[1] / 1e6, 3)
    return 100 * value if name == "share" else value


def curves_of(kind: str) -> list[tuple[bool, str, str, str, int]]:
    """With proposals or without, label, key of the times, marker and number of the colour."""
    theirs, ours = HEADS[kind]
    return [
        (False, theirs, "detectron2_s", "s", 1),
        (False, ours, "ours_s", "o", 0),
        # The peer of the line with proposals is the same step, and its curve the same.
        (True, f"{ours}, with proposals", "ours_s", "^", 2),
    ]


def plot_series(name: str, points: Sequence[dict[str, Any]], note: str) -> Any:
    """Seconds against the setting, a panel for each head and mode: (H, W, 3) uint8 RGB."""
    series = SERIES[name]
    panels = [(kind, mode) for mode in series.modes for kind in HEADS]
    # One below the other, so that a phone shows them large enough.
    figure = new_figure(640, 100 + 280 * len(panels))
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12)
    figure.suptitle(note, fontsize=11, x=0.01, ha="left", color="0.3", parse_math=False)
    for axes, (kind, mode) in zip(figure.subplots(len(panels), 1), panels, strict=True):
        highest, ticks = 0.0, {}
        for proposals, label, key, marker, color in curves_of(kind):
            chosen = [
                p
                for p in points
                if (p["kind"], p["mode"], p.get("proposals", False)) == (kind, mode, proposals)
            ]
            if not chosen:
                continue
            x = [abscissa(name, p[name]) for p in chosen]
            y = [statistics.median(p[key]) for p in chosen]
            low = [y_ - min(p[key]) for y_, p in zip(y, chosen, strict=True)]
            high = [max(p[key]) - y_ for y_, p in zip(y, chosen, strict=True)]
            axes.errorbar(
                x, y, (low, high), color=line_color(color), marker=marker, capsize=3, label=label
            )
            highest = max([highest, *(max(p[key]) for p in chosen)])
            ticks.update({v: f"{v:.3g}" for v in x})
        if name in ("boxes", "share"):
            axes.set_xscale("log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_ylim(0, 1.3 * highest)  # The legend is above all curves.
        axes.set_xlabel(series.label, fontsize=11)
        axes.set_ylabel("seconds a batch", fontsize=11)
        what = "training step" if mode == "training" else mode
        axes.set_title(f"{HEADS[kind][1]} head, {what}", fontsize=12, loc="left")
        axes.legend(frameon=False, fontsize=11, loc="upper left", ncols=3)
        tidy_axes(axes)
    return figure_image(figure)


def note_of(name: str, machine: dict[str, Any], points: Sequence[dict[str, Any]]) -> str:
    """What stayed as it was, and where it was measured."""
    p = points[0]
    others = {
        "size": f"images of {p['size'][0]}×{p['size'][1]}",
        "boxes": f"{p['boxes']} boxes",
        "batch": f"batch {p['batch']}",
        "share": f"{p['share']:.0%} of the cells pass",
    }
    threads = f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"
    rest = ", ".join(text for key, text in others.items() if key != name)
    counts = {len(times) for p in points for times in (p["detectron2_s"], p["ours_s"])}
    least, most = min(counts), max(counts)
    repeats = f"{least} to {most} repeats" if least < most else f"{most} repeats"
    spread = f"medians of {repeats}, bars from least to most" if most > 1 else "one repeat"
    return f"{rest}\n{threads}\n{spread}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.set_defaults(output=Path("output/growth"))
    parser.add_argument("--series", nargs="+", default=list(SERIES), choices=list(SERIES))
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="for the plots")
    parser.add_argument("--plot-only", action="store_true", help="from OUTPUT/growth.json")
    parser.add_argument(
        "--tiny", action="store_true", help="two small values a series, to see that it works"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.fixed = {"size": (64, 96), "boxes": 3} if args.tiny else {}
    series = {k: v for k, v in SERIES.items() if k in args.series}
    if args.tiny:
        tiny = {"size": ((64, 96), (96, 128)), "boxes": (1, 4), "batch": (1, 2), "share": (0.1, 1)}
        series = {k: v._replace(values=tiny[k]) for k, v in series.items()}

    path = args.output / "growth.json"
    found: dict[str, Any] = {"machine": None, "results": []}
    if path.is_file():
        found = json.loads(path.read_text())
    if not args.plot_only:
        machine = describe(args.device, args.threads)
        if found["machine"] not in (None, machine):
            parser.error(f"{path} has numbers of another machine: name another --output")
        print(headline(machine, f"at most {args.repeats} repeats, medians"))
        for name, one in series.items():
            points = measure_series(name, one, machine, args)
            others = [p for p in found["results"] if p["series"] != name]
            found = {"machine": machine, "results": others + points}
            args.output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
    for name in series:
        points = [p for p in found["results"] if p["series"] == name]
        if not points:
            parser.error(f"{path} has no numbers of the series {name}: measure it first")
        picture = plot_series(name, points, note_of(name, found["machine"], points))
        save_image(picture, str(args.images / f"growth_{name}.png"))
        print(f"Plotted to {args.images / f'growth_{name}.png'}")


if __name__ == "__main__":
    main()
