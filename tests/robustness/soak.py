"""Training steps on extreme boxes, sizes and outputs, whose losses and gradients must be finite.

A step draws everything from its number: image sizes, 0 to 500 boxes an image (some without area,
inverted, outside, huge, tiny, NaN), layer values at which the head's outputs reach ±1e4, kinds of
losses, float32 or bfloat16 autocast. Models are whole detectors with 8 to 16 channels.
"""

import functools
import math
import random
from collections import Counter
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import TransformList
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from ga_detectron2.model_zoo import get_config

CONFIGS = {"rpn": "ga_rpn_R_50", "faster": "ga_faster_R_50", "retinanet": "ga_retinanet_R_50"}
MOST_BOXES = 500
MOST_PIXELS = 128
NUM_CLASSES = 3
LOSSES = ("smooth_l1", "giou", "diou", "ciou")
EXTREME = 1e4
# What a box can be; "box" comes as often as all others together.
KINDS = ("flat", "point", "turned", "outside", "covering", "huge", "tiny", "nan", "inf", "twin")


@BACKBONE_REGISTRY.register()
class PooledImage(Backbone):
    """Five levels, each the pooled image through one 1x1 convolution: as cheap as can be."""

    def __init__(self, cfg: CfgNode, _input_shape: ShapeSpec):
        super().__init__()
        self.channels = cfg.MODEL.FPN.OUT_CHANNELS
        first = 3 if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet" else 2
        self.strides = {f"p{i}": 2**i for i in range(first, first + 5)}
        self.layer = nn.Conv2d(3, self.channels, 1)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides by the names of the levels."""
        return {k: ShapeSpec(channels=self.channels, stride=s) for k, s in self.strides.items()}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels by name for images (N, 3, H, W)."""
        return {
            k: self.layer(F.avg_pool2d(images, s, ceil_mode=True)) for k, s in self.strides.items()
        }


@functools.cache
def read_config(family: str) -> CfgNode:
    return get_config(CONFIGS[family])


def draw_model(rng: random.Random, family: str) -> nn.Module:
    cfg = read_config(family).clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = PooledImage.__name__
    cfg.MODEL.FPN.OUT_CHANNELS = rng.choice((8, 12, 16))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 2
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE = rng.choice(LOSSES)
    cfg.MODEL.GUIDED_ANCHOR.SHAPE_LOSS_BETA = rng.choice((0.2, 0.0))
    cfg.MODEL.GUIDED_ANCHOR.SHAPE_REG_WEIGHTS = rng.choice(([1.0, 1.0], [1 / 0.14, 1 / 0.14]))
    cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = rng.choice((1, 32, 256))
    cfg.MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU = rng.choice((0.0, *[0.3, 0.4] * 4))
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = rng.choice((1, 32, 256))
    model = build_model(cfg).train()
    head = model.head if family == "retinanet" else model.proposal_generator.rpn_head
    with torch.no_grad():
        for layer in head.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(rng.choice((1.0, 1.0, 10.0, 100.0)))
        _push(rng, head.anchor_shape)
        for name in ("anchor_loc", "objectness_logits", "anchor_deltas", "cls_score", "bbox_pred"):
            if hasattr(head, name) and rng.random() < 0.2:
                _push(rng, getattr(head, name))
    return model


def _push(rng: random.Random, layer: nn.Conv2d) -> None:
    """Let a layer put out anything up to about ±1e4: from its bias, or from its weights."""
    assert layer.bias is not None
    choice = rng.random()
    if choice < 0.4:
        for i in range(len(layer.bias)):
            layer.bias[i] = rng.choice((0.0, 1.0, -1.0)) * EXTREME ** rng.random()
    elif choice < 0.6:
        for i in range(len(layer.bias)):
            layer.bias[i] = rng.choice((-EXTREME, EXTREME))
    elif choice < 0.8:
        layer.weight.normal_(std=EXTREME ** rng.random() / 100)


def draw_box(rng: random.Random, height: int, width: int, kind: str) -> list[float]:
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    w, h = (max(width, height) ** rng.random() for _ in range(2))
    box = [x, y, x + w, y + h]
    if kind == "flat":
        box[rng.choice((2, 3))] = rng.choice((x, y))
        box = [x, y, x, y + h] if rng.random() < 0.5 else [x, y, x + w, y]
    elif kind == "point":
        box = [x, y, x, y]
    elif kind == "turned":
        box = [x + w, y, x, y + h] if rng.random() < 0.5 else [x + w, y + h, x, y]
    elif kind == "outside":
        far = rng.choice((-1, 1)) * 10 ** rng.uniform(2, 6)
        box = [x + far, y, x + far + w, y + h]
    elif kind == "covering":
        box = [0.0, 0.0, float(width), float(height)]
    elif kind == "huge":
        far = 10 ** rng.uniform(4, 38)
        box = [-far, -far * rng.random(), far, far * rng.random()]
    elif kind == "tiny":
        size = 10 ** rng.uniform(-40, 0)
        x, y = rng.choice(((0.0, 0.0), (x, y)))
        box = [x, y, x + size, y + size * rng.random()]
    elif kind in ("nan", "inf"):
        for i in rng.sample(range(4), rng.randint(1, 4)):
            box[i] = math.nan if kind == "nan" else rng.choice((math.inf, -math.inf))
    elif kind == "twin":  # on the corners of cells, so that many cells tie
        box = [rng.randrange(0, 64, 8) + s for s in (0, 0, 32, 32)]
    return box


def as_mapped(instances: Instances) -> Instances:
    """What detectron2's ``DatasetMapper`` leaves of boxes: clipped, and none without an area.

    Its ROI heads take boxes as they are: bad ones end in an AssertionError of its matcher, or in
    ``roi_align`` without memory or with a segmentation fault.
    """
    annotations = [
        {
            "bbox": box.numpy().astype(float),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(label),
        }
        for box, label in zip(instances.gt_boxes.tensor, instances.gt_classes, strict=True)
    ]
    size = instances.image_size
    for annotation in annotations:
        utils.transform_instance_annotations(annotation, TransformList([]), size)
    return utils.filter_empty_instances(utils.annotations_to_instances(annotations, size))


def draw_image(rng: random.Random, drawn: Counter) -> dict[str, Any]:
    height, width = (max(1, round(MOST_PIXELS ** rng.random())) for _ in range(2))
    number = rng.choice((0, 1, round(MOST_BOXES ** rng.random()), rng.randint(0, MOST_BOXES)))
    # Few images hold all sorts: a bad box must not hide behind good ones, nor the reverse.
    only = rng.choice((None, "box", *KINDS))
    kinds = [only or rng.choice(("box", rng.choice(KINDS))) for _ in range(number)]
    drawn.update(kinds)
    boxes = [draw_box(rng, height, width, kind) for kind in kinds]
    image = torch.rand(3, height, width) * 255 * rng.choice((0, 1, 1))
    instances = Instances(
        (height, width),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float64).float().reshape(-1, 4)),
        gt_classes=torch.randint(NUM_CLASSES, (number,)),
    )
    return {"image": image, "height": height, "width": width, "instances": instances}


def run_step(family: str, number: int, drawn: Counter) -> list[str]:
    """What was not finite in this step; nothing, as it should be."""
    rng = random.Random(number)
    torch.manual_seed(number)
    model = draw_model(rng, family)
    batch = [draw_image(rng, drawn) for _ in range(rng.choice((1, 1, 2)))]
    if family == "faster":
        for image in batch:
            image["instances"] = as_mapped(image["instances"])
    is_bfloat16 = rng.random() < 0.5
    drawn["bfloat16" if is_bfloat16 else "float32"] += 1
    drawn["images"] += len(batch)
    extreme: list[float] = []
    model.get_submodule(
        "guided_anchoring" if family == "retinanet" else "proposal_generator.guided_anchoring"
    ).register_forward_pre_hook(
        lambda _module, inputs: extreme.append(inputs[2].detach().abs().max().item())
    )
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bfloat16):
        losses = model(batch)
        total = sum(losses.values())
    total.backward()
    drawn["shape outputs of 1e3 and more"] += max(extreme) >= 1e3
    bad = [f"{name} is {loss.item()}" for name, loss in losses.items() if not loss.isfinite()]
    bad += [f"{name} is {loss.item()}" for name, loss in losses.items() if loss < -1e-3]
    bad += [
        f"the gradient of {name} is not finite"
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    if number % 4:
        return bad
    drawn["also inference"] += 1
    model.eval()
    with torch.no_grad():
        for output in model(batch):
            for result in output.values():
                boxes = result.get(
                    "pred_boxes" if result.has("pred_boxes") else "proposal_boxes"
                ).tensor
                if not boxes.isfinite().all():
                    bad.append("a result's box is not finite")
    return bad
