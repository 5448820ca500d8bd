"""detectron2's checkpointer, extended by MMDetection's and torchvision's files."""

import contextlib
import http.client
import io
import os
import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ga_detectron2.atomic import atomic_open
from ga_detectron2.errors import CheckpointError

from .conversion import AUTHOR, check_fit, convert_weights, save_content
from .reading import load_torch, read_checkpoint

__all__ = ["GACheckpointer"]

# The checkpoint of an iteration, as detectron2's PeriodicCheckpointer names it.
_NUMBERED = re.compile(r"model_(\d{7})\.pth")


class GACheckpointer(DetectionCheckpointer):
    """:class:`DetectionCheckpointer` that also loads files of MMDetection and torchvision.

    The names of a file's tensors decide how it is loaded:

    - detectron2's own names: as in detectron2. Tensors that do not fit are left out, with warnings.
    - MMDetection's models: converted while loading; the file must fit the whole model.
    - Backbones trained on ImageNet, and converted files (``ga://NAME`` and those of
      ``tools/convert_checkpoint.py``): the backbone must be complete; other tensors that do not fit
      are left out, with warnings, as for training with another number of classes.

    Files are read without executing pickled code. Checkpoints are written atomically, and a
    training whose last checkpoint is damaged resumes from the previous one.
    """

    def __init__(self, *args: Any, complete: bool = False, **kwargs: Any):
        """
        Args:
            args, kwargs: as in :class:`DetectionCheckpointer`.
            complete: whether to refuse files that lack a tensor of the model, as for inference.
        """
        super().__init__(*args, **kwargs)
        self.complete = complete
        self._read: tuple[str, dict[str, Any]] | None = None

    # -- Saving ------------------------------------------------------------------------------------

    def save(self, name: str, **kwargs: Any) -> None:
        """Saves atomically and converts NumPy scalars to Python numbers.

        Raises:
            CheckpointError: the file cannot be written, as on a full disk, or could not be loaded
                again. An existing file is unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        states = {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        states = _map_state(_as_plain, states)
        for key, state in states.items():
            try:
                _check_loadable(state)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{path}: not written, since it could not be loaded again: '{key}' {error}"
                ) from error
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            save_content({"model": self.model.state_dict(), **states}, path)
            self.tag_last_checkpoint(os.path.basename(path))
        except OSError as error:
            last = os.path.basename(self.get_checkpoint_file())
            raise CheckpointError(
                f"{path}: cannot be written ({error.strerror}). "
                + (f"The last checkpoint is {last}" if last else "There is no checkpoint yet")
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes atomically, otherwise as in detectron2."""
        with atomic_open(os.path.join(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    # -- Resuming ----------------------------------------------------------------------------------

    def get_checkpoint_file(self) -> str:
        """Returns ``save_dir/`` (no file name) if ``last_checkpoint`` is damaged."""
        file = ""
        with contextlib.suppress(UnicodeDecodeError):
            file = super().get_checkpoint_file()
            # Zeros are what a crashed machine may leave in place of a name.
            if file.removeprefix(self.save_dir).isprintable():
                return file
        return os.path.join(self.save_dir, "")

    def find_last(self) -> str:
        """The path of the last checkpoint; "" if there is none.

        If ``last_checkpoint`` is damaged, the newest one that can be read.

        Raises:
            CheckpointError: none can be read.
        """
        last = self.get_checkpoint_file()
        return last if not last or os.path.basename(last) else self._read_last()

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Like detectron2's, but falls back to the previous checkpoint if the last one is damaged.

        All processes load the file that the main process chooses.

        Args:
            path: weights to load if nothing is resumed.
            resume: whether to resume if there is a checkpoint.

        Raises:
            CheckpointError: no checkpoint can be read, or not by all processes.
        """
        chosen: str | CheckpointError = ""
        if resume and comm.is_main_process() and self.has_checkpoint():
            try:
                chosen = self._read_last()
            except CheckpointError as error:
                chosen = error
        chosen = comm.all_gather(chosen)[0]
        if isinstance(chosen, CheckpointError):
            raise CheckpointError(
                f"{chosen}. Train into another OUTPUT_DIR, or without --resume"
            ) from chosen
        if not chosen:
            return self.load(path, checkpointables=[])
        found = comm.all_gather((os.path.isfile(chosen), socket.gethostname()))
        for rank, (is_there, host) in enumerate(found):
            if not is_there:
                raise CheckpointError(
                    f"{chosen}: process {rank} on {host} does not find this file; OUTPUT_DIR must "
                    "be a folder that all machines share"
                )
        return self.load(chosen)

    def _read_last(self) -> str:
        """Read the newest checkpoint that can be read, for :meth:`load`; return its path."""
        failures = []
        for file in self._list_checkpoints():
            try:
                self._read = file, read_checkpoint(file)
            except (CheckpointError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                failures.append(f"{file}: {reason}")
                self.logger.warning(f"Cannot resume from {failures[-1]}")
                continue
            if failures:
                self.logger.warning(f"Resuming from an earlier checkpoint: {file}")
            return file
        reason = "; ".join(failures) or "last_checkpoint names none, and there is none"
        raise CheckpointError(f"{self.save_dir}: no checkpoint can be read ({reason})")

    def _list_checkpoints(self) -> list[str]:
        """The last checkpoint and those of earlier iterations, newest first."""
        numbers = {}
        for file in self.get_all_checkpoint_files():
            if match := _NUMBERED.fullmatch(os.path.basename(file)):
                numbers[file] = int(match[1])
        newest_first = sorted(numbers, key=lambda file: -numbers[file])
        last = self.get_checkpoint_file()
        if os.path.basename(last):
            # Files with higher numbers are another run's, or were not yet named as the last.
            match = _NUMBERED.fullmatch(os.path.basename(last))
            limit = int(match[1]) if match else float("inf")
            return [last, *(file for file in newest_first if numbers[file] < limit)]
        self.logger.warning(
            f"{os.path.join(self.save_dir, 'last_checkpoint')} is empty or damaged: taking the "
            "newest checkpoint of the folder that can be read"
        )
        # The final one comes last: it may be another training's.
        final = os.path.join(self.save_dir, "model_final.pth")
        return [*newest_first, *([final] if os.path.isfile(final) else [])]

    # -- Loading -----------------------------------------------------------------------------------

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file into the model.

        Args:
            path: local path, ``http(s)://``, ``detectron2://``, ``catalog://`` or ``ga://``; if it
                is empty, nothing is loaded.
            args, kwargs: as in :meth:`fvcore.common.checkpoint.Checkpointer.load`.

        Returns:
            What a detectron2 file holds besides the model.

        Raises:
            CheckpointError: the file is missing, damaged, in an unknown format, or of another
                model. The model may have been changed.
        """
        is_local = "://" not in path
        try:
            if path and is_local and not os.path.isfile(path.split("?")[0]):
                raise CheckpointError("there is no such file")
            return super().load(path, *args, **kwargs)
        except CheckpointError as error:
            raise type(error)(f"{path}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            if is_local:
                raise
            raise CheckpointError(
                f"{path}: cannot be downloaded ({getattr(error, 'reason', error)}). Check the "
                "network, or download it elsewhere and set MODEL.WEIGHTS to the local file"
            ) from error
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        (path, content), self._read = self._read or ("", {}), None
        if path != filename:
            content = read_checkpoint(filename)
        query = self._parsed_url_during_load.query if self._parsed_url_during_load else ""
        for key, values in parse_qs(query).items():
            if key != "matching_heuristics" or values not in (["True"], ["False"]):
                raise CheckpointError(
                    f"unknown query '?{query}', only '?matching_heuristics=True' is supported"
                )
            content["matching_heuristics"] = values == ["True"]
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not checkpoint["model"]:
            raise CheckpointError("holds no tensor")
        model_names = self.model.state_dict().keys()
        names = {name.removeprefix("module.") for name in checkpoint["model"]}
        by_suffix = bool(checkpoint.get("matching_heuristics"))
        is_converted = checkpoint.get("__author__") == AUTHOR
        is_foreign = not by_suffix and not is_converted and names.isdisjoint(model_names)
        if is_foreign:
            converted = convert_weights(checkpoint["model"])
            # The rest of such a file, as its optimizer's state, belongs to another model.
            checkpoint.clear()
            checkpoint.update(converted)
            self.logger.info(f"Converted the names of {len(checkpoint['model'])} tensors")
            is_converted, by_suffix = True, bool(checkpoint.get("matching_heuristics"))
        try:
            incompatible = super()._load_model(checkpoint)
        # detectron2, fvcore and torch fail unpredictably when tensors do not fit.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()
            raise CheckpointError(
                f"cannot be put into this model ({' '.join(reason[:2])})"
            ) from error
        if is_converted:
            checkpoint.clear()
        checkpoint.pop("matching_heuristics", None)
        if self.complete or by_suffix or is_converted:
            strict = is_foreign and not by_suffix
            whole = self.complete or strict
            check_fit(model_names, incompatible, whole=whole, strict=strict)
        return incompatible


def _map_state(function: Callable[[Any], Any], state: Any) -> Any:
    """Apply a function to the keys and values in dictionaries, lists and tuples."""
    if type(state) is dict:
        return {function(key): _map_state(function, value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_map_state(function, value) for value in state)
    return function(state)


def _as_plain(value: Any) -> Any:
    """Converts NumPy scalars, which ``weights_only`` refuses, to Python ones."""
    return value.item() if isinstance(value, np.generic) else value


def _check_loadable(state: Any) -> None:
    """Save and load a state, without its tensors."""
    buffer = io.BytesIO()
    torch.save(_map_state(lambda v: None if isinstance(v, torch.Tensor) else v, state), buffer)
    buffer.seek(0)
    load_torch(buffer)
