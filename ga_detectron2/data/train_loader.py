"""detectron2's training data, from any iteration on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from .images import NamingDatasetMapper
from .seeds import derive_seed, seeded

__all__ = ["TrainLoader", "build_train_loader"]


def build_train_loader(cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
    """Like :func:`detectron2.data.build_detection_train_loader`, with a stream that can be resumed.

    Args:
        cfg: configuration.
        mapper: makes what a model takes of a record; without, detectron2's ``DatasetMapper`` with
            errors that name the image.

    Returns:
        a :class:`TrainLoader`; or detectron2's own loader for data that cannot be put into an order
        before they are loaded: torch data sets, and records without ``width`` and ``height``, which
        images are grouped by.
    """
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    with seeded(seed):
        mapper = mapper or NamingDatasetMapper(cfg, True)
        parts = build_detection_train_loader.from_config(cfg, mapper)
    records = parts["dataset"]
    grouped = parts["aspect_ratio_grouping"]
    if not isinstance(records, list) or (
        grouped and not all("width" in r and "height" in r for r in records)
    ):
        return build_detection_train_loader(**parts)
    return TrainLoader(cfg, seed, parts)


class TrainLoader:
    """Batches of detectron2's training loader, in a stream that any iteration can start from.

    Which images make a batch, and what chance does to them on the way, follows from the seed and
    their position in the stream. So nothing of the stream has to be stored, and the number of
    processes that load images (``DATALOADER.NUM_WORKERS``) does not change it either.

    Images are sampled as detectron2 samples them. They are grouped by their aspect ratio as by
    detectron2's ``AspectRatioGroupedDataset``, but before they are loaded, by the sizes in their
    records: the groups that are not full when a training is cut off are found again without loading
    an image.
    """

    def __init__(self, cfg: CfgNode, seed: int, parts: dict[str, Any]):
        """
        Args:
            cfg: what ``parts`` were made from.
            seed: what chance follows from; the same in all processes.
            parts: arguments of :func:`build_detection_train_loader`, with records of a list.
        """
        self._cfg = cfg
        self._seed = seed
        self._mapper = parts["mapper"]
        records = parts["dataset"]
        groups = None
        if parts["aspect_ratio_grouping"]:
            groups = bytes(0 if r["width"] > r["height"] else 1 for r in records)
        batch_size = parts["total_batch_size"] // comm.get_world_size()
        self._records = DatasetFromList(records, copy=False)
        self._dataset = SeededDataset(MapDataset(self._records, self._mapper), seed)
        self._sampler = BatchSampler(parts["sampler"], batch_size, groups)
        self._loader = build_detection_train_loader(
            self._dataset,
            mapper=None,
            sampler=self._sampler,
            total_batch_size=parts["total_batch_size"],
            aspect_ratio_grouping=False,
            num_workers=parts["num_workers"],
            # torch draws a seed for the workers: not from the numbers that the model uses.
            seed=seed,
        )

    def seek(self, seed: int, iteration: int) -> None:
        """Let the next iterator start where a training with this seed starts this iteration.

        All processes must call this together.

        Args:
            seed: not negative.
            iteration: from 0.
        """
        if seed != self._seed:
            self._seed = self._dataset.seed = seed
            with seeded(seed):
                parts = build_detection_train_loader.from_config(
                    self._cfg, self._mapper, dataset=self._records
                )
            self._sampler.sampler = parts["sampler"]
        self._sampler.first_batch = iteration

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._loader)


class BatchSampler(Sampler):
    """Puts what another sampler draws into an order in which every ``batch_size`` make a batch.

    Yields (position, index): the position in the stream of all processes, and the index that the
    other sampler gave.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, groups: Sequence[int] | None):
        """
        Args:
            sampler: one of detectron2's, whose stream is divided among the processes.
            batch_size: of this process.
            groups: for every index the group, 0 or 1, that all of its batch are in; None for one
                group of all.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self.first_batch = 0
        self._groups = groups
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        waiting: tuple[list[tuple[int, int]], ...] = ([], [])
        to_skip = self.first_batch
        for i, index in enumerate(self.sampler):
            group = waiting[self._groups[index] if self._groups else 0]
            group.append((i * self._world_size + self._rank, index))
            if len(group) < self.batch_size:
                continue
            if to_skip:
                to_skip -= 1
            else:
                yield from group
            group.clear()


class SeededDataset(Dataset):
    """A data set in which chance follows from the position of an item in the stream."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, index = key
        with seeded(derive_seed(self.seed, position)):
            return self.dataset[index]
