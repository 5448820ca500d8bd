"""A trained model that also says what its location and shape branches made of an image."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import ConfigError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchors, record_guided_anchors

__all__ = ["GuidedPredictor", "Prediction", "find_weights"]


class Prediction(NamedTuple):
    """What a model says of one image. Boxes are in pixels of the image that it was given.

    Attributes:
        detections: ``pred_boxes``, ``scores``, ``pred_classes``, ...; None from a ProposalNetwork.
        proposals: ``proposal_boxes``, ``objectness_logits``; None from a one-stage detector.
        guided: location, shape and guided anchors, of a batch of this image; None from a model
            without guided anchors.
        input_size: (height, width) of the image as the network saw it, before padding.
    """

    detections: Instances | None
    proposals: Instances | None
    guided: GuidedAnchors | None
    input_size: tuple[int, int]


def find_weights(cfg: CfgNode, overrides: Sequence[str] = ()) -> str:
    """The weights that a user means: those named on the command line, or the last of the run.

    Args:
        cfg: complete.
        overrides: keys and values in turn, as given on the command line.

    Returns:
        ``MODEL.WEIGHTS`` if it is among ``overrides``, or else the last checkpoint in
        ``OUTPUT_DIR``, or else the ``MODEL.WEIGHTS`` of the configuration file.

    Raises:
        ConfigError: there are none.
    """
    if "MODEL.WEIGHTS" in overrides[::2] and cfg.MODEL.WEIGHTS:
        return str(cfg.MODEL.WEIGHTS)
    pointer = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if os.path.isfile(pointer):
        with open(pointer, encoding="utf-8") as file:
            return os.path.join(cfg.OUTPUT_DIR, file.read().strip())
    if cfg.MODEL.WEIGHTS:
        return str(cfg.MODEL.WEIGHTS)
    raise ConfigError(
        f"there are no weights: OUTPUT_DIR '{cfg.OUTPUT_DIR}' holds no checkpoint and "
        "MODEL.WEIGHTS is empty; train first, or add: MODEL.WEIGHTS path/to/model_final.pth"
    )


class GuidedPredictor:
    """Like detectron2's ``DefaultPredictor``, with proposals and guided anchors in its answer."""

    def __init__(self, cfg: CfgNode, weights: str | None = None):
        """
        Args:
            cfg: of any detectron2 model.
            weights: what to load, see ``GACheckpointer``; without it ``cfg.MODEL.WEIGHTS``.

        Raises:
            ConfigError: the model cannot be built.
            CheckpointError: the weights cannot be loaded.
        """
        if cfg.MODEL.LOAD_PROPOSALS:
            raise ConfigError(
                "MODEL.LOAD_PROPOSALS must be False: proposals from files belong to the images of "
                "a data set, and a model that reads them has no anchors of its own"
            )
        self.cfg = cfg.clone()
        try:
            self.model = build_model(self.cfg).eval()
        except ValueError as error:
            raise ConfigError(error) from error
        GACheckpointer(self.model).load(cfg.MODEL.WEIGHTS if weights is None else weights)
        names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
        self.metadata = MetadataCatalog.get(names[0] if names else "__unused")
        self.augmentation = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST
        )

    @property
    def has_guided_anchors(self) -> bool:
        """Whether its answers have ``guided``."""
        try:
            with record_guided_anchors(self.model):
                return True
        except ValueError:
            return False

    @property
    def location_threshold(self) -> float:
        """Location probability from which on a cell is kept."""
        return float(self.cfg.MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Prediction:
        """
        Args:
            image: (H, W, 3) uint8 RGB.
        """
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "BGR":
            image = image[:, :, ::-1]
        resized = self.augmentation.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        inputs = {"image": tensor, "height": height, "width": width}
        with contextlib.ExitStack() as stack:
            records: list[GuidedAnchors] = []
            if self.has_guided_anchors:
                records = stack.enter_context(record_guided_anchors(self.model))
            outputs = stack.enter_context(_record_proposals(self.model))
            answer = self.model([inputs])[0]
        proposals = answer.get("proposals")
        if proposals is None and outputs:
            proposals = detector_postprocess(outputs[0][0][0], height, width)
        return Prediction(
            detections=answer.get("instances"),
            proposals=proposals,
            guided=records[0] if records else None,
            input_size=(int(resized.shape[0]), int(resized.shape[1])),
        )


@contextlib.contextmanager
def _record_proposals(model: nn.Module) -> Iterator[list[Any]]:
    """Collect what the proposal generator, if there is one, returns meanwhile."""
    records: list[Any] = []
    generator = getattr(model, "proposal_generator", None)
    if generator is None:
        yield records
        return
    handle = generator.register_forward_hook(
        lambda _module, _inputs, output: records.append(output)
    )
    try:
        yield records
    finally:
        handle.remove()
