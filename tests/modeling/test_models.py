"""GuidedAnchorRPN within detectron2's models, and GARetinaNet: training, inference, odd batches.

Backbones are tiny and weights random: what the numbers should be is shown by the reference files
(``test_golden_*.py``) and, for the parts, by the other tests here.
"""

import copy

import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from ga_detectron2 import add_ga_config, record_guided_anchors
from ga_detectron2.modeling.feature_adaption import FeatureAdaption
from ga_detectron2.modeling.rpn import GuidedAnchorRPN

EVERYTHING = 10**6
ANCHOR_LOSSES = {"loss_anchor_loc", "loss_anchor_shape"}
RPN_LOSSES = ANCHOR_LOSSES | {"loss_rpn_cls", "loss_rpn_loc"}
BOX_LOSSES = {"loss_cls", "loss_box_reg"}
LOSSES = {
    "proposals": RPN_LOSSES,
    "boxes": RPN_LOSSES | BOX_LOSSES,
    "masks": RPN_LOSSES | BOX_LOSSES | {"loss_mask"},
    "keypoints": RPN_LOSSES | BOX_LOSSES | {"loss_keypoint"},
    "cascade": RPN_LOSSES | {f"{name}_stage{i}" for name in BOX_LOSSES for i in range(3)},
    "c4": RPN_LOSSES | BOX_LOSSES,
    "retinanet": ANCHOR_LOSSES | BOX_LOSSES,
}
TWO_STAGE = ["boxes", "masks", "keypoints", "cascade", "c4"]
# Both are padded to 96 x 128, alone and together.
SAME_PADDED_SIZE = [(90, 120), (96, 128)]


def tiny_config(kind: str) -> CfgNode:
    """detectron2's own settings for the kind of model, and the proposal generator's name."""
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1 if kind == "keypoints" else 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GuidedAnchorRPN"
    if kind == "c4":
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
        return cfg

    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.FPN.NORM = "GN"
    if kind == "retinanet":
        cfg.MODEL.META_ARCHITECTURE = "GARetinaNet"
        cfg.MODEL.BACKBONE.NAME = "build_ga_retinanet_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.RETINANET.NUM_CLASSES = 3
        cfg.MODEL.RETINANET.NUM_CONVS = 2
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.001
        ga = cfg.MODEL.GUIDED_ANCHOR
        ga.OCTAVE_BASE_SCALE = 4
        ga.SHAPE_REG_WEIGHTS = [1.0, 1.0]
        ga.IOU_THRESHOLDS = [0.4, 0.5]
        ga.MIN_POSITIVE_IOU = 0.4
        return cfg

    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    if kind == "proposals":
        cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    elif kind == "masks":
        cfg.MODEL.MASK_ON = True
        cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
        cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
        cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 7
    elif kind == "keypoints":
        cfg.MODEL.KEYPOINT_ON = True
        cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (8,)
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
        cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 7
    elif kind == "cascade":
        cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    return cfg


def build(cfg: CfgNode, seed: int = 0) -> torch.nn.Module:
    """A model with random weights of a scale at which outputs differ from cell to cell."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    for name, module in model.named_modules():
        # Frozen batch norm without statistics: keep the sum of many blocks in bounds.
        if name.endswith("conv3.norm"):
            module.weight.fill_(0.1)
    with torch.no_grad():
        images = preprocess(model, batch_of(SAME_PADDED_SIZE)).tensor
        if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet":
            scale_retinanet(model, images)
        else:
            scale_rpn(model.proposal_generator, model.backbone(images))
    return model


def preprocess(model, batch) -> ImageList:
    images = [(x["image"] - model.pixel_mean) / model.pixel_std for x in batch]
    return ImageList.from_tensors(images, model.backbone.size_divisibility)


def scale(layer, outputs, std: float, mean: float | None = None) -> None:
    """Scale a layer without bias so far, so that ``outputs`` would have had that deviation."""
    outputs = torch.cat([x.flatten() for x in outputs])
    factor = std / outputs.std()
    layer.weight.mul_(factor)
    if mean is not None:
        layer.bias.add_(mean - layer.bias - factor * (outputs.mean() - layer.bias.mean()))


def scale_branches(head, loc_logits, shape_deltas, shape_weight: float) -> None:
    scale(head.anchor_loc, [loc_logits], 2.0, mean=-5.0)  # four in ten cells pass the filter
    scale(head.anchor_shape, [shape_deltas], 0.4 * shape_weight, mean=0.0)


def scale_rpn(rpn, features) -> None:
    head = rpn.rpn_head
    maps = [features[f] for f in rpn.in_features]
    scale(head.conv, [head.conv(x) for x in maps], 1.0)
    hidden, loc_logits, shape_deltas = head(maps)
    scale_branches(head, loc_logits, shape_deltas, rpn.guided_anchoring.shape_weights[0])
    hidden, _, shape_deltas = head(maps)
    deltas = shape_deltas.split([x.rows.shape[1] for x in hidden], dim=1)

    def adapted():
        return [head.feature_adaption(x, d).rows for x, d in zip(hidden, deltas, strict=True)]

    scale(head.feature_adaption.conv, adapted(), 1.0)
    outputs = [head.predict_boxes(x) for x in adapted()]
    scale(head.objectness_logits, [x[..., 0] for x in outputs], 1.0)
    scale(head.anchor_deltas, [x[..., 1:] for x in outputs], 0.2 * rpn.box2box_transform.weights[0])


def scale_retinanet(model, images) -> None:
    head, top = model.head, model.backbone.top_block
    c5 = model.backbone.bottom_up(images)["res5"]
    scale(top.p6, [top.p6(c5)], 1.0)
    scale(top.p7, [top.p7(top.p6(c5))], 1.0)
    features = model.backbone(images)
    maps = [features[f] for f in model.head_in_features]
    for tower in (head.cls_subnet, head.bbox_subnet):
        values = maps
        for layer in tower:
            if isinstance(layer, torch.nn.Conv2d):
                scale(layer, [layer(x) for x in values], 1.0)
            values = [layer(x) for x in values]
    output = head(maps)
    scale_branches(head, output.loc_logits, output.shape_deltas, 1.0)
    output = head(maps)
    deltas = output.shape_deltas.split([x.rows.shape[1] for x in output.cls_features], dim=1)
    for adaption, last, run, levels in (
        (head.feature_adaption_cls, head.cls_score, head.classify, output.cls_features),
        (head.feature_adaption_bbox, head.bbox_pred, head.regress, output.bbox_features),
    ):
        adapted = [adaption(x, d).rows for x, d in zip(levels, deltas, strict=True)]
        scale(adaption.conv, adapted, 1.0)
        outputs = [run(x, d) for x, d in zip(levels, deltas, strict=True)]
        is_class = last is head.cls_score
        scale(last, outputs, 1.0 if is_class else 0.2, mean=-3.0 if is_class else 0.0)


def make_image(size, boxes, seed=0) -> dict:
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    gt = Instances(size)
    gt.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    gt.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    keypoints = torch.zeros(len(boxes), 5, 3)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        masks[i, y1:y2, x1:x2] = True
        keypoints[i] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, 2.0])
    gt.gt_masks = BitMasks(masks)
    gt.gt_keypoints = Keypoints(keypoints)
    return {"image": image, "height": height, "width": width, "instances": gt}


BOXES = [[8, 8, 72, 60], [60, 30, 100, 80], [70, 10, 86, 26], [2, 2, 112, 86]]


def batch_of(sizes, boxes=(BOXES, [])) -> list[dict]:
    return [
        make_image(size, b, seed=i) for i, (size, b) in enumerate(zip(sizes, boxes, strict=True))
    ]


def train_step(model, batch) -> dict[str, torch.Tensor]:
    model.train()
    with EventStorage():
        return model(batch)


def infer(model, batch) -> list[Instances]:
    model.eval()
    with torch.no_grad():
        outputs = model(batch)
    return [x["proposals"] if "proposals" in x else x["instances"] for x in outputs]


def check_finite(results: list[Instances]) -> None:
    for result in results:
        for name, value in result.get_fields().items():
            value = getattr(value, "tensor", value)
            assert value.isfinite().all(), name


# ------------------------------------------------------------------------ kinds of models


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("boxes", [(BOXES, []), ([], [])], ids=["one without boxes", "no boxes"])
def test_trains_and_infers(kind, boxes):
    """Two steps on images of two sizes; everything trainable moves."""
    model = build(tiny_config(kind))
    batch = batch_of([(90, 120), (70, 100)], boxes)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        losses = train_step(model, batch)
        assert set(losses) == LOSSES[kind]
        for name, loss in losses.items():
            assert loss.isfinite(), name
        if not any(boxes):
            assert losses["loss_anchor_shape"] == 0
            assert not losses.get("loss_rpn_loc", 0)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        optimizer.step()
    if any(boxes):
        after = dict(model.named_parameters())
        still = [n for n, p in before.items() if torch.equal(p, after[n])]
        # No box is large enough for what only the coarsest levels' pooled boxes reach.
        assert not [n for n in still if "roi_heads" not in n]
    results = infer(model, batch)
    assert [r.image_size for r in results] == [(90, 120), (70, 100)]
    check_finite(results)
    if kind == "masks":
        assert results[0].pred_masks.shape[1:] == (90, 120)
    if kind == "keypoints":
        assert results[0].pred_keypoints.shape[1:] == (5, 3)


def test_the_single_level_of_c4_has_stride_16():
    model = build(tiny_config("c4"))
    assert model.proposal_generator.in_features == ["res4"]
    assert model.proposal_generator.guided_anchoring.strides == (16,)


def test_training_without_ground_truth_says_so():
    model = build(tiny_config("proposals")).train()
    with pytest.raises(ValueError, match="gt_instances"):
        model.proposal_generator(
            ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]),
            model.backbone(torch.zeros(1, 3, 64, 64)),
        )


def test_proposals_are_drawn_while_training():
    """detectron2's VIS_PERIOD, which reads the proposals of a training model."""
    cfg = tiny_config("boxes")
    cfg.VIS_PERIOD = 1
    model = build(cfg)
    model.train()
    with EventStorage() as storage:
        losses = model(batch_of(SAME_PADDED_SIZE, (BOXES, BOXES)))
        assert len(storage._vis_data) == 1
    assert all(x.isfinite() for x in losses.values())


# ------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("kind", ["proposals", "boxes", "cascade", "masks", "retinanet"])
def test_a_batch_is_its_images_one_by_one(kind):
    model = build(tiny_config(kind))
    batch = batch_of(SAME_PADDED_SIZE)
    together = infer(model, batch)
    for image, result in zip(batch, together, strict=True):
        (alone,) = infer(model, [image])
        assert len(alone) == len(result) > 10
        assert result.get_fields().keys() == alone.get_fields().keys()
        for name, value in result.get_fields().items():
            other = alone.get(name)
            value, other = (getattr(x, "tensor", x) for x in (value, other))
            if value.dtype == torch.bool:  # masks, where a pixel may stand at the threshold
                assert (value != other).float().mean() < 1e-4
            else:
                torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-3)
    # A shorter image, padded to the others' size, keeps its results within itself.
    results = infer(model, [*batch, make_image((40, 50), [])])
    boxes = results[2].get("proposal_boxes" if kind == "proposals" else "pred_boxes").tensor
    assert len(boxes) > 0
    assert (boxes.amax(dim=0) <= torch.tensor([50, 40, 50, 40])).all()


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_losses_of_a_batch_are_those_of_its_images(kind):
    """Each loss is a sum over images divided by a sum over images, with nothing left to chance."""
    cfg = tiny_config(kind)
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = EVERYTHING
    cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = EVERYTHING
    model = build(cfg)
    batch = batch_of(SAME_PADDED_SIZE, (BOXES, BOXES[:1]))
    together = train_step(model, batch)
    alone = [train_step(model, [image]) for image in batch]
    # Every image has as many cells; of the other losses the mean lies between the images'.
    mean = (alone[0]["loss_anchor_loc"] + alone[1]["loss_anchor_loc"]) / 2
    torch.testing.assert_close(together["loss_anchor_loc"], mean)
    for name, loss in together.items():
        low, high = sorted(x[name].item() for x in alone)
        assert low - 1e-6 <= loss.item() <= high + 1e-6, name
    twice = train_step(model, [batch[0], copy.deepcopy(batch[0])])
    for name, loss in twice.items():
        torch.testing.assert_close(loss, alone[0][name])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("GUIDED_ANCHOR.LOC_LOSS_WEIGHT", "loss_anchor_loc"),
        ("GUIDED_ANCHOR.SHAPE_LOSS_WEIGHT", "loss_anchor_shape"),
        ("RPN.LOSS_WEIGHT", "loss_rpn_cls"),
        ("RPN.BBOX_REG_LOSS_WEIGHT", "loss_rpn_loc"),
    ],
)
def test_loss_weights(key, name):
    losses = []
    for weight in (1.0, 3.0):
        cfg = tiny_config("proposals")
        cfg.merge_from_list([f"MODEL.{key}", weight])
        cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = EVERYTHING
        cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = EVERYTHING
        losses.append(train_step(build(cfg), batch_of(SAME_PADDED_SIZE)))
    torch.testing.assert_close(losses[1][name], 3 * losses[0][name])
    also = {"loss_rpn_loc"} if key == "RPN.LOSS_WEIGHT" else set()
    for other in RPN_LOSSES - also - {name}:
        torch.testing.assert_close(losses[1][other], losses[0][other])


# ------------------------------------------------------------------- the location filter


class NoLocation:
    """Lowers the location logits of some cells to -100 while it is entered."""

    def __init__(self, model, image=slice(None), cells=slice(None)):
        self.head = model.head if hasattr(model, "head") else model.proposal_generator.rpn_head
        self.where = (image, cells)

    def __call__(self, _module, _inputs, output):
        if hasattr(output, "_replace"):
            logits = output.loc_logits.clone()
            logits[self.where] = -100
            return output._replace(loc_logits=logits)
        hidden, logits, deltas = output
        logits = logits.clone()
        logits[self.where] = -100
        return hidden, logits, deltas

    def __enter__(self):
        self.handle = self.head.register_forward_hook(self)

    def __exit__(self, *_error):
        self.handle.remove()


def kept_per_level(model, batch):
    """Cells that pass the filter, by level and image."""
    with record_guided_anchors(model) as records:
        infer(model, batch)
    return [
        [(of_image >= 0.01).sum().item() for of_image in level]
        for level in records[0].loc_probability_maps()
    ]


@pytest.mark.parametrize("kind", ["proposals", *TWO_STAGE, "retinanet"])
def test_no_location_left_in_one_image_or_in_all(kind):
    model = build(tiny_config(kind))
    batch = batch_of(SAME_PADDED_SIZE)
    before = infer(model, batch)
    assert len(before[0]) > 0
    with NoLocation(model, image=0):
        results = infer(model, batch)
    assert len(results[0]) == 0
    assert results[0].get_fields().keys() == before[0].get_fields().keys()
    assert len(results[1]) == len(before[1])
    with NoLocation(model):
        assert [len(x) for x in infer(model, batch)] == [0, 0]
        check_finite(infer(model, batch))


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_no_location_left_on_a_level(kind):
    """The other levels' results are the same as before."""
    model = build(tiny_config(kind))
    if kind == "proposals":
        model.proposal_generator.post_nms_topk = {True: EVERYTHING, False: EVERYTHING}
    else:
        # Suppression across levels would bring others up.
        model.test_nms_thresh, model.max_detections_per_image = 1.0, EVERYTHING
    batch = batch_of(SAME_PADDED_SIZE)
    kept = kept_per_level(model, batch)
    assert all(sum(level) > 0 for level in kept[:2])
    before = infer(model, batch)
    with record_guided_anchors(model) as records:
        infer(model, batch)
    start = 0
    for level, cells in enumerate(records[0].grid.cells_per_level):
        with NoLocation(model, cells=slice(start, start + cells)):
            results = infer(model, batch)
        start += cells
        for n in range(2):
            old, new = (
                r[n].get("proposal_boxes" if kind == "proposals" else "pred_boxes").tensor
                for r in (before, results)
            )
            assert len(new) < len(old) or kept[level][n] == 0
            found = (new[:, None] - old[None]).abs().amax(dim=2) < 1e-3
            assert found.any(dim=1).all()


def test_cells_pass_the_filter_from_its_threshold_on():
    model = build(tiny_config("proposals"))
    batch = batch_of(SAME_PADDED_SIZE)
    model.proposal_generator.post_nms_topk = {True: EVERYTHING, False: EVERYTHING}
    model.proposal_generator.nms_thresh = 1.0
    with record_guided_anchors(model) as records:
        infer(model, batch)
    probability = records[0].loc_logits.sigmoid()
    assert 0.05 < (probability >= 0.01).float().mean() < 0.95
    for threshold in (0.0, 0.01, probability[0].median().item(), 1.0):
        model.proposal_generator.guided_anchoring.loc_filter_thresh = threshold
        for n, result in enumerate(infer(model, batch)):
            assert len(result) <= (probability[n] >= threshold).sum()
            # Of guided anchors centred within the image, nearly all keep an area when clipped.
            assert len(result) >= 0.7 * (probability[n] >= threshold).sum()


def test_proposals_in_training_come_from_all_cells():
    """They are those of inference with a filter that lets everything pass."""
    cfg = tiny_config("boxes")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 200
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 300
    model = build(cfg)
    rpn = model.proposal_generator
    batch = batch_of(SAME_PADDED_SIZE)
    images = preprocess(model, batch)
    features = model.backbone(images.tensor)
    with NoLocation(model):
        proposals, _ = rpn.train()(images, features, [x["instances"] for x in batch])
    rpn.guided_anchoring.loc_filter_thresh = 0.0
    expected, _ = rpn.eval()(images, features)
    close = {"rtol": 1e-4, "atol": 1e-3}
    for ours, theirs in zip(proposals, expected, strict=True):
        assert len(ours) == len(theirs) > 100
        torch.testing.assert_close(
            ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor, **close
        )
        torch.testing.assert_close(ours.objectness_logits, theirs.objectness_logits, **close)
        assert not ours.proposal_boxes.tensor.requires_grad


def test_a_proposal_network_trains_without_adapting_all_cells(monkeypatch):
    model = build(tiny_config("proposals"))
    assert model.proposal_generator.proposals_in_training is False
    assert build(tiny_config("boxes")).proposal_generator.proposals_in_training is True

    def refuse(*_args):
        raise AssertionError("all cells are adapted, for nothing")

    monkeypatch.setattr(FeatureAdaption, "forward", refuse)
    losses = train_step(model, batch_of(SAME_PADDED_SIZE))
    sum(losses.values()).backward()


# ------------------------------------------------------------------- sampled against dense


def small_rpn(**override) -> GuidedAnchorRPN:
    cfg = tiny_config("proposals")
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 24
    cfg.MODEL.GUIDED_ANCHOR.merge_from_other_cfg(CfgNode(override))
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 7)}
    rpn = GuidedAnchorRPN(cfg, shapes).double()
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.normal_(std=0.2)
    return rpn


def dense_adaption(rpn, hidden, guided):
    """Adapted features of every cell of all levels, (N, R, C), by torchvision's operation."""
    adaption = rpn.rpn_head.feature_adaption
    levels = []
    for level, deltas in zip(hidden, guided.grid.split_levels(guided.shape_deltas), strict=True):
        offsets = F.conv2d(deltas.detach().permute(0, 3, 1, 2), adaption.offset.weight)
        output = torchvision.ops.deform_conv2d(
            level.to_map(), offsets, adaption.conv.weight, padding=1
        )
        levels.append(F.relu(output).flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=1)


def test_gradients_by_sampled_cells_are_those_by_all_cells(monkeypatch):
    """Losses and gradients of weights and features, on five levels and two images."""
    torch.manual_seed(5)
    rpn = small_rpn(BATCH_SIZE_PER_IMAGE=16)
    features = {
        f"p{i}": torch.randn(2, 8, 64 >> i, 96 >> i, dtype=torch.float64, requires_grad=True)
        for i in range(2, 6)
    }
    features["p6"] = torch.randn(2, 8, 1, 2, dtype=torch.float64, requires_grad=True)
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 61)])
    ground_truth = [x["instances"] for x in batch_of(images.image_sizes, ([[9, 9, 50, 40]], []))]
    inputs = [*rpn.parameters(), *features.values()]

    def losses_and_gradients():
        torch.manual_seed(6)  # the same sample
        _, losses = rpn.train()(images, features, ground_truth)
        gradients = torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True)
        return losses, gradients

    sampled = losses_and_gradients()
    calls = []

    def dense(self, hidden, guided, sample):
        calls.append(sample)
        return sample.take(dense_adaption(self, hidden, guided))

    monkeypatch.setattr(GuidedAnchorRPN, "_adapt_sample", dense)
    everywhere = losses_and_gradients()
    assert len(calls) == 1
    assert calls[0].cells.shape == (2, 24)
    for name, loss in sampled[0].items():
        torch.testing.assert_close(loss, everywhere[0][name])
    for ours, theirs in zip(sampled[1], everywhere[1], strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert all(g.any() for g in sampled[1][: len(list(rpn.parameters()))])


def test_retinanet_at_cells_is_retinanet_everywhere():
    torch.manual_seed(7)
    model = build(tiny_config("retinanet"))
    model.double()
    images = preprocess(model, batch_of(SAME_PADDED_SIZE))
    features = model.backbone(images.tensor)
    features = [features[f] for f in model.head_in_features]
    predictions = model.head(features)
    with torch.no_grad():
        detections = model.eval().forward_inference(images, features, predictions)
        guided = model.guided_anchoring(
            [(x.height, x.width) for x in predictions.cls_features],
            predictions.loc_logits,
            predictions.shape_deltas,
        )
        deltas = guided.shape_deltas.split(guided.grid.cells_per_level, dim=1)
        scores, boxes = (
            torch.cat([f(x, d) for x, d in zip(levels, deltas, strict=True)], dim=1)
            for f, levels in (
                (model.head.classify, predictions.cls_features),
                (model.head.regress, predictions.bbox_features),
            )
        )
    kept = guided.loc_logits.sigmoid() >= 0.01
    assert 0.02 < kept.float().mean() < 0.98
    for n, found in enumerate(detections):
        expected = model.box2box_transform.apply_deltas(boxes[n], guided.anchors[n])
        image = Boxes(expected)
        image.clip(images.image_sizes[n])
        for box, score, c in zip(
            found.pred_boxes.tensor, found.scores, found.pred_classes, strict=True
        ):
            same = (image.tensor - box).abs().amax(dim=1) < 1e-3
            same &= (scores[n, :, c].sigmoid() - score).abs() < 1e-5
            assert (same & kept[n]).any()
        best = torch.where(kept[n, :, None], scores[n].sigmoid(), 0.0).max()
        torch.testing.assert_close(found.scores.max(), best.float(), check_dtype=False)


# ------------------------------------------------------------------------ mixed precision


@pytest.mark.parametrize("kind", ["proposals", "boxes", "retinanet"])
def test_bfloat16_autocast(kind):
    cfg = tiny_config(kind)
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = EVERYTHING
    cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = EVERYTHING
    model = build(cfg)
    batch = batch_of(SAME_PADDED_SIZE)
    expected = train_step(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, batch)
    for name, loss in losses.items():
        assert loss.isfinite()
        if kind != "boxes" or "rpn" in name or "anchor" in name:  # the others are sampled
            # Rounding may match another guided anchor with a box, of the few that are matched.
            rel = 0.05 if name in ANCHOR_LOSSES else 0.25
            assert loss.item() == pytest.approx(expected[name].item(), rel=rel, abs=1e-3), name
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    with record_guided_anchors(model) as records:
        infer(model, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = infer(model, batch)
    check_finite(results)
    assert all(len(x) > 0 for x in results)
    exact, rounded = records
    assert rounded.anchors.dtype == torch.float32
    for name in ("loc_logits", "shape_deltas"):
        a, b = getattr(exact, name), getattr(rounded, name).float()
        assert (a - b).norm() < 0.03 * a.norm(), name


# -------------------------------------------------------------------------------- records


@pytest.mark.parametrize("kind", ["boxes", "c4", "retinanet"])
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_record_guided_anchors(kind, mode):
    model = build(tiny_config(kind))
    head = model.head if kind == "retinanet" else model.proposal_generator.rpn_head
    calls = []
    for module in (model.backbone, head):
        module.register_forward_hook(lambda m, _i, output: calls.append((m, output)))
    batch = batch_of([(90, 120), (70, 100)])
    run = train_step if mode == "training" else infer
    with record_guided_anchors(model) as records:
        run(model, batch)
        run(model, batch[:1])
    assert len(records) == 2
    assert [m for m, _ in calls] == [model.backbone, head] * 2
    names = model.head_in_features if kind == "retinanet" else model.proposal_generator.in_features
    for n, record, (_, features) in zip((2, 1), records, calls[::2], strict=True):
        maps = record.loc_probability_maps()
        assert [x.shape for x in maps] == [(n, *features[f].shape[-2:]) for f in names]
        assert all(((x >= 0) & (x <= 1)).all() for x in maps)
        cells = sum(x[0].numel() for x in maps)
        assert record.anchors.shape == (n, cells, 4)
        assert record.shape_deltas.shape == (n, cells, 2)
        assert not record.anchors.requires_grad
        centers = (record.anchors[..., :2] + record.anchors[..., 2:]) / 2
        torch.testing.assert_close(centers, record.grid.centers.expand(n, -1, -1))
    run(model, batch)
    assert len(records) == 2


def test_recording_ends_with_an_error():
    model = build(tiny_config("proposals"))
    with pytest.raises(KeyError), record_guided_anchors(model) as records:
        raise KeyError
    infer(model, batch_of(SAME_PADDED_SIZE))
    assert records == []


def test_a_model_without_guided_anchors_has_nothing_to_record():
    cfg = tiny_config("proposals")
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model = build_model(cfg)
    with pytest.raises(ValueError, match=r"ProposalNetwork.*GuidedAnchorRPN"):
        record_guided_anchors(model).__enter__()
