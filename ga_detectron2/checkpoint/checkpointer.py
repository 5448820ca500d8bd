"""A checkpointer of detectron2 that also takes the files of others."""

import os
import re
import socket
from typing import Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ga_detectron2.errors import CheckpointError

from .atomic import AtomicFiles
from .conversion import (
    BOTTOM_UP,
    ConvertedWeights,
    check_complete,
    check_fit,
    convert_weights,
    is_backbone_name,
    is_needed,
)
from .files import read_checkpoint_file
from .tensors import check_tensors

__all__ = ["GACheckpointer"]

# What detectron2's PeriodicCheckpointer calls the checkpoint of an iteration.
_NUMBERED = re.compile(r"model_(\d{7})\.pth")


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

    In no file is anything executed: ``weights_only`` for what ``torch.save`` wrote, of which
    programs are refused, and for detectron2's ``.pkl`` files
    :func:`~.numpy_pickle.load_numpy_pickle`. (For strangers' files take torch 2.10 or newer, which
    mended a fault in ``weights_only``: docs/reliability.md.)

    With ``complete`` nothing of a model may keep its initial values, whatever the file is: that is
    for weights that are not to be trained any further. A file may hold more than the model.

    Checkpoints and ``last_checkpoint`` are detectron2's, but appear when they are complete, and a
    training that cannot read the last checkpoint resumes from the one before.
    """

    def __init__(self, *args: Any, complete: bool = False, **kwargs: Any):
        """
        Args:
            args, kwargs: those of :class:`DetectionCheckpointer`.
            complete: whether to refuse files that lack a tensor of the model.
        """
        super().__init__(*args, **kwargs)
        self.complete = complete
        self.path_manager = AtomicFiles(PathManager)

    def save(self, name: str, **kwargs: Any) -> None:
        """As detectron2's, with a file that appears when it is complete.

        Raises:
            CheckpointError: in one line, where the file cannot be written, as on a full disk. What
                was there before is unchanged.
        """
        try:
            super().save(name, **kwargs)
        except (OSError, RuntimeError) as e:
            # torch.save does not hand on the error of a file, but raises one of its own after it.
            reason: BaseException | None = e
            while reason is not None and not isinstance(reason, OSError):
                reason = reason.__cause__ or reason.__context__
            if reason is None:
                raise
            last = os.path.basename(self.get_checkpoint_file())
            raise CheckpointError(
                f"{os.path.join(self.save_dir, name)}.pth: cannot be written "
                f"({reason.strerror or reason}). "
                + (f"The last checkpoint is {last}" if last else "There is no checkpoint yet")
            ) from e

    def get_checkpoint_file(self) -> str:
        """As detectron2's; a ``last_checkpoint`` of damaged bytes counts like an empty one.

        Returns:
            the path of the last checkpoint; of the folder with a separator, if the file is there
            but names none; "" if it is not there.
        """
        nothing = os.path.join(self.save_dir, "")
        try:
            file: str = super().get_checkpoint_file()
        except UnicodeDecodeError:
            return nothing
        # Zeros are what a machine that failed may have left in place of a name.
        return file if file.removeprefix(self.save_dir).isprintable() else nothing

    def find_last(self) -> str:
        """The path of the last checkpoint, to load it; "" if there is none.

        Where ``last_checkpoint`` names none, it is the newest that can be read.

        Raises:
            CheckpointError: none can be read.
        """
        last = self.get_checkpoint_file()
        if not last or os.path.basename(last):
            return last
        chosen = self._choose_checkpoint()
        if isinstance(chosen, CheckpointError):
            raise chosen
        return chosen

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As detectron2's, from the newest checkpoint that can be read.

        That is the one that ``last_checkpoint`` names, or an earlier one of the same folder. Every
        process loads the file that the main process chooses.

        Args:
            path: what to load where nothing is resumed.
            resume: whether to resume if there is a checkpoint.

        Returns:
            as :meth:`load`.

        Raises:
            CheckpointError: no checkpoint can be read, or not by all processes.
        """
        chosen = self._choose_checkpoint() if resume and comm.is_main_process() else ""
        chosen = comm.all_gather(chosen)[0]
        if isinstance(chosen, CheckpointError):
            raise CheckpointError(
                f"{chosen}. Train into another OUTPUT_DIR, or without --resume"
            ) from chosen
        if not chosen:
            return self.load(path, checkpointables=[])
        sees_it = comm.all_gather((self.path_manager.isfile(chosen), socket.gethostname()))
        for rank, (is_there, host) in enumerate(sees_it):
            if not is_there:
                raise CheckpointError(
                    f"{chosen}: process {rank} on {host} does not find this file; OUTPUT_DIR must "
                    "be a folder that all machines share"
                )
        return self.load(chosen)

    def _choose_checkpoint(self) -> str | CheckpointError:
        """The path of the checkpoint to resume from; empty if there is none."""
        if not self.has_checkpoint():
            return ""
        files = self._files_to_resume_from()
        for i, file in enumerate(files):
            try:
                if not self.path_manager.isfile(file):
                    raise CheckpointError("there is no such file")
                read_checkpoint_file(file)
            except (CheckpointError, OSError) as e:
                files[i] = f"{file}: {e}"
                self.logger.warning(f"Cannot resume from {files[i]}. Trying the checkpoint before")
                continue
            if i > 0:
                self.logger.warning(f"Resuming from an earlier checkpoint: {file}")
            return file
        return CheckpointError(
            f"{self.save_dir}: no checkpoint can be read "
            f"({'; '.join(files) or 'last_checkpoint names none, and there is none'})"
        )

    def _files_to_resume_from(self) -> list[str]:
        """The last checkpoint, and those of earlier iterations, newest first.

        Where the last is not known, what a training ended with comes after them: who finds it in
        this folder does not know of which training it is.
        """
        last = self.get_checkpoint_file()
        numbered = {}
        for file in self.get_all_checkpoint_files():
            if match := _NUMBERED.fullmatch(os.path.basename(file)):
                numbered[file] = int(match[1])
        # Files with higher numbers are another run's, or were not yet named as the last.
        match = _NUMBERED.fullmatch(os.path.basename(last))
        earlier = [f for f, n in numbered.items() if match is None or n < int(match[1])]
        newest_first = sorted(earlier, key=lambda file: -numbered[file])
        if os.path.basename(last):
            return [last, *newest_first]
        self.logger.warning(
            f"{os.path.join(self.save_dir, 'last_checkpoint')} is empty or damaged: taking the "
            "newest checkpoint of the folder that can be read"
        )
        final = os.path.join(self.save_dir, "model_final.pth")
        return newest_first + ([final] if self.path_manager.isfile(final) else [])

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
                (if it is not detectron2's, or with ``complete``) of another model. The model may
                have changed by then.
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
        check_tensors(checkpoint["model"])
        if not checkpoint["model"]:
            raise CheckpointError("holds no tensor")
        model_state = self.model.state_dict()
        names = [name.removeprefix("module.") for name in checkpoint["model"]]
        by_heuristics = bool(checkpoint.get("matching_heuristics", False))
        if not by_heuristics and not any(name in model_state for name in names):
            weights = convert_weights(checkpoint["model"])
            by_heuristics = weights.is_backbone
            self._use_converted(checkpoint, weights)
        try:
            incompatible = super()._load_model(checkpoint)
        except Exception as e:  # detectron2, fvcore and torch each count on tensors that fit.
            reason = (str(e).strip() or type(e).__name__).splitlines()
            raise CheckpointError(f"cannot be put into this model ({' '.join(reason[:2])})") from e
        checkpoint.pop("matching_heuristics", None)
        if by_heuristics:
            missing = [n for n in incompatible.missing_keys if is_backbone_name(n) and is_needed(n)]
            if missing:
                more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
                raise CheckpointError(
                    f"there is no tensor of the right shape for '{missing[0]}'{more} of this "
                    "model: is it another backbone's file?"
                )
        if self.complete:
            check_complete(self.model, incompatible.missing_keys, incompatible.incorrect_shapes)
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
