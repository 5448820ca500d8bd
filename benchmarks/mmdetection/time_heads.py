"""Times MMDetection's guided anchoring heads, in an environment of its own: see README.md.

    ENV/bin/python benchmarks/mmdetection/time_heads.py inputs.npz CASE --output times.json

``compare.py`` writes ``inputs.npz`` and starts this script, which imports nothing of this project.
Heads are built from the configs of the installed mmdet, with random weights; their location bias
lets the share of the cells pass that the inputs name.

MMDetection's inference does not run on a CPU: its masked convolution has no kernel there. It is
replaced by the plain convolution that it computes where nothing is masked; the location filter
still decides which cells become boxes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

CONFIGS = {
    "rpn": "guided_anchoring/ga-rpn_r50-caffe_fpn_1x_coco.py",
    "retinanet": "guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
}
LOC_FILTER = 0.01
STRIDES = (4, 8, 16, 32, 64)


def replace_masked_conv():
    """Let inference run on a CPU, see the beginning of this file."""
    from mmcv.ops import MaskedConv2d

    def forward(self, features, mask=None):
        return nn.Conv2d.forward(self, features)

    MaskedConv2d.forward = forward


def build_head(kind):
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    configs = Path(mmdet.__file__).parent / ".mim" / "configs"
    model = Config.fromfile(str(configs / CONFIGS[kind])).model
    if kind == "rpn":
        head, train, test = model.rpn_head, model.train_cfg.rpn, model.test_cfg.rpn
        head.num_classes = 1
    else:
        head, train, test = model.bbox_head, model.train_cfg, model.test_cfg
    head.update(train_cfg=train, test_cfg=test)
    torch.manual_seed(0)
    built = MODELS.build(head)
    built.init_weights()
    return built


def set_share(head, maps, share):
    head.eval()
    with torch.no_grad():
        logits = torch.cat([x.flatten() for x in head(maps)[3]])
        # By rank, since quantile takes no more than 16 million numbers.
        rank = max(1, min(len(logits), round((1 - share) * len(logits))))
        head.conv_loc.bias += torch.logit(torch.tensor(LOC_FILTER)) - logits.kthvalue(rank).values


def make_ground_truth(inputs, batch, with_classes):
    from mmengine.structures import InstanceData

    instances = []
    for i in range(batch):
        boxes = torch.from_numpy(inputs[f"boxes.{i}"])
        labels = torch.from_numpy(inputs[f"classes.{i}"]).long()
        labels = labels if with_classes else torch.zeros_like(labels)
        instances.append(InstanceData(bboxes=boxes, labels=labels))
    return instances


def make_step(case, inputs):
    """A call that runs a case once."""
    kind, mode, *more = case.split("-")
    head = build_head(kind)
    size = tuple(int(x) for x in inputs["size"])
    batch = int(inputs["batch"])
    meta = {"img_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
    metas = [meta] * batch
    truth = make_ground_truth(inputs, batch, with_classes=kind == "retinanet")
    if mode == "targets":
        return targets_step(head, size, metas, truth)
    first = 2 if kind == "rpn" else 3
    maps = [torch.from_numpy(inputs[f"p{i}"]) for i in range(first, first + 5)]
    set_share(head, maps, float(inputs["share"]))
    if mode == "inference":

        def infer():
            with torch.no_grad():
                head.predict_by_feat(*head(maps), batch_img_metas=metas)

        return infer

    head.train()
    for x in maps:
        x.requires_grad_()

    def train():
        outputs = head(maps)
        losses = head.loss_by_feat(*outputs, truth, metas)
        if more == ["proposals"]:
            with torch.no_grad():
                head.predict_by_feat(*outputs, batch_img_metas=metas)
        sum(sum(x) if isinstance(x, list) else x for x in losses.values()).backward()
        head.zero_grad(set_to_none=True)
        for x in maps:
            x.grad = None

    return train


def targets_step(head, size, metas, truth):
    """Location, shape and box targets; the guided anchors are made before."""
    padded = tuple(-(-s // 32) * 32 for s in size)
    sizes = [tuple(-(-s // stride) for s in padded) for stride in STRIDES]
    torch.manual_seed(0)
    shapes = [0.3 * torch.randn(len(metas), 2, *s) for s in sizes]
    locations = [torch.zeros(len(metas), 1, *s) for s in sizes]
    squares, anchors, _ = head.get_anchors(sizes, shapes, locations, metas, device="cpu")

    def targets():
        with torch.no_grad():
            head.ga_loc_targets(truth, sizes)
            # MMDetection makes these in every step.
            approximate, inside = head.get_sampled_approxs(sizes, metas, device="cpu")
            head.ga_shape_targets(approximate, inside, squares, truth, metas)
            head.get_targets([list(a) for a in anchors], inside, truth, metas)

    return targets


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("inputs", type=Path)
    parser.add_argument("case", help="such as rpn-training-proposals or rpn-targets")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    replace_masked_conv()
    import mmcv
    import mmdet

    step = make_step(args.case, np.load(args.inputs, allow_pickle=False))
    step()
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    versions = {"mmdet": mmdet.__version__, "mmcv": mmcv.__version__, "torch": torch.__version__}
    args.output.write_text(json.dumps({"versions": versions, "seconds": seconds}))


if __name__ == "__main__":
    main()
