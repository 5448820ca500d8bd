"""Models in a form that can be traced, and inference with either form."""

import copy
from typing import Any

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch import ProposalNetwork
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import nn

from ga_detectron2.modeling import GARetinaNet, GuidedAnchorRPN
from ga_detectron2.modeling.guided_anchoring import TRACEABLE

from .traceable_retinanet import TraceableGARetinaNet
from .traceable_rpn import TraceableGuidedAnchorRPN

# Makes plain torch.jit.trace work without make_traceable.
TRACEABLE[GARetinaNet] = TraceableGARetinaNet
TRACEABLE[GuidedAnchorRPN] = TraceableGuidedAnchorRPN


def make_traceable(model: nn.Module) -> nn.Module:
    """A model with the same weights whose guided anchors can be traced.

    Args:
        model: a ``GARetinaNet``, or any model with a ``GuidedAnchorRPN`` as its
            ``proposal_generator``; in evaluation mode.

    Raises:
        ValueError: the model is another one, or in training mode.
    """
    if model.training:
        raise ValueError("a model in training mode cannot be exported: call model.eval() first")
    if isinstance(model, GARetinaNet):
        return TraceableGARetinaNet(model)
    generator = getattr(model, "proposal_generator", None)
    if not isinstance(generator, GuidedAnchorRPN):
        raise ValueError(
            f"{type(model).__name__} cannot be exported: expected a GARetinaNet or a model whose "
            f"proposal_generator is a GuidedAnchorRPN, not {type(generator).__name__}"
        )
    traceable = copy.copy(model)
    # The copy has its own dictionary of modules, and hence its own proposal generator.
    traceable._modules = {
        **model._modules,
        "proposal_generator": TraceableGuidedAnchorRPN(generator),
    }
    return traceable.eval()


def infer(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
    """Results of a model in pixels of its input.

    Args:
        model: a ``GeneralizedRCNN``, a ``ProposalNetwork`` or a dense detector.
        batched_inputs: N times ``{"image": (C, H, W)}``.

    Returns:
        N Instances, not rescaled to ``"height"`` and ``"width"``, with masks not pasted.
    """
    if isinstance(model, GeneralizedRCNN):
        return model.inference(batched_inputs, do_postprocess=False)
    if isinstance(model, ProposalNetwork):
        return [x["proposals"] for x in model([{"image": x["image"]} for x in batched_inputs])]
    if isinstance(model, DenseDetector):
        images = model.preprocess_image(batched_inputs)
        features = model.backbone(images.tensor)
        features = [features[f] for f in model.head_in_features]
        return model.forward_inference(images, features, model.head(features))
    raise ValueError(f"results of a {type(model).__name__} are not supported")
