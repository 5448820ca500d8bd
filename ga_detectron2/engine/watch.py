"""What guided anchoring does while it is trained, for TensorBoard and metrics.json."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ga_detectron2.evaluation.anchor_tally import AnchorTally, shares
from ga_detectron2.modeling.guided_anchoring import (
    GuidedAnchoring,
    GuidedAnchors,
    record_guided_anchors,
)

__all__ = ["GuidedAnchorWatch", "watch_guided_anchors"]

SCALARS = (
    "kept_share",
    "center_recall",
    "center_probability",
    "outside_probability",
    "iou_square",
    "iou_approximate",
    "iou_guided",
)

LEAST_SIDE = 640
"""Pixels of the longer side of a picture, to which smaller ones are enlarged."""


def watch_guided_anchors(model: nn.Module, vis_period: int = 0) -> list[HookBase]:
    """A :class:`GuidedAnchorWatch` for a model with guided anchors, and nothing for another.

    Args:
        model, vis_period: see there.
    """
    if any(isinstance(m, GuidedAnchoring) for m in model.modules()):
        return [GuidedAnchorWatch(model, vis_period=vis_period)]
    return []


class GuidedAnchorWatch(HookBase):
    """Writes to the event storage what the location and shape branches say of the batch at hand.

    Numbers, ``guided_anchors/...`` (see :meth:`.GuidedAnchorDiagnosis.evaluate`): the share of the
    cells that pass the filter, the share of objects whose centre does, the location probability at
    centres and outside, and the mean best IoU of squares, approximate and guided anchors.

    Pictures of the first image of the batch: ``guided_anchors/location`` (heat map),
    ``guided_anchors/anchors`` and ``guided_anchors/targets``.

    Nothing is computed in the other iterations, and the model knows nothing of it: what it makes
    of its input is recorded while it trains. Only the main process does it.
    """

    def __init__(self, model: nn.Module, period: int = 20, vis_period: int = 0):
        """
        Args:
            model: that is trained, with guided anchors.
            period: iterations between numbers; detectron2's writers take them every 20.
            vis_period: iterations between pictures, 0 for none.

        Raises:
            ImportError: pictures are wanted, but matplotlib is missing.
            ValueError: the model has no guided anchors.
        """
        if vis_period > 0:
            import matplotlib  # noqa: F401  (before any work is lost)
        with record_guided_anchors(model):
            pass
        self._model, self._period, self._vis_period = model, period, vis_period
        self._settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
        self._inputs: list[dict[str, Any]] = []
        self._recording = ExitStack()

    def before_step(self) -> None:
        iteration = self.trainer.iter + 1
        self._numbers_due = iteration % self._period == 0
        # Of the iterations that detectron2's models choose for their own pictures.
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
        # With gradient accumulation, say, the last batch.
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
        tally = AnchorTally(self._settings)
        tally.add(guided, [x["instances"] for x in inputs])
        found = shares(tally.sums.sum(dim=0))
        for name in SCALARS:
            if found[name] is not None:
                get_event_storage().put_scalar(f"guided_anchors/{name}", found[name])

    def _write_pictures(self, guided: GuidedAnchors, image: dict[str, Any]) -> None:
        from ga_detectron2.visualization import draw_guided_anchors, draw_location
        from ga_detectron2.visualization.targets import make_target_panel

        size = image["instances"].image_size
        pixels = image["image"].detach().cpu().permute(1, 2, 0)
        rgb = convert_image_to_rgb(pixels, self._model_format())
        threshold = self._settings.loc_filter_thresh
        scale = max(1.0, LEAST_SIDE / max(size))
        pictures = {
            "location": draw_location(rgb, guided, size, scale=scale),
            "anchors": draw_guided_anchors(rgb, guided, size, threshold=threshold, scale=scale),
            "targets": make_target_panel(rgb, image["instances"].to("cpu"), size, self._settings),
        }
        for name, picture in pictures.items():
            get_event_storage().put_image(
                f"guided_anchors/{name}", np.ascontiguousarray(picture.transpose(2, 0, 1))
            )

    def _model_format(self) -> str:
        """The order of channels of the model's input; detectron2's models have it."""
        model = getattr(self._model, "module", self._model)
        return getattr(model, "input_format", None) or "BGR"
