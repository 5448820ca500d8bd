"""torch.compile of backbone, heads and losses: does it pay, and what does it take first?

    python benchmarks/compile.py [--subjects backbone rpn_head ...] [--sizes 480x800 512x768 ...]

Every subject is a part of an R-50 model, as it is and compiled by inductor, taking turns, at the
first of the sizes. *compile* is the time of the first call, less one of the uncompiled kind; *graph
breaks* are places where Python takes over. Then the other sizes follow in order, and *new graphs*
says how many were compiled at each, and *new size* the longest first call at one: a detector sees
images of many sizes. In inference the backbone is compiled as TEST.COMPILE_BACKBONE does it, for
all sizes at once; in training its residual network alone is, and the times are those of the whole
backbone. Without a C++ compiler, or where
inductor fails or takes longer than --limit, the line says so. A line is a process of its own, which
finds nothing compiled before. On two CPU cores inductor works on a backbone for minutes, since
nearly every layer becomes a C++ file.
"""

import argparse
import copy
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from heads import make_boxes, set_share
from measure import (
    Table,
    add_common_arguments,
    describe,
    headline,
    in_own_process,
    number,
    seconds,
    take_turns,
    write_json,
)
from torch import Tensor, nn

from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling.compilation import compile_backbone

BOXES = 60
SHARE = 0.05


class Subject:
    """A part of a model: how to call it, for any image size, with gradients or without."""

    def __init__(self, name: str, model: nn.Module, mode: str, args: argparse.Namespace):
        self.name, self.model, self.mode, self.device = name, model, mode, args.device
        self.call: Callable[..., Any] = self._find(name)
        self.inputs = getattr(self, f"_{name}_inputs")

    def _find(self, name: str) -> Callable[..., Any]:
        if name == "backbone":
            return self.model.backbone
        if name == "rpn_head":
            return self.model.proposal_generator.rpn_head
        if name == "rpn":
            return self.model.proposal_generator
        return self.model.head

    def compile(self, backend: str) -> Callable[..., Any]:
        """What to call instead."""
        if self.name != "backbone":
            return torch.compile(self.call, backend=backend)
        model = copy.deepcopy(self.model)
        if self.mode == "inference":
            compile_backbone(model, backend=backend)
        else:
            # What inductor of torch 2.3 writes for the pyramid in training, no compiler takes.
            model.backbone.bottom_up.compile(backend=backend, dynamic=True)
        return model.backbone

    def _images(self, size: tuple[int, int]) -> Tensor:
        height, width = (-(-s // 32) * 32 for s in size)
        torch.manual_seed(0)
        return torch.randn(1, 3, height, width, device=self.device)

    @torch.no_grad()
    def _features(self, size: tuple[int, int]) -> dict[str, Tensor]:
        # The backbone of random weights is slow and its maps no better than noise.
        shapes = self.model.backbone.output_shape()
        height, width = self._images(size).shape[2:]
        return {
            name: torch.randn(
                1,
                shape.channels,
                -(-height // shape.stride),
                -(-width // shape.stride),
                device=self.device,
            )
            .relu_()
            .requires_grad_(self.mode == "training")
            for name, shape in shapes.items()
        }

    def _backbone_inputs(self, size: tuple[int, int]) -> tuple:
        return (self._images(size),)

    def _rpn_head_inputs(self, size: tuple[int, int]) -> tuple:
        return (list(self._features(size).values()),)

    _retinanet_head_inputs = _rpn_head_inputs

    def _rpn_inputs(self, size: tuple[int, int]) -> tuple:
        images = ImageList(self._images(size), [size])
        boxes = [make_boxes(size, BOXES, self.device)] if self.mode == "training" else None
        return images, self._features(size), boxes

    def step(self, call: Callable[..., Any], size: tuple[int, int]) -> Callable[[], None]:
        """One call at a size; in training with a backward pass from everything it returns."""
        inputs = self.inputs(size)
        if isinstance(call, nn.Module):
            call.train(self.mode == "training")
        self.model.train(self.mode == "training")

        def run() -> None:
            if self.mode == "inference":
                with torch.no_grad():
                    call(*inputs)
                return
            with EventStorage(0):
                total = sum(x.float().sum() for x in differentiable(call(*inputs)))
            assert isinstance(total, Tensor)
            total.backward()
            self.model.zero_grad(set_to_none=True)
            if isinstance(call, nn.Module):
                call.zero_grad(set_to_none=True)

        return run


def differentiable(output: Any) -> list[Tensor]:
    """All tensors with a gradient, within lists, tuples and dicts."""
    if isinstance(output, Tensor):
        return [output] if output.requires_grad else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [x for part in output for x in differentiable(part)]
    return []


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def measure_subject(
    name: str, mode: str, sizes: Sequence[tuple[int, int]], args: argparse.Namespace
) -> dict[str, Any]:
    """All numbers of a line; ``error`` where compilation failed."""
    with tempfile.TemporaryDirectory() as folder:
        # What an earlier run compiled must not be found.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        return _measure_subject(name, mode, sizes, args)


def _measure_subject(
    name: str, mode: str, sizes: Sequence[tuple[int, int]], args: argparse.Namespace
) -> dict[str, Any]:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = build_model(make_config(name, args)).to(args.device).eval()
    subject = Subject(name, model, mode, args)
    result: dict[str, Any] = {"subject": name, "mode": mode, "sizes": list(sizes)}
    if name == "rpn":
        images, features, _ = Subject(name, model, "inference", args).inputs(sizes[0])
        generator = model.proposal_generator
        set_share(generator, generator.rpn_head, lambda: generator(images, features), SHARE)
    eager = subject.step(subject.call, sizes[0])
    eager()
    try:
        compiled_call = subject.compile(args.backend)
        compiled = subject.step(compiled_call, sizes[0])
        first = seconds(compiled, args.device)
        first_graphs, breaks = graphs(), sum(torch._dynamo.utils.counters["graph_break"].values())
        times = take_turns([eager, compiled], args.repeats, args.device, limit=args.seconds)
        new_graphs, new_seconds = [], []
        for size in sizes[1:]:
            step, before = subject.step(compiled_call, size), graphs()
            new_seconds.append(seconds(step, args.device))
            new_graphs.append(graphs() - before)
    except Exception as error:  # Whatever a compiler may raise is a result here.
        # The compiler's own words come after a line that names it.
        reason = " ".join(str(error).strip().splitlines()[:2])
        return {**result, "error": f"{type(error).__name__}: {reason}"[:200]}
    return {
        **result,
        "eager_s": times[0],
        "compiled_s": times[1],
        "compile_s": first - statistics.median(times[0]),
        "graphs": first_graphs,
        "graph_breaks": breaks,
        "new_graphs": new_graphs,
        "new_size_s": new_seconds,
    }


def make_config(name: str, args: argparse.Namespace) -> CfgNode:
    cfg = get_config("ga_retinanet_R_50" if name == "retinanet_head" else "ga_rpn_R_50")
    cfg.MODEL.DEVICE = args.device
    cfg.merge_from_list(list(args.opts))
    return cfg


def add_row(table: Table, line: dict[str, Any]) -> None:
    part = line["subject"]
    if part == "backbone" and line["mode"] == "training":
        part += ", its residual network alone compiled"
    first = [part, line["mode"], "x".join(map(str, line["sizes"][0]))]
    if "error" in line:
        table.add(*first, line["error"], *[""] * 7)
        return
    eager, compiled = (statistics.median(line[k]) for k in ("eager_s", "compiled_s"))
    table.add(
        *first,
        number(eager),
        number(compiled),
        f"{compiled / eager:.2f}",
        number(line["compile_s"]),
        line["graphs"],
        line["graph_breaks"],
        ", ".join(map(str, line["new_graphs"])),
        number(max(line["new_size_s"], default=None)),
    )


def size_of(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=7)
    subjects = ("backbone", "rpn_head", "rpn", "retinanet_head")
    parser.add_argument("--subjects", nargs="+", default=subjects, choices=subjects)
    modes = ("inference", "training")
    parser.add_argument("--modes", nargs="+", default=modes, choices=modes)
    parser.add_argument(
        "--sizes",
        type=size_of,
        nargs="+",
        default=[size_of(x) for x in ("480x800", "512x768", "640x640")],
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds for a line, at most")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values of the configs"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    compiler = os.environ.get("CXX", "g++")
    note = f"backend {args.backend}, C++ compiler {compiler}, at most {args.repeats} repeats"
    print(headline(machine, note, f"sizes {args.sizes}, medians, seconds") + "\n")
    table = Table(
        "part of R-50",
        "",
        "size",
        "eager",
        "compiled",
        "ratio",
        "compile",
        "graphs",
        "graph breaks",
        "new graphs",
        "new size",
        text_columns=3,
    )
    results = []
    for name in args.subjects:
        for mode in args.modes:
            try:
                line = in_own_process(
                    measure_subject,
                    name,
                    mode,
                    args.sizes,
                    args,
                    threads=args.threads,
                    limit=args.limit,
                )
            except TimeoutError as error:
                case = {"subject": name, "mode": mode, "sizes": args.sizes}
                line = {**case, "error": str(error)}
            results.append(line)
            add_row(table, results[-1])
            write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
