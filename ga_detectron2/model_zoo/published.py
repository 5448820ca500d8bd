"""The published models: what each scores, and where its weights are. The only place for this."""

from typing import NamedTuple

__all__ = ["IMAGENET_BACKBONES", "PUBLISHED_MODELS", "PublishedModel", "RemoteFile"]

_OPENMMLAB = "http://download.openmmlab.com/"
_GUIDED_ANCHORING = _OPENMMLAB + "mmdetection/v2.0/guided_anchoring/"


class RemoteFile(NamedTuple):
    """A file of weights.

    Attributes:
        url: where it was published.
        sha256_prefix: hexadecimal digits with which the file's SHA-256 begins.
    """

    url: str
    sha256_prefix: str


class PublishedModel(NamedTuple):
    """A model that MMDetection has trained and published.

    Attributes:
        name: of its configuration, and in ``ga://NAME``.
        style: ``caffe`` or ``pytorch``, the origin of its backbone.
        train_mem_gb, inference_fps: as published, on a V100; None where it is unknown.
        metric: ``AR1000`` of proposals or ``box AP``, in percent, on COCO val2017.
        coco_val2017: the published value of the metric.
        sha256_prefix: the first eight hexadecimal digits of the SHA-256 of its file.
    """

    name: str
    method: str
    backbone: str
    style: str
    schedule: str
    train_mem_gb: float
    inference_fps: float | None
    metric: str
    coco_val2017: float
    sha256_prefix: str
    weights_url: str
    log_url: str


PUBLISHED_MODELS: tuple[PublishedModel, ...] = (
    PublishedModel(
        name="ga_rpn_R_50",
        method="GA-RPN",
        backbone="R-50-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=5.3,
        inference_fps=15.8,
        metric="AR1000",
        coco_val2017=68.4,
        sha256_prefix="899008a6",
        weights_url=_GUIDED_ANCHORING + "ga_rpn_r50_caffe_fpn_1x_coco/"
        "ga_rpn_r50_caffe_fpn_1x_coco_20200531-899008a6.pth",
        log_url=_GUIDED_ANCHORING + "ga_rpn_r50_caffe_fpn_1x_coco/"
        "ga_rpn_r50_caffe_fpn_1x_coco_20200531_011819.log.json",
    ),
    PublishedModel(
        name="ga_rpn_R_101",
        method="GA-RPN",
        backbone="R-101-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=7.3,
        inference_fps=13.0,
        metric="AR1000",
        coco_val2017=69.5,
        sha256_prefix="ca9ba8fb",
        weights_url=_GUIDED_ANCHORING + "ga_rpn_r101_caffe_fpn_1x_coco/"
        "ga_rpn_r101_caffe_fpn_1x_coco_20200531-ca9ba8fb.pth",
        log_url=_GUIDED_ANCHORING + "ga_rpn_r101_caffe_fpn_1x_coco/"
        "ga_rpn_r101_caffe_fpn_1x_coco_20200531_011812.log.json",
    ),
    PublishedModel(
        name="ga_rpn_X_101_32x4d",
        method="GA-RPN",
        backbone="X-101-32x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=8.5,
        inference_fps=10.0,
        metric="AR1000",
        coco_val2017=70.6,
        sha256_prefix="c28d1b18",
        weights_url=_GUIDED_ANCHORING + "ga_rpn_x101_32x4d_fpn_1x_coco/"
        "ga_rpn_x101_32x4d_fpn_1x_coco_20200220-c28d1b18.pth",
        log_url=_GUIDED_ANCHORING + "ga_rpn_x101_32x4d_fpn_1x_coco/"
        "ga_rpn_x101_32x4d_fpn_1x_coco_20200220_221326.log.json",
    ),
    PublishedModel(
        name="ga_rpn_X_101_64x4d",
        method="GA-RPN",
        backbone="X-101-64x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=7.1,
        inference_fps=7.5,
        metric="AR1000",
        coco_val2017=71.2,
        sha256_prefix="3c6e1aa2",
        weights_url=_GUIDED_ANCHORING + "ga_rpn_x101_64x4d_fpn_1x_coco/"
        "ga_rpn_x101_64x4d_fpn_1x_coco_20200225-3c6e1aa2.pth",
        log_url=_GUIDED_ANCHORING + "ga_rpn_x101_64x4d_fpn_1x_coco/"
        "ga_rpn_x101_64x4d_fpn_1x_coco_20200225_152704.log.json",
    ),
    PublishedModel(
        name="ga_faster_R_50",
        method="GA-Faster RCNN",
        backbone="R-50-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=5.5,
        inference_fps=None,
        metric="box AP",
        coco_val2017=39.6,
        sha256_prefix="a11ccfe6",
        weights_url=_GUIDED_ANCHORING + "ga_faster_r50_caffe_fpn_1x_coco/"
        "ga_faster_r50_caffe_fpn_1x_coco_20200702_000718-a11ccfe6.pth",
        log_url=_GUIDED_ANCHORING + "ga_faster_r50_caffe_fpn_1x_coco/"
        "ga_faster_r50_caffe_fpn_1x_coco_20200702_000718.log.json",
    ),
    PublishedModel(
        name="ga_faster_R_101",
        method="GA-Faster RCNN",
        backbone="R-101-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=7.5,
        inference_fps=None,
        metric="box AP",
        coco_val2017=41.5,
        sha256_prefix="fb82e499",
        weights_url=_GUIDED_ANCHORING + "ga_faster_r101_caffe_fpn_1x_coco/"
        "ga_faster_r101_caffe_fpn_1x_coco_bbox_mAP-0.415_20200505_115528-fb82e499.pth",
        log_url=_GUIDED_ANCHORING + "ga_faster_r101_caffe_fpn_1x_coco/"
        "ga_faster_r101_caffe_fpn_1x_coco_20200505_115528.log.json",
    ),
    PublishedModel(
        name="ga_faster_X_101_32x4d",
        method="GA-Faster RCNN",
        backbone="X-101-32x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=8.7,
        inference_fps=9.7,
        metric="box AP",
        coco_val2017=43.0,
        sha256_prefix="1ded9da3",
        weights_url=_GUIDED_ANCHORING + "ga_faster_x101_32x4d_fpn_1x_coco/"
        "ga_faster_x101_32x4d_fpn_1x_coco_20200215-1ded9da3.pth",
        log_url=_GUIDED_ANCHORING + "ga_faster_x101_32x4d_fpn_1x_coco/"
        "ga_faster_x101_32x4d_fpn_1x_coco_20200215_184547.log.json",
    ),
    PublishedModel(
        name="ga_faster_X_101_64x4d",
        method="GA-Faster RCNN",
        backbone="X-101-64x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=11.8,
        inference_fps=7.3,
        metric="box AP",
        coco_val2017=43.9,
        sha256_prefix="0fa7bde7",
        weights_url=_GUIDED_ANCHORING + "ga_faster_x101_64x4d_fpn_1x_coco/"
        "ga_faster_x101_64x4d_fpn_1x_coco_20200215-0fa7bde7.pth",
        log_url=_GUIDED_ANCHORING + "ga_faster_x101_64x4d_fpn_1x_coco/"
        "ga_faster_x101_64x4d_fpn_1x_coco_20200215_104455.log.json",
    ),
    PublishedModel(
        name="ga_retinanet_R_50",
        method="GA-RetinaNet",
        backbone="R-50-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=3.5,
        inference_fps=16.8,
        metric="box AP",
        coco_val2017=37.0,
        sha256_prefix="902ffd79",
        weights_url=_GUIDED_ANCHORING + "ga_retinanet_r50_caffe_fpn_1x_coco/"
        "ga_retinanet_r50_caffe_fpn_1x_coco_20200531-902ffd79.pth",
        log_url=_GUIDED_ANCHORING + "ga_retinanet_r50_caffe_fpn_1x_coco/"
        "ga_retinanet_r50_caffe_fpn_1x_coco_20200531_012832.log.json",
    ),
    PublishedModel(
        name="ga_retinanet_R_101",
        method="GA-RetinaNet",
        backbone="R-101-FPN",
        style="caffe",
        schedule="1x",
        train_mem_gb=5.5,
        inference_fps=12.9,
        metric="box AP",
        coco_val2017=39.0,
        sha256_prefix="6266453c",
        weights_url=_GUIDED_ANCHORING + "ga_retinanet_r101_caffe_fpn_1x_coco/"
        "ga_retinanet_r101_caffe_fpn_1x_coco_20200531-6266453c.pth",
        log_url=_GUIDED_ANCHORING + "ga_retinanet_r101_caffe_fpn_1x_coco/"
        "ga_retinanet_r101_caffe_fpn_1x_coco_20200531_012847.log.json",
    ),
    PublishedModel(
        name="ga_retinanet_X_101_32x4d",
        method="GA-RetinaNet",
        backbone="X-101-32x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=6.9,
        inference_fps=10.6,
        metric="box AP",
        coco_val2017=40.5,
        sha256_prefix="40c56caa",
        weights_url=_GUIDED_ANCHORING + "ga_retinanet_x101_32x4d_fpn_1x_coco/"
        "ga_retinanet_x101_32x4d_fpn_1x_coco_20200219-40c56caa.pth",
        log_url=_GUIDED_ANCHORING + "ga_retinanet_x101_32x4d_fpn_1x_coco/"
        "ga_retinanet_x101_32x4d_fpn_1x_coco_20200219_223025.log.json",
    ),
    PublishedModel(
        name="ga_retinanet_X_101_64x4d",
        method="GA-RetinaNet",
        backbone="X-101-64x4d-FPN",
        style="pytorch",
        schedule="1x",
        train_mem_gb=9.9,
        inference_fps=7.7,
        metric="box AP",
        coco_val2017=41.3,
        sha256_prefix="ef9f7f1f",
        weights_url=_GUIDED_ANCHORING + "ga_retinanet_x101_64x4d_fpn_1x_coco/"
        "ga_retinanet_x101_64x4d_fpn_1x_coco_20200226-ef9f7f1f.pth",
        log_url=_GUIDED_ANCHORING + "ga_retinanet_x101_64x4d_fpn_1x_coco/"
        "ga_retinanet_x101_64x4d_fpn_1x_coco_20200226_221123.log.json",
    ),
)

# What MMDetection begins the training of its X-101 models with, trained on ImageNet.
IMAGENET_BACKBONES: dict[str, RemoteFile] = {
    "resnext101_32x4d": RemoteFile(
        _OPENMMLAB + "pretrain/third_party/resnext101_32x4d-a5af3160.pth", "a5af3160"
    ),
    "resnext101_64x4d": RemoteFile(
        _OPENMMLAB + "pretrain/third_party/resnext101_64x4d-ee2c6f71.pth", "ee2c6f71"
    ),
}
