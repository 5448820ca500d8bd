"""Training whose result does not depend on whether it was interrupted and resumed."""

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ga_detectron2.data import TrainLoader
from ga_detectron2.data.seeds import derive_seed, seed_all
from ga_detectron2.errors import CheckpointError, ConfigError

__all__ = ["ResumableTraining", "resolve_seed"]

logger = logging.getLogger(__name__)


def resolve_seed(seed: int) -> int:
    """``seed``, or a random one if it is negative. All processes call this together."""
    return seed if seed >= 0 else comm.shared_random_seed()


class ResumableTraining:
    """Mix-in for detectron2's ``TrainerBase``, listed before it.

    Random numbers of an iteration depend on the seed, the iteration and the process only, and the
    data loader starts at the iteration that training starts from. Checkpoints hold the seed.

    Attributes:
        seed: at least 0, the same in all processes; see :func:`resolve_seed`.
        seed_is_chosen: whether ``seed`` takes precedence over the seed of a checkpoint.
        initial_weights: weights to load if nothing is resumed.
        checkpointer: checkpointer that also stores this trainer.
    """

    seed: int
    seed_is_chosen: bool
    initial_weights: str
    checkpointer: DetectionCheckpointer
    data_loader: Iterable[Any]
    iter: int
    start_iter: int
    max_iter: int

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint with all states, or else :attr:`initial_weights`.

        The checkpoint of the main process counts.

        Raises:
            CheckpointError: the weights cannot be loaded, or the checkpoint is of another model.
            ConfigError: the checkpoint is beyond the last iteration.
        """
        resumed = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.complete = resumed  # A checkpoint holds every tensor of the model.
        try:
            self.checkpointer.resume_or_load(self.initial_weights, resume=resume)
        except CheckpointError:
            raise
        except ValueError as error:  # of the optimizer
            raise CheckpointError(
                f"{self.checkpointer.get_checkpoint_file()}: the state of the optimizer is of a "
                f"model with other trainable parameters ({error}). Resume with the configuration "
                "of this checkpoint, or choose another OUTPUT_DIR"
            ) from error
        # A checkpoint holds the iteration that was just finished.
        self.start_iter = comm.all_gather(self.iter + 1 if resumed else 0)[0]
        if self.start_iter > self.max_iter:
            raise ConfigError(
                f"SOLVER.MAX_ITER {self.max_iter} is below the {self.start_iter} iterations of the "
                "checkpoint to resume from: raise it, or choose another OUTPUT_DIR"
            )

    def train(self, *args: Any) -> Any:
        """Train as the base class does, with the data of the iteration to start from."""
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.seek(self.seed, self.start_iter)
        elif self.start_iter > 0:
            logger.warning(
                "This data loader starts from the beginning: the resumed training differs from an "
                "uninterrupted one"
            )
        if self.start_iter == self.max_iter:
            # Interrupted between the checkpoint of the last iteration and the final one.
            logger.info(f"Nothing is left to train: all {self.max_iter} iterations are finished")
            self.checkpointer.save("model_final", iteration=self.iter)
        return super().train(*args)  # type: ignore[misc]

    def run_step(self) -> None:
        """Run a step as the base class does, with the random numbers of this iteration."""
        seed_all(derive_seed(self.seed, self.iter, comm.get_rank()))
        super().run_step()  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """State of the base class, and the seed."""
        return {**super().state_dict(), "seed": self.seed}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the base class, and its seed unless another one was chosen."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        if not self.seed_is_chosen:
            self.seed = state_dict.get("seed", self.seed)
