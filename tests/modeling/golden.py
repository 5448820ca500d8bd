"""The reference heads' numbers (tests/reference/heads), and configurations to compare with."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances

from ga_detectron2 import add_ga_config
from ga_detectron2.checkpoint import convert_mmdet_state_dict

HEADS = Path(__file__).resolve().parents[1] / "reference" / "heads"
EVERYTHING = 10**6  # a batch size at which nothing is left out of a loss by chance


class GoldenHead:
    """One file of the reference: inputs, weights and everything that follows from them."""

    def __init__(self, name: str):
        with np.load(HEADS / f"{name}.npz") as file:
            self.arrays = {k: torch.from_numpy(file[k]) for k in file.files}
        self.strides = self["strides"].tolist()
        self.num_images = len(self["image_sizes"])

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.arrays[key]

    def levels(self, key: str) -> list[torch.Tensor]:
        return [self[f"{key}.{i}"] for i in range(len(self.strides))]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def cells_per_level(self) -> list[int]:
        return [x.shape[-2] * x.shape[-1] for x in self.levels("feature")]

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        return [tuple(x) for x in self["image_sizes"].tolist()]

    def instances(self) -> list[Instances]:
        return [
            Instances(
                size,
                gt_boxes=Boxes(self[f"gt_boxes.{n}"]),
                gt_classes=self[f"gt_classes.{n}"],
            )
            for n, size in enumerate(self.image_sizes)
        ]

    def images(self) -> ImageList:
        height, width = (s * self.strides[0] for s in self["feature.0"].shape[-2:])
        tensor = torch.zeros(self.num_images, 3, height, width)
        return ImageList(tensor, self.image_sizes)

    def features(self, first_level: int) -> dict[str, torch.Tensor]:
        return {
            f"p{first_level + i}": x.clone().requires_grad_()
            for i, x in enumerate(self.levels("feature"))
        }

    def input_shape(self, first_level: int) -> dict[str, ShapeSpec]:
        return {
            f"p{first_level + i}": ShapeSpec(channels=x.shape[1], stride=stride)
            for i, (x, stride) in enumerate(zip(self.levels("feature"), self.strides, strict=True))
        }

    def converted(self, values: str, prefix: str) -> dict[str, torch.Tensor]:
        """The head's tensors under our names, without the ``prefix`` of the whole model's."""
        tensors = {k: v for k, v in self.part(values).items() if not k.startswith("feature.")}
        return {k.removeprefix(prefix): v for k, v in convert_mmdet_state_dict(tensors).items()}


def rpn_config() -> CfgNode:
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GuidedAnchorRPN"
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11)
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 1.0
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 2000
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = EVERYTHING
    cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = EVERYTHING
    return cfg


def retinanet_config(num_classes: int) -> CfgNode:
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GARetinaNet"
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.MODEL.RETINANET.IOU_THRESHOLDS = [0.5]
    cfg.MODEL.RETINANET.IOU_LABELS = [0, 1]
    cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA = 0.04
    ga = cfg.MODEL.GUIDED_ANCHOR
    ga.OCTAVE_BASE_SCALE = 4
    ga.SHAPE_REG_WEIGHTS = [1.0, 1.0]
    ga.IOU_THRESHOLDS = [0.4, 0.5]
    ga.MIN_POSITIVE_IOU = 0.4
    ga.BATCH_SIZE_PER_IMAGE = EVERYTHING
    return cfg


def to_map(values: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(N, Hi * Wi, ...) cells as the reference's (N, ..., Hi, Wi)."""
    x = values.unflatten(1, tuple(size[-2:]))
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x[:, None]


def check_gradients(
    golden: GoldenHead, model: torch.nn.Module, features: dict[str, torch.Tensor], prefix: str
) -> None:
    """All gradients of weights and features within 1e-4 of their norm."""
    ours = {f"feature.{i}": x.grad for i, x in enumerate(features.values())}
    theirs = {f"feature.{i}": x for i, x in enumerate(golden.levels("grad.feature"))}
    ours.update((name, p.grad) for name, p in model.named_parameters() if "backbone" not in name)
    theirs.update(golden.converted("grad.", prefix))
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        mine = ours[name] if ours[name] is not None else torch.zeros_like(gradient)
        error = (mine - gradient).norm() / gradient.norm().clamp(min=1e-9)
        assert error < 1e-4, f"{name}: off by {error:.2e} of the gradient's norm"
