"""What must be right on a GPU: the reference's numbers, and those of the same model on a CPU.

Each function returns the largest errors, and ``ok`` if they are within their tolerances. Those are
for float32 without TF32, since a GPU adds in another order: of outputs as a share of the largest
value, of losses as a share of the loss, of gradients as a share of their norm. Of the results, a
few may have no partner within 0.05 pixels: scores that are nearly equal change places in NMS.
"""

import copy
import random
from collections.abc import Iterable
from typing import Any
from unittest import mock

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from measure import no_tf32
from torch import Tensor, nn

from ga_detectron2.modeling.retinanet import GARetinaNet
from ga_detectron2.modeling.rpn import GuidedAnchorRPN
from tests.modeling.golden import GoldenHead, retinanet_config, rpn_config
from tests.modeling.test_golden_models import CONFIGS as MODEL_CONFIGS
from tests.modeling.test_golden_models import load_reference
from tests.modeling.test_golden_retinanet import LOSSES as RETINANET_LOSSES
from tests.modeling.test_golden_retinanet import NoBackbone
from tests.modeling.test_golden_rpn import LOSSES as RPN_LOSSES
from tests.modeling.tiny_models import batch_of, build, tiny_config

PIXELS = 0.05
GOLDEN = {"outputs": 5e-4, "losses": 1e-4, "gradients": 1e-3, "unmatched": 0.01}
# An IoU at a threshold may fall on either side of it.
AGAINST_CPU = {"losses": 1e-3, "gradients": 1e-2, "unmatched": 0.02}
# And proposals of nearly equal scores change places, which the ROI heads learn from.
WITH_PROPOSALS = {"losses": 2e-2, "gradients": 1e-1, "unmatched": 0.05}
AMP_LOSSES = 0.2  # of the float32 loss, in float16 and bfloat16
GOLDEN_HEADS = ("rpn_seed1", "rpn_seed2", "retinanet_seed1", "retinanet_seed2")
GOLDEN_MODELS = tuple(sorted(MODEL_CONFIGS, reverse=True))
KINDS = {"proposals": "GA-RPN", "boxes": "GA-Faster R-CNN", "retinanet": "GA-RetinaNet"}


# ------------------------------------------------------------------------------- the reference


@no_tf32()
def golden_head(name: str, device: str) -> dict[str, Any]:
    """Outputs, losses, gradients and results of a reference head."""
    golden = GoldenHead(name)
    golden.arrays = {k: v.to(device) for k, v in golden.arrays.items()}
    evaluate = _golden_rpn if name.startswith("rpn") else _golden_retinanet
    model, prefix, features, loc, shape, losses, results = evaluate(golden, device)
    expected = RPN_LOSSES if name.startswith("rpn") else RETINANET_LOSSES
    sum(losses.values()).backward()
    found = {f"feature.{i}": x.grad for i, x in enumerate(features.values())}
    found.update((k, p.grad) for k, p in model.named_parameters())
    gradients = {f"feature.{i}": x for i, x in enumerate(golden.levels("grad.feature"))}
    gradients.update(golden.converted("grad.", prefix))
    return judge(
        GOLDEN,
        outputs=max(
            relative_error(ours, torch.cat([x.flatten(2).mT for x in golden.levels(key)], dim=1))
            for key, ours in (("train.loc", loc[..., None]), ("train.shape", shape))
        ),
        losses=max(loss_error(losses[k], golden[key]) for k, key in expected.items()),
        gradients=gradient_error(found, gradients),
        unmatched=max(
            unmatched(*ours, golden[f"result.boxes.{n}"], golden[f"result.scores.{n}"])
            for n, ours in enumerate(results)
        ),
    )


def _golden_rpn(golden: GoldenHead, device: str) -> tuple:
    prefix = "proposal_generator."
    model = GuidedAnchorRPN(rpn_config(), golden.input_shape(2)).to(device)
    model.load_state_dict(golden.converted("weight.", prefix))
    features = golden.features(2)
    with torch.no_grad():
        _, loc, shape = model.rpn_head(list(features.values()))
        results, _ = model.eval()(golden.images(), features)
    _, losses = model.train()(golden.images(), features, golden.instances())
    pairs = [(x.proposal_boxes.tensor, x.objectness_logits.sigmoid()) for x in results]
    return model, prefix, features, loc, shape, losses, pairs


def _golden_retinanet(golden: GoldenHead, device: str) -> tuple:
    cfg = retinanet_config(golden["train.cls.0"].shape[1])
    backbone = NoBackbone(golden.input_shape(3))
    with mock.patch("ga_detectron2.modeling.retinanet.build_backbone", return_value=backbone):
        model = GARetinaNet(cfg).to(device)
    model.head.load_state_dict(golden.converted("weight.", "head."))
    features = golden.features(3)
    maps = list(features.values())
    output = model.head(maps)
    losses = model.forward_training(golden.images(), maps, output, golden.instances())
    with torch.no_grad():
        results = model.eval().forward_inference(golden.images(), maps, model.head(maps))
    pairs = [(x.pred_boxes.tensor, x.scores) for x in results]
    loc, shape = output.loc_logits.detach(), output.shape_deltas.detach()
    return model.head, "head.", features, loc, shape, losses, pairs


@no_tf32()
def golden_model(name: str, device: str) -> dict[str, Any]:
    """Pyramid features and results of a whole reference detector on one image."""
    arrays, model, inputs = load_reference(name)
    arrays = {k: v.to(device) for k, v in arrays.items()}
    model.to(device)
    caught: list[dict[str, Tensor]] = []
    model.backbone.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    ((boxes, scores),) = infer(model, inputs)
    (features,) = caught
    return judge(
        GOLDEN,
        outputs=max(
            relative_error(features[k][0, ::16], arrays[f"feature.{i}"])
            for i, k in enumerate(sorted(features))
        ),
        unmatched=unmatched(boxes, scores, arrays["boxes"], arrays["scores"]),
    )


# ------------------------------------------------------------------------------- against a CPU


@no_tf32()
def against_cpu(
    kind: str, device: str, seed: int = 0, boxes: bool = True, side: int = 160
) -> dict[str, Any]:
    """Losses, gradients and results on a random batch of images of up to ``side`` pixels."""
    rng = random.Random(seed)
    sizes = [(rng.randint(60, side), rng.randint(60, side)) for _ in range(3)]
    batch = batch_of(sizes, [draw_boxes(rng, size) if boxes else [] for size in sizes])
    cpu = make_model(kind)
    gpu = copy.deepcopy(cpu).to(device)
    expected, found = train_step(cpu, batch), train_step(gpu, to_device(batch, device))
    gradients = gradient_error(dict(gradients_of(gpu)), dict(gradients_of(cpu)))
    pairs = zip(infer(gpu, batch), infer(cpu, batch), strict=True)
    return judge(
        WITH_PROPOSALS if kind == "boxes" else AGAINST_CPU,
        losses=max(loss_error(found[k], expected[k]) for k in expected),
        gradients=gradients,
        unmatched=max(unmatched(*ours, *theirs) for ours, theirs in pairs),
    )


def no_location(kind: str, device: str) -> dict[str, Any]:
    """Inference where no cell passes the location filter: results without boxes."""
    model = make_model(kind).to(device)
    head = model.head if kind == "retinanet" else model.proposal_generator.rpn_head
    nn.init.constant_(head.anchor_loc.bias, -50.0)
    count = sum(len(boxes) for boxes, _ in infer(model, batch_of([(90, 120), (64, 96)])))
    return {"results": count, "ok": count == 0}


def amp(kind: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Losses under autocast against those in float32, and finite gradients and results."""
    batch = to_device(batch_of([(90, 120), (64, 96)]), device)
    model = make_model(kind).to(device)
    expected = train_step(model, batch)
    kind_of_device = torch.device(device).type
    scaler = torch.amp.GradScaler(kind_of_device, 2.0**8, enabled=dtype == torch.float16)
    model.zero_grad()
    with torch.autocast(kind_of_device, dtype):
        found = train_step(model, batch, scaler)
    finite = all(x.isfinite().all() for _, x in gradients_of(model))
    with torch.autocast(kind_of_device, dtype):
        results = infer(model, batch)
    finite &= all(x.isfinite().all() for pair in results for x in pair)
    error = max(loss_error(found[k], expected[k], atol=1e-2) for k in expected)
    return {"losses": error, "finite": bool(finite), "ok": bool(finite) and error < AMP_LOSSES}


def make_model(kind: str) -> nn.Module:
    """A narrow model whose samples hold every cell and box, so that nothing is random."""
    cfg = tiny_config(kind)
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 10**6
    cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = 10**6
    torch.manual_seed(0)
    return build(cfg)


def draw_boxes(rng: random.Random, size: tuple[int, int]) -> list[list[int]]:
    """Up to twelve boxes [x1, y1, x2, y2] within an image."""
    height, width = size
    boxes = []
    for _ in range(rng.randint(0, 12)):
        x, y = rng.randint(0, width - 10), rng.randint(0, height - 10)
        boxes.append([x, y, rng.randint(x + 8, width), rng.randint(y + 8, height)])
    return boxes


def to_device(batch: list[dict], device: str) -> list[dict]:
    return [
        {**x, "image": x["image"].to(device), "instances": x["instances"].to(device)} for x in batch
    ]


def train_step(
    model: nn.Module, batch: list[dict], scaler: torch.amp.GradScaler | None = None
) -> dict[str, Tensor]:
    """Losses; gradients are left in the model."""
    model.train()
    with EventStorage():
        losses = model(batch)
    total = sum(losses.values())
    (scaler.scale(total) if scaler else total).backward()
    return {k: v.detach() for k, v in losses.items()}


def infer(model: nn.Module, batch: list[dict]) -> list[tuple[Tensor, Tensor]]:
    """Boxes and scores of each image."""
    model.eval()
    with torch.no_grad():
        return [boxes_and_scores(x) for x in model(batch)]


def boxes_and_scores(output: dict[str, Instances]) -> tuple[Tensor, Tensor]:
    (x,) = output.values()
    if x.has("proposal_boxes"):
        return x.proposal_boxes.tensor, x.objectness_logits.sigmoid()
    return x.pred_boxes.tensor, x.scores


def gradients_of(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((k, p.grad) for k, p in model.named_parameters() if p.grad is not None)


# ------------------------------------------------------------------------------- errors


def judge(limits: dict[str, float], **errors: float) -> dict[str, Any]:
    return {**errors, "ok": all(error <= limits[name] for name, error in errors.items())}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def loss_error(found: Tensor, expected: Tensor, atol: float = 1e-8) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float(((found - expected).abs() - atol).clamp(min=0) / expected.abs().clamp(min=1e-9))


def gradient_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference in norm, as a share of the norm (of one millionth of the largest)."""
    least = 1e-6 * max(float(x.norm()) for x in expected.values())
    errors = []
    for name, x in expected.items():
        ours = found.get(name)
        ours = torch.zeros_like(x) if ours is None else ours.to(x)
        errors.append(float((ours - x).norm()) / max(float(x.norm()), least))
    return max(errors)


def unmatched(boxes: Tensor, scores: Tensor, their_boxes: Tensor, their_scores: Tensor) -> float:
    """Share of the results that the other side does not have."""
    boxes, scores = boxes.double().cpu(), scores.double().cpu()
    their_boxes, their_scores = their_boxes.double().cpu(), their_scores.double().cpu()
    if not len(boxes) or not len(their_boxes):
        return float(len(boxes) != len(their_boxes))
    same = (boxes[:, None] - their_boxes).abs().amax(dim=2) < PIXELS
    same &= (scores[:, None] - their_scores).abs() < 1e-3
    alone = int((~same.any(dim=0)).sum() + (~same.any(dim=1)).sum())
    return alone / (len(boxes) + len(their_boxes))
