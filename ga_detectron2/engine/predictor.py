"""Inference on single images, with the outputs of the location and shape branches."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from ga_detectron2.data import check_num_classes
from ga_detectron2.errors import ConfigError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors
from ga_detectron2.modeling.rpn import GuidedAnchorRPN

from .inference_model import load_inference_model

__all__ = ["GuidedPredictor", "Prediction"]

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """Outputs of a model for one image. Boxes are in pixels of the original image.

    Attributes:
        detections: ``pred_boxes``, ``scores``, ``pred_classes``, ...; None for a ProposalNetwork.
        proposals: ``proposal_boxes``, ``objectness_logits``; None for a one-stage detector.
        guided: location, shape and guided anchors of a batch of this image; None for a model
            without guided anchors.
        anchors: (R, 4) tensor of all anchors in pixels of the resized image: those of ``guided``,
            or of detectron2's anchor generator.
        input_size: (height, width) of the resized image, before padding.
    """

    detections: Instances | None
    proposals: Instances | None
    guided: GuidedAnchors | None
    anchors: torch.Tensor | None
    input_size: tuple[int, int]


class GuidedPredictor:
    """detectron2's ``DefaultPredictor`` with proposals and guided anchors in its output."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: configuration of any detectron2 model, with ``MODEL.WEIGHTS``.

        Raises:
            ConfigError: the model cannot be built.
            CheckpointError: the weights cannot be loaded.
        """
        if cfg.MODEL.LOAD_PROPOSALS:
            raise ConfigError(
                "MODEL.LOAD_PROPOSALS must be False: stored proposals belong to the images of a "
                "dataset"
            )
        self.cfg = cfg.clone()
        self.model = load_inference_model(self.cfg)
        self.metadata = MetadataCatalog.get(_dataset_of_names(cfg))
        self.augmentation = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST
        )

    @property
    def available(self) -> frozenset[str]:
        """Names of the attributes of :class:`Prediction` that are not None."""
        names = {"anchors"}
        if hasattr(self.model, "proposal_generator"):
            names.add("proposals")
        if self.cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
            names.add("detections")
        if any(isinstance(m, GuidedAnchoring) for m in self.model.modules()):
            names.add("guided")
        return frozenset(names)

    @property
    def location_threshold(self) -> float:
        """Lowest location probability of the cells that are kept."""
        return float(self.cfg.MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Prediction:
        """
        Args:
            image: (H, W, 3) uint8 RGB.
        """
        height, width = image.shape[:2]
        image = convert_PIL_to_numpy(Image.fromarray(image), self.cfg.INPUT.FORMAT)
        resized = self.augmentation.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        inputs = {"image": tensor, "height": height, "width": width}
        with (
            _record(self.model, GuidedAnchoring) as guided,
            _record(self.model, DefaultAnchorGenerator) as generated,
            _record(self.model, GuidedAnchorRPN, RPN) as generators,
        ):
            output = self.model([inputs])[0]
        proposals = output.get("proposals")
        if proposals is None and generators:
            proposals = detector_postprocess(generators[0][0][0], height, width)
        anchors = None
        if guided:
            anchors = guided[0].anchors[0].cpu()
        elif generated:
            anchors = torch.cat([level.tensor for level in generated[0]]).cpu()
        return Prediction(
            detections=output.get("instances"),
            proposals=proposals,
            guided=guided[0] if guided else None,
            anchors=anchors,
            input_size=(int(resized.shape[0]), int(resized.shape[1])),
        )


def _dataset_of_names(cfg: CfgNode) -> str:
    """The dataset with the names of the model's classes; an empty one if their numbers differ."""
    names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    if not names:
        return "__unused"
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), names[:1]
    try:
        check_num_classes(cfg)
    except ValueError as error:
        logger.warning(
            f"Classes are shown as numbers: {error}, or choose the model's own dataset with "
            "--dataset and DATASETS.TEST"
        )
        return "__unused"
    return str(names[0])


@contextlib.contextmanager
def _record(model: nn.Module, *kinds: type[nn.Module]) -> Iterator[list[Any]]:
    """Collect the outputs of modules of these kinds while the context is active."""
    records: list[Any] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: records.append(output))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
