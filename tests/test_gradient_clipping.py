"""Clipping over the whole model, against torch's own clip_grad_norm_."""

import copy

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import build_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping

import ga_detectron2  # noqa: F401 - makes CLIP_TYPE full_model known


def config(**clip: object) -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.5
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1  # a second parameter group
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    for key, value in clip.items():
        cfg.SOLVER.CLIP_GRADIENTS[key] = value
    return cfg


def model_with_gradients(scale: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3), torch.nn.Linear(3, 3)
    )
    model[3].weight.requires_grad = False
    loss = model(torch.randn(5, 4)).square().sum()
    (loss * scale).backward()
    return model


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_clips_all_gradients_together(max_norm: float, norm_type: float) -> None:
    cfg = config(CLIP_TYPE="full_model", CLIP_VALUE=max_norm, NORM_TYPE=norm_type)
    model = model_with_gradients()
    reference = copy.deepcopy(model)
    for p, q in zip(reference.parameters(), model.parameters(), strict=True):
        p.grad = None if q.grad is None else q.grad.clone()

    build_optimizer(cfg, model).step()

    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), max_norm, norm_type)
    assert (norm > max_norm) == (max_norm < 1)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    build_optimizer(cfg, reference).step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    if max_norm < 1:
        after = torch.stack([p.grad.norm(norm_type) for p in model.parameters() if p.requires_grad])
        torch.testing.assert_close(after.norm(norm_type), torch.tensor(max_norm))


def test_other_clip_types_are_unchanged() -> None:
    """ "norm" allows each parameter the norm that "full_model" allows the whole model."""
    alone, together = model_with_gradients(), model_with_gradients()
    build_optimizer(config(CLIP_TYPE="norm", CLIP_VALUE=0.5), alone).step()
    build_optimizer(config(CLIP_TYPE="full_model", CLIP_VALUE=0.5), together).step()
    norms = [p.grad.norm().item() for p in alone.parameters() if p.requires_grad]
    assert norms == pytest.approx([min(n, 0.5) for n in norms])
    assert sum(n**2 for n in norms) ** 0.5 > 0.6
    assert not torch.equal(alone[0].weight, together[0].weight)


def test_mixed_precision_clips_gradients_without_their_scale() -> None:
    cfg = config(CLIP_TYPE="full_model", CLIP_VALUE=0.5)
    plain, scaled = model_with_gradients(), model_with_gradients(scale=2.0**10)
    build_optimizer(cfg, plain).step()
    optimizer = build_optimizer(cfg, scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(torch.zeros(()))  # sets the scale up, as scaling a loss does
    scaler.step(optimizer)
    scaler.update()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q)

    # A gradient that overflowed skips the step, rather than turning every weight to NaN.
    before = [p.detach().clone() for p in scaled.parameters()]
    scaled[0].weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(before, scaled.parameters(), strict=True))


def test_clipping_with_a_scheduler_and_a_resumed_state() -> None:
    """Schedulers wrap step(), and resuming loads a state into a new optimizer."""
    cfg = config(CLIP_TYPE="full_model", CLIP_VALUE=0.5)
    model = model_with_gradients()
    optimizer = build_optimizer(cfg, model)
    optimizer.load_state_dict(build_optimizer(cfg, model).state_dict())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer.step()
    norms = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(norms.norm(), torch.tensor(0.5))


def test_unknown_clip_type_is_refused_by_detectron2() -> None:
    with pytest.raises(ValueError, match="'full' is not a valid GradientClipType"):
        build_optimizer(config(CLIP_TYPE="full"), model_with_gradients())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_of_other_projects_are_clipped(kind: type[torch.optim.Optimizer]) -> None:
    """maybe_add_gradient_clipping was imported here before the package."""
    model = model_with_gradients()
    clipped = maybe_add_gradient_clipping(config(CLIP_TYPE="full_model", CLIP_VALUE=0.5), kind)
    assert issubclass(clipped, kind)
    clipped(model.parameters(), lr=0.1).step()
    norms = torch.stack([p.grad.norm() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(norms.norm(), torch.tensor(0.5))
