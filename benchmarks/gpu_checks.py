"""What must be right on a GPU: the reference's numbers, and those of the same model on a CPU.

Each function returns the largest errors, and ``ok`` if they are within their tolerances. Those are
for float32 without TF32, since a GPU adds in another order: of outputs as a share of the largest
value, of losses as a share of the loss, of gradients as a share of their norm. Of the results, a
few may have no partner within 0.05 pixels: scores that are nearly equal change places in NMS.
"""

import copy
from unittest import mock

import torch
from detectron2.structures import Instances
from heads import make_boxes
from measure import no_tf32
from report import Row
from torch import Tensor, nn

from ga_detectron2 import record_guided_anchors
from ga_detectron2.modeling import GARetinaNet, GuidedAnchorRPN
from tests.modeling.golden import EVERYTHING, GoldenHead, retinanet_config, rpn_config
from tests.modeling.test_golden_models import CONFIGS as MODEL_CONFIGS
from tests.modeling.test_golden_models import load_reference
from tests.modeling.test_golden_models import run as run_with_output
from tests.modeling.test_golden_retinanet import LOSSES as RETINANET_LOSSES
from tests.modeling.test_golden_retinanet import NoBackbone
from tests.modeling.test_golden_rpn import LOSSES as RPN_LOSSES
from tests.modeling.tiny_models import (
    batch_of,
    boxes_of,
    build,
    head_of,
    infer,
    tiny_config,
    train_step,
)

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
def golden_head(name: str, device: str) -> Row:
    """Outputs, losses, gradients and results of a reference head."""
    golden = GoldenHead(name)
    golden.arrays = {k: v.to(device) for k, v in golden.arrays.items()}
    images, instances = golden.images(), golden.instances()
    if name.startswith("rpn"):
        prefix, loss_names, features = "proposal_generator.", RPN_LOSSES, golden.features(2)
        model = head = GuidedAnchorRPN(rpn_config(), golden.input_shape(2)).to(device)

        def run() -> tuple[list[Instances], dict[str, Tensor]]:
            return model(images, features, instances if model.training else None)
    else:
        prefix, loss_names, features = "head.", RETINANET_LOSSES, golden.features(3)
        backbone = NoBackbone(golden.input_shape(3))
        with mock.patch("ga_detectron2.modeling.retinanet.build_backbone", return_value=backbone):
            model = GARetinaNet(retinanet_config(golden["train.cls.0"].shape[1])).to(device)
        head, maps = model.head, list(features.values())

        def run() -> tuple[list[Instances], dict[str, Tensor]]:
            if model.training:
                return [], model.forward_training(images, maps, head(maps), instances)
            return model.forward_inference(images, maps, head(maps)), {}

    head.load_state_dict(golden.converted("weight.", prefix))
    with record_guided_anchors(model) as records:
        _, losses = run()
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad():
        results, _ = run()
    found = {f"feature.{i}": x.grad for i, x in enumerate(features.values())}
    found.update((k, p.grad) for k, p in head.named_parameters())
    gradients = {f"feature.{i}": x for i, x in enumerate(golden.levels("grad.feature"))}
    gradients.update(golden.converted("grad.", prefix))
    outputs = {"loc": records[0].loc_logits[..., None], "shape": records[0].shape_deltas}
    return judge(
        GOLDEN,
        outputs=max(
            relative_error(
                x, torch.cat([y.flatten(2).mT for y in golden.levels(f"train.{key}")], dim=1)
            )
            for key, x in outputs.items()
        ),
        losses=max(loss_error(losses[k], golden[key]) for k, key in loss_names.items()),
        gradients=gradient_error(found, gradients),
        unmatched=max(
            unmatched(
                *boxes_and_scores(x), golden[f"result.boxes.{n}"], golden[f"result.scores.{n}"]
            )
            for n, x in enumerate(results)
        ),
    )


@no_tf32()
def golden_model(name: str, device: str) -> Row:
    """Pyramid features and results of a whole reference detector on one image."""
    arrays, model, inputs = load_reference(name)
    features, output = run_with_output(model.to(device), model.backbone, inputs)
    (results,) = output.values()
    return judge(
        GOLDEN,
        outputs=max(
            relative_error(features[k][0, ::16].cpu(), arrays[f"feature.{i}"])
            for i, k in enumerate(sorted(features))
        ),
        unmatched=unmatched(*boxes_and_scores(results), arrays["boxes"], arrays["scores"]),
    )


# ------------------------------------------------------------------------------- against a CPU


@no_tf32()
def against_cpu(kind: str, device: str, seed: int = 0, boxes: int = 12, side: int = 160) -> Row:
    """Losses, gradients and results on a random batch of images of up to ``side`` pixels."""
    cpu = make_model(kind)
    gpu = copy.deepcopy(cpu).to(device)
    torch.manual_seed(seed)
    sizes = [tuple(x) for x in torch.randint(60, side + 1, (3, 2)).tolist()]
    drawn = [make_boxes(size, boxes, "cpu").gt_boxes.tensor.long().tolist() for size in sizes]
    batch = batch_of(sizes, drawn)
    expected, found = train_step(cpu, batch), train_step(gpu, batch)
    for losses in (expected, found):
        sum(losses.values()).backward()
    gradients = gradient_error(gradients_of(gpu), gradients_of(cpu))
    pairs = zip(infer(gpu, batch), infer(cpu, batch), strict=True)
    return judge(
        WITH_PROPOSALS if kind == "boxes" else AGAINST_CPU,
        losses=max(loss_error(found[k], expected[k]) for k in expected),
        gradients=gradients,
        unmatched=max(unmatched(*boxes_and_scores(x), *boxes_and_scores(y)) for x, y in pairs),
    )


def no_location(kind: str, device: str) -> Row:
    """Inference where no cell passes the location filter: results without boxes."""
    model = make_model(kind).to(device)
    nn.init.constant_(head_of(model).anchor_loc.bias, -100.0)
    count = sum(len(x) for x in infer(model, batch_of([(90, 120), (64, 96)])))
    return {"results": count, "ok": count == 0}


def amp(kind: str, device: str, dtype: torch.dtype) -> Row:
    """Losses under autocast against those in float32, and finite gradients and results."""
    batch = batch_of([(90, 120), (64, 96)])
    model = make_model(kind).to(device)
    expected = train_step(model, batch)
    with torch.autocast(torch.device(device).type, dtype):
        found = train_step(model, batch)
        results = infer(model, batch)
    # Scaled, as in training: small gradients would be 0 in float16.
    (2.0**8 * sum(found.values())).backward()
    values = [*gradients_of(model).values(), *(x for r in results for x in boxes_and_scores(r))]
    finite = all(bool(x.isfinite().all()) for x in values)
    error = max(loss_error(found[k], expected[k], atol=1e-2) for k in expected)
    return {"losses": error, "finite": finite, "ok": finite and error < AMP_LOSSES}


def make_model(kind: str) -> nn.Module:
    """A narrow model whose samples hold every cell and box, so that nothing is random."""
    cfg = tiny_config(kind, sample_everything=True)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = EVERYTHING
    return build(cfg)


def boxes_and_scores(x: Instances) -> tuple[Tensor, Tensor]:
    return boxes_of(x), x.scores if x.has("scores") else x.objectness_logits.sigmoid()


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------- errors


def judge(limits: dict[str, float], **errors: float) -> Row:
    return {**errors, "ok": all(error <= limits[name] for name, error in errors.items())}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def loss_error(found: Tensor, expected: Tensor, atol: float = 1e-8) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
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
