"""What makes a training that is cut off and resumed like one that is not."""

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ga_detectron2.data import TrainLoader
from ga_detectron2.data.seeds import derive_seed, seed_all

__all__ = ["ResumableTraining", "seed_or_chance"]


def seed_or_chance(seed: int) -> int:
    """``seed``, or where it is negative one of chance; all processes call this together."""
    return seed if seed >= 0 else comm.shared_random_seed()


class ResumableTraining:
    """Mixed into a :class:`TrainerBase` of detectron2, before it.

    What chance does in an iteration follows from the seed, the iteration and the process. The data
    are those of the iteration that a training starts from, and the checkpoint has the seed.

    Attributes:
        seed: from 0, the same in all processes; see :func:`seed_or_chance`.
        seed_is_chosen: whether it stays as it is when a checkpoint has another one.
        initial_weights: what is loaded where nothing is resumed.
        checkpointer: with this object among what it stores.
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
        """Load the last checkpoint with all states, or :attr:`initial_weights` alone.

        The main process's checkpoint counts.
        """
        self.checkpointer.resume_or_load(self.initial_weights, resume=resume)
        # A checkpoint holds the iteration that was just finished.
        resumed = resume and self.checkpointer.has_checkpoint()
        self.start_iter = comm.all_gather(self.iter + 1 if resumed else 0)[0]

    def train(self, *args: Any) -> Any:
        """As the trainer's own, with the data of the iteration that it starts from."""
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.seek(self.seed, self.start_iter)
        elif self.start_iter > 0:
            logging.getLogger(__name__).warning(
                "The training data start anew: a resumed training is not that which was cut off"
            )
        if self.start_iter == self.max_iter:
            # Cut off after the last iteration's checkpoint, but before the final one.
            self.checkpointer.save("model_final", iteration=self.iter)
        return super().train(*args)  # type: ignore[misc]

    def run_step(self) -> None:
        """As the trainer's own, with random numbers of this iteration."""
        seed_all(derive_seed(self.seed, self.iter, comm.get_rank()))
        super().run_step()  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """As the trainer's own, with the ``seed`` that chance follows from."""
        return {**super().state_dict(), "seed": self.seed}  # type: ignore[misc]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the seed of ``state_dict`` if no other one was chosen."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        if not self.seed_is_chosen:
            self.seed = state_dict.get("seed", self.seed)
