"""Statistics and pictures of guided anchors in training, for TensorBoard and metrics.json."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ga_detectron2.evaluation.anchor_stats import AnchorStats, summarize
from ga_detectron2.modeling.guided_anchoring import (
    GuidedAnchoring,
    GuidedAnchors,
    record_guided_anchors,
)

__all__ = ["GuidedAnchorHook"]

SCALARS = (
    "kept_share",
    "center_recall",
    "center_probability",
    "outside_probability",
    "iou_square",
    "iou_approximate",
    "iou_guided",
)

MIN_SIDE = 640
"""Pixels of the longer side of a picture; smaller images are enlarged to it."""


class GuidedAnchorHook(HookBase):
    """Writes statistics and pictures of the location and shape branches to the event storage.

    Scalars ``guided_anchors/...`` (see :meth:`.GuidedAnchorDiagnosis.evaluate`): the share of cells
    that pass the location filter, the share of objects whose centre does, the mean location
    probability at centres and outside of objects, and the mean best IoU of squares, approximate
    anchors and guided anchors with the objects.

    Pictures of the first image of the batch: ``guided_anchors/location`` (heat map),
    ``guided_anchors/anchors`` and ``guided_anchors/targets``.

    Any trainer can register it, for example
    ``trainer.register_hooks([GuidedAnchorHook(trainer.model)])``. The model's outputs are recorded
    while it trains, on the main process; other iterations cost nothing.
    """

    def __init__(self, model: nn.Module, period: int = 20, vis_period: int = 0):
        """
        Args:
            model: model with guided anchors that the trainer trains.
            period: iterations between scalars; detectron2's writers take them every 20.
            vis_period: iterations between pictures, 0 for none.

        Raises:
            ImportError: pictures need matplotlib, which is missing.
            ValueError: the model has no guided anchors.
        """
        if vis_period > 0:
            import ga_detectron2.visualization  # noqa: F401  (fails before training starts)
        with record_guided_anchors(model):
            pass
        self._model, self._period, self._vis_period = model, period, vis_period
        self._settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
        self._inputs: list[dict[str, Any]] = []
        self._recording = ExitStack()

    def before_step(self) -> None:
        iteration = self.trainer.iter + 1
        self._numbers_due = iteration % self._period == 0
        # The same iterations as those of detectron2's own pictures.
        self._pictures_due = self._vis_period > 0 and self.trainer.iter % self._vis_period == 0
        if not (self._numbers_due or self._pictures_due) or not comm.is_main_process():
            self._numbers_due = self._pictures_due = False
            return
        self._records = self._recording.enter_context(record_guided_anchors(self._model))
        handle = self._model.register_forward_pre_hook(self._remember_inputs)
        self._recording.callback(handle.remove)

    def after_step(self) -> None:
        self._recording.close()
        if not (self._numbers_due or self._pictures_due):
            return
        # The last batch, if there were several.
        guided, inputs = self._records[-1], self._inputs
        self._records, self._inputs = [], []
        with torch.no_grad():
            if self._numbers_due:
                self._write_numbers(guided, inputs)
            if self._pictures_due:
                self._write_pictures(guided, inputs[0])

    def _remember_inputs(self, _model: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._inputs = arguments[0]

    def _write_numbers(self, guided: GuidedAnchors, inputs: list[dict[str, Any]]) -> None:
        stats = AnchorStats(self._settings)
        stats.add(guided, [x["instances"] for x in inputs])
        found = summarize(stats.sums.sum(dim=0))
        for name in SCALARS:
            if found[name] is not None:
                get_event_storage().put_scalar(f"guided_anchors/{name}", found[name])

    def _write_pictures(self, guided: GuidedAnchors, image: dict[str, Any]) -> None:
        from ga_detectron2.visualization import anchors_of_image, draw_guided_anchors, draw_location
        from ga_detectron2.visualization.target_panel import make_target_panel

        size = image["instances"].image_size
        pixels = image["image"].detach().cpu().permute(1, 2, 0)
        rgb = convert_image_to_rgb(pixels, self._input_format(pixels.shape[2]))
        anchors = anchors_of_image(guided, size)
        threshold = self._settings.loc_filter_thresh
        scale = max(1.0, MIN_SIDE / max(size))
        pictures = {
            "location": draw_location(rgb, anchors, scale=scale),
            "anchors": draw_guided_anchors(rgb, anchors, threshold=threshold, scale=scale),
            "targets": make_target_panel(rgb, image["instances"].to("cpu"), self._settings),
        }
        for name, picture in pictures.items():
            get_event_storage().put_image(
                f"guided_anchors/{name}", np.ascontiguousarray(picture.transpose(2, 0, 1))
            )

    def _input_format(self, num_channels: int) -> str:
        """Channel order of the model's input."""
        model = getattr(self._model, "module", self._model)
        return getattr(model, "input_format", None) or ("L" if num_channels == 1 else "BGR")
