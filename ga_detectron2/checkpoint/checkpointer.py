"""A checkpointer of detectron2 that also takes the files of others."""

import os
from typing import Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer

from .conversion import (
    BOTTOM_UP,
    ConvertedWeights,
    check_fit,
    convert_weights,
    is_backbone_name,
    is_needed,
)
from .errors import CheckpointError
from .files import read_checkpoint_file

__all__ = ["GACheckpointer"]


class GACheckpointer(DetectionCheckpointer):
    """A :class:`DetectionCheckpointer` that takes files of detectron2, MMDetection and torchvision.

    Which of them a file is shows in the names of its tensors:

    - detectron2's own files, with the model's names, are loaded as detectron2 loads them: tensors
      that do not fit are named in warnings. So it is with the names that
      ``tools/convert_checkpoint.py`` writes.
    - MMDetection's models are converted on the way. Every tensor must find its place in the model,
      and every place its tensor.
    - Backbones trained on ImageNet (detectron2's, MMDetection's, torchvision's) go into the
      backbone. It must be complete; a warning names the rest, which keeps its initial values.

    In no file is anything executed: ``weights_only`` for what ``torch.save`` wrote, and for
    detectron2's ``.pkl`` files :func:`~.numpy_pickle.load_numpy_pickle`. Saving, resuming and
    ``last_checkpoint`` are detectron2's.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file into the model.

        Args:
            path: a local path, ``http(s)://``, ``detectron2://``, ``catalog://`` or ``ga://``;
                nothing is loaded where it is empty.
            args, kwargs: as in :meth:`fvcore.common.checkpoint.Checkpointer.load`.

        Returns:
            What a file of detectron2 holds beside the model; nothing of others' files.

        Raises:
            CheckpointError: in one line, for a file that is absent, damaged, of another kind, or
                (if it is not detectron2's) of another model. The model may have changed by then.
        """
        try:
            if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
                raise CheckpointError("there is no such file")
            return super().load(path, *args, **kwargs)
        except CheckpointError as e:
            raise type(e)(f"{path}: {e}") from e
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = read_checkpoint_file(filename)
        query = self._parsed_url_during_load.query if self._parsed_url_during_load else ""
        for key, values in parse_qs(query).items():
            if key != "matching_heuristics" or values not in (["True"], ["False"]):
                raise CheckpointError(
                    f"'?{query}' is not understood: only '?matching_heuristics=True' is"
                )
            loaded["matching_heuristics"] = values == ["True"]
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        model_state = self.model.state_dict()
        names = [str(name).removeprefix("module.") for name in checkpoint["model"]]
        by_heuristics = bool(checkpoint.get("matching_heuristics", False))
        if not by_heuristics and not any(name in model_state for name in names):
            weights = convert_weights(checkpoint["model"])
            by_heuristics = weights.is_backbone
            self._use_converted(checkpoint, weights)
        incompatible = super()._load_model(checkpoint)
        checkpoint.pop("matching_heuristics", None)
        if by_heuristics:
            missing = [n for n in incompatible.missing_keys if is_backbone_name(n) and is_needed(n)]
            if missing:
                more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
                raise CheckpointError(
                    f"there is no tensor of the right shape for '{missing[0]}'{more} of this "
                    "model: is it another backbone's file?"
                )
        return incompatible

    def _use_converted(self, checkpoint: dict[str, Any], weights: ConvertedWeights) -> None:
        """Put converted tensors into the place of a file's content."""
        model_state = self.model.state_dict()
        # What else is in such a file, as an optimizer's state, is not for us.
        checkpoint.clear()
        if not weights.is_backbone:
            check_fit(weights, model_state)
            self.logger.info(f"Converted {len(weights.tensors)} tensors of an MMDetection model")
            checkpoint["model"] = weights.tensors
            return
        if any(name.startswith(BOTTOM_UP) for name in model_state):
            check_fit(weights, model_state)
        self.logger.info(
            f"Converted {len(weights.tensors)} tensors of a backbone; what is not a backbone's "
            "keeps its initial values"
        )
        # Without the prefix they also find their places in a model whose ResNet has no pyramid.
        checkpoint["model"] = {n.removeprefix(BOTTOM_UP): t for n, t in weights.tensors.items()}
        checkpoint["matching_heuristics"] = True
