"""Projects of detectron2, Mask2Former and AdelaiDet with guided anchoring, or beside it.

``python -m tests.plugin.projects --detectron2 FOLDER [--mask2former FOLDER] [--adelaidet FOLDER]``
prints a table from the sources in these folders: model built, one training step, inference. Models
are narrow, on a CPU, and of random weights.
"""

import argparse
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from ga_detectron2 import model_zoo, use_guided_anchoring
from ga_detectron2.modeling import GuidedAnchoring, GuidedAnchorRPN
from tests.plugin.test_detectron2_configs import shrink
from tests.plugin.test_lazy_projects import with_local_norms

USE = "`use_guided_anchoring(cfg)`"
LAZY = "`model.proposal_generator` of `ga_rpn_R_50`"
BESIDE = "nothing: no anchors to guide, works beside it"


def substitute(*modules: str) -> None:
    """Mock modules for those that are missing and that the models of the table do not use."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()


class Case(NamedTuple):
    """A row of the table.

    Attributes:
        name: project and config.
        added: what a user adds.
        build: returns the model.
        fields: ground truth that the model needs beside boxes and classes.
    """

    name: str
    added: str
    build: Callable[[], nn.Module]
    fields: Callable[[Instances], dict[str, Any]] = lambda _: {}


def yaml_model(path: Path, add_keys: Callable[[CfgNode], Any], *opts: Any, guided: bool = True):
    def build() -> nn.Module:
        cfg = get_cfg()
        add_keys(cfg)
        cfg.merge_from_file(str(path))
        shrink(cfg)
        generator = cfg.MODEL.PROPOSAL_GENERATOR
        generator.NAME = generator.NAME.replace("TridentRPN", "RPN")
        if guided:
            use_guided_anchoring(cfg)
        cfg.merge_from_list(["MODEL.WEIGHTS", "", *opts])
        with_local_norms(cfg)
        return build_model(cfg)

    return build


def lazy_model(path: Path, narrow: Callable[[DictConfig], None] = with_local_norms):
    def build() -> nn.Module:
        model = LazyConfig.load(str(path)).model
        replaced = model.proposal_generator
        rpn = model_zoo.get_lazy_config("ga_rpn_R_50").model.proposal_generator
        rpn.in_features = replaced.in_features
        rpn.head.in_channels = replaced.head.in_channels
        rpn.head.conv_dims = replaced.head.get("conv_dims", [-1])
        rpn.guided_anchoring.strides = replaced.anchor_generator.strides
        model.proposal_generator = rpn
        narrow(model)
        with_local_norms(model)
        return instantiate(model)

    return build


def narrow_vit(model: DictConfig) -> None:
    net = model.backbone.net
    net.update(img_size=128, embed_dim=32, depth=2, num_heads=2, window_block_indexes=[0])
    model.backbone.square_pad = 128


def narrow_swin(model: DictConfig) -> None:
    model.backbone.bottom_up.update(depths=[1, 1, 1, 1], embed_dim=16, num_heads=[1, 2, 4, 8])
    model.backbone.square_pad = 128


def narrow_mvit(model: DictConfig) -> None:
    model.backbone.bottom_up.update(embed_dim=32, depth=4, last_block_indexes=(0, 1, 2, 3))
    if "square_pad" in model.backbone:
        model.backbone.square_pad = 128


@PROPOSAL_GENERATOR_REGISTRY.register()
class TridentGuidedAnchorRPN(GuidedAnchorRPN):
    """The recipe of docs/your_project.md."""

    def forward(self, images, features, gt_instances=None):
        branches = len(features[self.in_features[0]]) // len(images)
        images = ImageList(torch.cat([images.tensor] * branches), images.image_sizes * branches)
        return super().forward(images, features, gt_instances and gt_instances * branches)


def of_detectron2(folder: Path) -> Iterator[Case]:
    projects = folder / "projects"
    for name in ("DensePose", "TridentNet", "TensorMask", "PointSup"):
        sys.path.append(str(projects / name))
    point_rend = importlib.import_module("detectron2.projects.point_rend")
    add, configs = point_rend.add_pointrend_config, projects / "PointRend" / "configs"
    for name in ("pointrend_rcnn_R_50_FPN_1x_coco", "implicit_pointrend_R_50_FPN_1x_coco"):
        model = yaml_model(configs / f"InstanceSegmentation/{name}.yaml", add)
        yield Case(f"PointRend `{name}`", USE, model)

    def points(x: Instances) -> dict[str, Any]:
        coords = x.gt_boxes.get_centers()[:, None].repeat(1, 5, 1)
        return {"gt_point_coords": coords, "gt_point_labels": torch.ones(len(x), 5)}

    def add_point_sup(cfg: CfgNode) -> None:
        add(cfg)
        importlib.import_module("point_sup").add_point_sup_config(cfg)

    configs = projects / "PointSup" / "configs"
    path = configs / "mask_rcnn_R_50_FPN_3x_point_sup_coco.yaml"
    yield Case(f"PointSup `{path.stem}`", USE, yaml_model(path, add_point_sup), points)

    def add_densepose(cfg: CfgNode) -> None:
        substitute("av")
        importlib.import_module("densepose").add_densepose_config(cfg)

    def annotations(x: Instances) -> dict[str, Any]:
        made = importlib.import_module("densepose").DensePoseList
        return {"gt_densepose": made([None] * len(x), x.gt_boxes, x.image_size)}

    path = projects / "DensePose" / "configs" / "densepose_rcnn_R_50_FPN_s1x.yaml"
    head = "MODEL.ROI_DENSEPOSE_HEAD"
    opts = (f"{head}.CONV_HEAD_DIM", 16, f"{head}.DECODER_NUM_CLASSES", 32)
    yield Case(f"DensePose `{path.stem}`", USE, yaml_model(path, add_densepose, *opts), annotations)

    def add_trident(cfg: CfgNode) -> None:
        importlib.import_module("tridentnet").add_tridentnet_config(cfg)

    path = projects / "TridentNet" / "configs" / "tridentnet_fast_R_50_C4_1x.yaml"
    opts = ("MODEL.PROPOSAL_GENERATOR.NAME", "TridentGuidedAnchorRPN")
    recipe = "the subclass of docs/your_project.md"
    yield Case(f"TridentNet `{path.stem}`", recipe, yaml_model(path, add_trident, *opts))

    substitute("panopticapi", "panopticapi.utils")
    opts = ("INPUT.CROP.SIZE", (128, 128), "MODEL.SEM_SEG_HEAD.CONVS_DIM", 256)
    for name, path in (
        ("DeepLab", "Cityscapes-SemanticSegmentation/deeplab_v3_R_103_os16_mg124_poly_90k_bs16"),
        (
            "Panoptic-DeepLab",
            "Cityscapes-PanopticSegmentation/panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32"
            "_crop_512_1024",
        ),
    ):
        module = name.lower().replace("-", "_")
        project = importlib.import_module(f"detectron2.projects.{module}")
        add_keys = getattr(project, f"add_{module}_config")
        file = projects / name / "configs" / f"{path}.yaml"
        model = yaml_model(file, add_keys, *opts, guided=False)
        yield Case(f"{name} `{file.stem}`", BESIDE, model)
    yield Case("TensorMask", BESIDE, lambda: importlib.import_module("tensormask"))

    for path in ("mask_rcnn_vitdet_b_100ep", "cascade_mask_rcnn_vitdet_b_100ep"):
        model = lazy_model(projects / f"ViTDet/configs/COCO/{path}.py", narrow_vit)
        yield Case(f"ViTDet `{path}`", LAZY, model)
    for path in ("mask_rcnn_mvitv2_t_3x", "cascade_mask_rcnn_mvitv2_t_3x"):
        model = lazy_model(projects / f"MViTv2/configs/{path}.py", narrow_mvit)
        yield Case(f"MViTv2 `{path}`", LAZY, model)
    model = lazy_model(
        projects / "ViTDet/configs/COCO/cascade_mask_rcnn_swin_b_in21k_50ep.py", narrow_swin
    )
    yield Case("ViTDet `cascade_mask_rcnn_swin_b_in21k_50ep`", LAZY, model)
    for path in (
        "configs/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ",
        "configs/new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ",
        "configs/new_baselines/mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ",
        "configs/common/models/cascade_rcnn",
        "configs/common/models/mask_rcnn_c4",
        "projects/Rethinking-BatchNorm/configs/mask_rcnn_BNhead",
    ):
        yield Case(f"`{path}.py`", LAZY, lazy_model(folder / f"{path}.py"))


def of_mask2former(folder: Path) -> Iterator[Case]:
    sys.path.append(str(folder))
    # Empty: what it lacks is then computed by Mask2Former's equivalent in Python.
    sys.modules["MultiScaleDeformableAttention"] = types.ModuleType("compiled")
    substitute("detectron2._C")
    deeplab = importlib.import_module("detectron2.projects.deeplab")

    def add_keys(cfg: CfgNode) -> None:
        deeplab.add_deeplab_config(cfg)
        importlib.import_module("mask2former").add_maskformer2_config(cfg)

    path = folder / "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"
    masks = lambda x: {"gt_masks": x.gt_masks.tensor}  # noqa: E731
    model = yaml_model(path, add_keys, guided=False)
    yield Case(f"Mask2Former `{path.stem}`", BESIDE, model, masks)


def of_adelaidet(folder: Path) -> Iterator[Case]:
    sys.path.append(str(folder))
    substitute("skimage")
    sys.modules["adet._C"] = MagicMock()  # compiled; for text only

    def add_keys(_cfg: CfgNode) -> None:
        importlib.import_module("adet.config.defaults")
        importlib.import_module("adet.modeling")

    def build(path: str, guided: bool) -> Callable[[], nn.Module]:
        def model() -> nn.Module:
            add_keys(get_cfg())  # fills detectron2's defaults
            return yaml_model(folder / "configs" / path, lambda _: None, guided=guided)()

        return model

    yield Case("AdelaiDet `RCNN/550_R_50_FPN_3x`", USE, build("RCNN/550_R_50_FPN_3x.yaml", True))
    for name in ("FCOS-Detection/R_50_1x", "CondInst/MS_R_50_1x"):
        yield Case(f"AdelaiDet `{name}`", BESIDE, build(f"{name}.yaml", False))


def make_input(fields: Callable[[Instances], dict[str, Any]]) -> dict[str, Any]:
    size = (128, 128)
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 72.0, 40.0], [30.0, 20.0, 60.0, 90.0]])),
        gt_classes=torch.tensor([0, 0]),
        gt_masks=BitMasks(torch.zeros(2, *size, dtype=torch.bool)),
    )
    instances.gt_masks.tensor[:, 30:40, 35:55] = True
    for name, value in fields(instances).items():
        instances.remove(name) if instances.has(name) else None
        instances.set(name, value)
    zeros = torch.zeros(size)
    return {
        "image": torch.rand(3, *size) * 255,
        "height": size[0],
        "width": size[1],
        "instances": instances,
        "sem_seg": zeros.long(),
        **dict.fromkeys(("sem_seg_weights", "center", "center_weights", "offset_weights"), zeros),
        "offset": torch.zeros(2, *size),
    }


def attempt(case: Case) -> str:
    """``yes, yes, yes``, or the first of the three that failed and why."""
    done: list[str] = []
    try:
        torch.manual_seed(0)
        model = case.build()
        done.append("yes")
        if not case.added.startswith("nothing"):
            assert any(isinstance(m, GuidedAnchoring) for m in model.modules())
        inputs = [make_input(case.fields), make_input(case.fields)]
        with EventStorage():
            losses = model(inputs)
        sum(losses.values()).backward()
        assert all(x.isfinite() for x in losses.values()), losses
        done.append("yes")
        with torch.no_grad():
            assert len(model.eval()(inputs)) == len(inputs)
        done.append("yes")
    except Exception as error:
        done.append(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
    return " | ".join([*done, "", ""][:3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sources = {
        "detectron2": of_detectron2,
        "mask2former": of_mask2former,
        "adelaidet": of_adelaidet,
    }
    for name in sources:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    print("| project, config | what you add | build | step | inference |\n| " + "--- | " * 5)
    for name, cases in sources.items():
        folder = getattr(args, name)
        for case in cases(folder) if folder else ():
            print(f"| {case.name} | {case.added} | {attempt(case)} |", flush=True)


if __name__ == "__main__":
    main()
