"""A training step on a GPU does not wait for its values, but where detectron2 asks for them.

Emulated on a CPU: every tensor says that it is on a GPU, so that our code takes the branches for
one, and each operation that would have to wait there is noted with the function that asked for it.
Copies to a GPU are not seen so, but by the test on one; what libraries wait for within an operator
by neither.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
import torchvision  # noqa: F401, registers torchvision::nms
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ga_detectron2.modeling import guided_anchoring as guided_anchoring_module
from ga_detectron2.modeling import losses as losses_module
from ga_detectron2.modeling import retinanet as retinanet_module
from ga_detectron2.modeling.feature_adaption import FeatureAdaption
from ga_detectron2.modeling.retinanet import GARetinaNetHead

from .tiny_models import BOXES, batch_of, build, tiny_config

aten = torch.ops.aten
WAITS = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal),
    # The size of what these return is a value.
    *(aten.nonzero, aten.masked_select, aten.bincount),
    *(aten._unique, aten._unique2, aten.unique_dim),
    *(aten.unique_consecutive, aten.unique_dim_consecutive),
    torch.ops.torchvision.nms,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# On a CPU there is nothing to copy, so that no operation is called.
COPIES = {Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__}


class Read(NamedTuple):
    """Who waited.

    Attributes:
        reader: the innermost function outside torch, with its module.
        via: the innermost one of this package, "" if it is not in the chain of calls.
    """

    reader: str
    via: str


class HostReads:
    """Context in which reads that a GPU would have to be waited for are counted."""

    def __init__(self) -> None:
        self.found: Counter[Read] = Counter()
        self._modes = (_Operations(self), _Copies(self))

    def __enter__(self) -> Counter[Read]:
        for mode in self._modes:
            mode.__enter__()
        return self.found

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def note(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        chain = []
        while frame is not None:
            chain.append(f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_name}")
            frame = frame.f_back
        modes = (".__torch_dispatch__", ".__torch_function__")
        reader = next(x for x in chain if not x.startswith("torch.") and not x.endswith(modes))
        via = next((x for x in chain if x.startswith("ga_detectron2.")), "")
        self.found[Read(reader, via)] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        by_counts = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if packet in WAITS or by_mask or by_counts:
            self.reads.note()
        return func(*args, **kwargs)


class _Copies(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # A torch.device is one that was passed on, and would be a GPU's.
        to_cpu = func is Tensor.to and any(
            isinstance(x, str) and x == "cpu" for x in (*args[1:], *kwargs.values())
        )
        if func in COPIES or to_cpu:
            self.reads.note()
        return func(*args, **kwargs)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor says that it is on a GPU; nothing else changes."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


# ------------------------------------------------------------------------------------ the catcher


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: "some" if x.any() else "none",
        lambda x: torch.arange(x.long().max()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu"),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.unique_consecutive(),
        lambda x: x.long().bincount(),
        lambda x: torch.equal(x, x),
        lambda x: x.repeat_interleave((x > 0).long()),
        lambda x: x.__setitem__(x > 0, torch.ones(3)),
    ],
)
def test_what_waits_is_noted(wait: Callable) -> None:
    with HostReads() as reads:
        wait(torch.arange(4.0))
    assert {x.reader.rpartition(".")[0] for x in reads} == {__name__}
    assert {x.via for x in reads} == {""}


def test_what_does_not_wait_is_not_noted() -> None:
    x = torch.arange(4.0, requires_grad=True)
    with HostReads() as reads:
        y = torch.where(x > 1, x, 0.0)[x.long()].topk(2).values
        y = y.gather(0, y.argsort()).masked_fill(y > 5, 1.0).repeat_interleave(2)
        y.to(torch.float64).sum().backward()
    assert not reads


# --------------------------------------------------------------------------------- training steps

SIZES = [(90, 120), (64, 96)]
PROPOSING = "ga_detectron2.modeling.rpn._find_top_proposals"
# Of sizes that have never been on a GPU.
OF_SIZES = Read("detectron2.structures.image_list.from_tensors", "")
OF_PROPOSALS = {
    Read(reader, PROPOSING)
    for reader in (
        "detectron2.modeling.proposal_generator.proposal_utils.find_top_rpn_proposals",
        "detectron2.structures.boxes.clip",
        "detectron2.structures.boxes.__getitem__",
        "torchvision.ops.boxes.nms",
    )
}
# The scalars that detectron2's RPN and RetinaNet have in the event storage, in one copy and only
# when they are to be written.
OF_SCALARS = Read(*[f"{guided_anchoring_module.__name__}.log_per_image"] * 2)
# fvcore's assertion about the boxes, and its values at a mask, forward and backward.
OF_GIOU = {
    Read("fvcore.nn.giou_loss.giou_loss", f"{losses_module.__name__}.box_regression_loss"),
    Read(f"{__name__}.step", ""),
}


def make_batch(device: str = "cpu") -> list[dict]:
    """Two images of different sizes, with their ground truth on the device already."""
    return [
        {**x, "image": x["image"].to(device), "instances": x["instances"].to(device)}
        for x in batch_of(SIZES, (BOXES, BOXES[2:3]))
    ]


def make_step(
    kind: str, device: str = "cpu", loss_type: str = "smooth_l1", dtype: torch.dtype = torch.float32
) -> Callable[[], tuple[dict[str, Tensor], list[Instances]]]:
    """A training step, forward and backward; of a two-stage model the proposal generator's.

    It returns losses and, where there are any, proposals.
    """
    cfg = tiny_config(kind)
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = loss_type
    # On a CPU, torchvision takes another way to NMS from 1000 boxes on.
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 150
    model = build(cfg).to(device=device, dtype=dtype).train()
    batch = make_batch(device)

    def step(storage: Any = EventStorage) -> tuple[dict[str, Tensor], list[Instances]]:
        torch.manual_seed(1)  # of the sample
        model.zero_grad()
        with storage():
            if kind == "boxes":
                images = model.preprocess_image(batch)
                ground_truth = [x["instances"] for x in batch]
                features = model.backbone(images.tensor)
                proposals, losses = model.proposal_generator(images, features, ground_truth)
            else:
                proposals, losses = [], model(batch)
        sum(losses.values()).backward()
        return losses, proposals

    step.model = model  # type: ignore[attr-defined]
    return step


@pytest.mark.parametrize(
    ("kind", "loss_type", "expected"),
    [
        ("proposals", "smooth_l1", set()),
        ("retinanet", "smooth_l1", set()),
        ("boxes", "smooth_l1", OF_PROPOSALS),
        ("proposals", "giou", OF_GIOU),
    ],
    ids=["GA-RPN without proposals", "GA-RetinaNet", "GA-RPN with proposals", "GIoU"],
)
def test_only_others_read_the_host(
    as_on_cuda: None, kind: str, loss_type: str, expected: set[Read]
) -> None:
    step = make_step(kind, loss_type=loss_type)
    step()  # what is made once, such as a grid, is not of every step
    with HostReads() as reads:
        step(lambda: EventStorage(19))
    assert set(reads) == {OF_SIZES, OF_SCALARS} | expected
    assert reads[OF_SCALARS] == 1
    with HostReads() as reads:
        step(lambda: EventStorage(18))
    assert set(reads) == {OF_SIZES} | expected
    if kind == "boxes":
        # Three scalars an image, and three masks for one with empty boxes.
        of_detectron2 = {x: reads[x] for x in OF_PROPOSALS if x.reader.startswith("detectron2.")}
        with_empty = next(v for x, v in of_detectron2.items() if x.reader.endswith("__getitem__"))
        assert sum(of_detectron2.values()) == 3 * (len(SIZES) + with_empty)


def test_a_read_of_our_code_is_found(as_on_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches for a CPU ask for the positive cells, and a number somebody might ask for."""
    step = make_step("retinanet")
    mean = retinanet_module.mean_over_workers
    monkeypatch.setattr(retinanet_module, "mean_over_workers", lambda x: mean(x) + 0 * x.item())
    with HostReads() as reads:
        step()
    found = {x for x in reads if x.via}
    ours = Read(f"{__name__}.<lambda>", f"{retinanet_module.__name__}._detection_losses")
    assert found == {ours, OF_SCALARS}

    monkeypatch.setattr(torch.Tensor, "is_cuda", False)
    with HostReads() as reads:
        step()
    assert "ga_detectron2.modeling.sparse_conv.of" in {x.reader for x in reads}
    assert "ga_detectron2.modeling.matching._near_pairs" in {x.reader for x in reads}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_a_step_on_a_gpu_does_not_wait(kind: str) -> None:
    step = make_step(kind, "cuda")
    step()  # grids are copied once, and cuDNN and cuBLAS set up
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses, _ = step(contextlib.nullcontext)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert all(x.isfinite() for x in losses.values())


# ---------------------------------------------------------------------- the branches are the same


@pytest.mark.parametrize("kind", ["retinanet", "boxes"])
def test_branches_for_a_gpu_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradients of all weights, and proposals, in float64."""
    step = make_step(kind, dtype=torch.float64)
    calls: set[str] = set()

    def spy(owner: type, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: calls.add(name) or original(*args))

    for name in ("_deform_conv", "at_cells"):
        spy(FeatureAdaption, name)
    for name in ("regress", "regress_at"):
        spy(GARetinaNetHead, name)

    def run(is_cuda: bool) -> tuple[dict[str, Tensor], list[Tensor], list[Instances], set[str]]:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", is_cuda)
            losses, proposals = step()
        weights = step.model.parameters()  # type: ignore[attr-defined]
        gradients = [x.grad for x in weights if x.grad is not None]
        return losses, gradients, proposals, set(calls)

    on_cpu, on_gpu = run(False), run(True)
    retinanet = kind == "retinanet"
    assert on_cpu[3] == ({"at_cells", "regress_at"} if retinanet else {"at_cells"})
    assert on_gpu[3] == ({"_deform_conv", "regress"} if retinanet else {"_deform_conv"})

    assert all(x > 0 for x in on_cpu[0].values())
    assert sum(bool(x.any()) for x in on_cpu[1]) > 20
    for ours, theirs in zip(on_gpu[:2], on_cpu[:2], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(on_gpu[2]) == len(on_cpu[2]) == (0 if retinanet else len(SIZES))
    for ours, theirs in zip(on_gpu[2], on_cpu[2], strict=True):
        assert len(theirs) > 50
        torch.testing.assert_close(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        torch.testing.assert_close(ours.objectness_logits, theirs.objectness_logits)
