"""The published models: their scores and the addresses of their weights."""

from typing import NamedTuple

__all__ = ["IMAGENET_BACKBONES", "PUBLISHED_MODELS", "PublishedModel", "RemoteFile"]

_OPENMMLAB = "http://download.openmmlab.com/"
_METHODS = {"rpn": "GA-RPN", "faster": "GA-Faster R-CNN", "retinanet": "GA-RetinaNet"}


class RemoteFile(NamedTuple):
    """A file of weights.

    Attributes:
        url: address of publication.
        sha256_prefix: hexadecimal digits with which the SHA-256 of the file begins.
    """

    url: str
    sha256_prefix: str


class PublishedModel(NamedTuple):
    """A model that MMDetection trained on COCO train2017 and published.

    Attributes:
        name: name of its configuration, and in ``ga://NAME``.
        coco_val2017: published score on val2017 in percent, see :attr:`metric`.
        train_mem_gb: training memory in GB.
        inference_fps: images per second on a V100; None if unknown.
        weights: last part of the file name of the weights, with the first digits of their SHA-256.
        log: last part of the file name of the training log.
    """

    name: str
    coco_val2017: float
    train_mem_gb: float
    inference_fps: float | None
    weights: str
    log: str

    @property
    def method(self) -> str:
        """Name of the method, such as ``GA-Faster R-CNN``."""
        return _METHODS[self.name.split("_")[1]]

    @property
    def metric(self) -> str:
        """``AR1000`` of proposals or ``box AP``."""
        return "AR1000" if self.method == "GA-RPN" else "box AP"

    @property
    def backbone(self) -> str:
        """Name of the backbone, such as ``X-101-32x4d-FPN``."""
        return "-".join([*self.name.split("_")[2:], "FPN"])

    @property
    def style(self) -> str:
        """Origin of the backbone, ``caffe`` or ``pytorch``."""
        return "pytorch" if "_X_" in self.name else "caffe"

    @property
    def sha256_prefix(self) -> str:
        """First eight hexadecimal digits of the SHA-256 of the weights."""
        return self.weights.rpartition("-")[2]

    @property
    def weights_url(self) -> str:
        """URL of the weights."""
        return f"{self._url}_{self.weights}.pth"

    @property
    def log_url(self) -> str:
        """URL of the training log."""
        return f"{self._url}_{self.log}.log.json"

    @property
    def _url(self) -> str:
        name = self.name.replace("_R_", "_r").replace("_X_", "_x")
        name += "_caffe_fpn_1x_coco" if self.style == "caffe" else "_fpn_1x_coco"
        return f"{_OPENMMLAB}mmdetection/v2.0/guided_anchoring/{name}/{name}"


PUBLISHED_MODELS: tuple[PublishedModel, ...] = tuple(
    PublishedModel(*row)
    for row in (
        # name, score on COCO val2017 (%), memory (GB), images/s, ends of file names
        ("ga_rpn_R_50", 68.4, 5.3, 15.8, "20200531-899008a6", "20200531_011819"),
        ("ga_rpn_R_101", 69.5, 7.3, 13.0, "20200531-ca9ba8fb", "20200531_011812"),
        ("ga_rpn_X_101_32x4d", 70.6, 8.5, 10.0, "20200220-c28d1b18", "20200220_221326"),
        ("ga_rpn_X_101_64x4d", 71.2, 7.1, 7.5, "20200225-3c6e1aa2", "20200225_152704"),
        ("ga_faster_R_50", 39.6, 5.5, None, "20200702_000718-a11ccfe6", "20200702_000718"),
        (
            *("ga_faster_R_101", 41.5, 7.5, None),
            *("bbox_mAP-0.415_20200505_115528-fb82e499", "20200505_115528"),
        ),
        ("ga_faster_X_101_32x4d", 43.0, 8.7, 9.7, "20200215-1ded9da3", "20200215_184547"),
        ("ga_faster_X_101_64x4d", 43.9, 11.8, 7.3, "20200215-0fa7bde7", "20200215_104455"),
        ("ga_retinanet_R_50", 37.0, 3.5, 16.8, "20200531-902ffd79", "20200531_012832"),
        ("ga_retinanet_R_101", 39.0, 5.5, 12.9, "20200531-6266453c", "20200531_012847"),
        ("ga_retinanet_X_101_32x4d", 40.5, 6.9, 10.6, "20200219-40c56caa", "20200219_223025"),
        ("ga_retinanet_X_101_64x4d", 41.3, 9.9, 7.7, "20200226-ef9f7f1f", "20200226_221123"),
    )
)

IMAGENET_BACKBONES: dict[str, RemoteFile] = {
    name: RemoteFile(f"{_OPENMMLAB}pretrain/third_party/{name}-{sha256}.pth", sha256)
    for name, sha256 in (("resnext101_32x4d", "a5af3160"), ("resnext101_64x4d", "ee2c6f71"))
}
"""Backbones trained on ImageNet, from which MMDetection trained its X-101 models."""
