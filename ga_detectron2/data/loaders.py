"""detectron2's data loaders: a training stream that any iteration can start from, and scoring."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    MapDataset,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .classes import prepare_datasets
from .images import NamingDatasetMapper
from .records import records_to_score, records_to_train
from .seeds import derive_seed, seeded

__all__ = ["TrainLoader", "build_test_loader", "build_train_loader"]

MakeSampler = Callable[[Sequence[Any], int], Iterable[int]]
"""One of detectron2's samplers for the records of a dataset and a seed."""


def build_train_loader(cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
    """Like :func:`detectron2.data.build_detection_train_loader`, with a stream that can be resumed.

    Args:
        cfg: configuration.
        mapper: turns a record into a model's input; by default detectron2's ``DatasetMapper`` with
            errors that name the image.

    Returns:
        a :class:`TrainLoader`; or detectron2's own loader for data whose order cannot be known
        before they are loaded: torch datasets, and records without the ``width`` and ``height`` by
        which images are grouped.

    Raises:
        DataError: the datasets cannot be trained on; see :func:`.records_to_train` and
            :func:`.prepare_datasets`.
    """
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    prepare_datasets(cfg)
    cfg = cfg.clone()
    cfg.defrost()

    def make_parts(records: Any, seed: int) -> dict[str, Any]:
        cfg.SEED = seed  # Newer samplers of detectron2 take it from there.
        return build_detection_train_loader.from_config(cfg, mapper, dataset=records)

    with seeded(seed):
        records = records_to_train(cfg, has_own_mapper=mapper is not None)
        mapper = mapper or NamingDatasetMapper(cfg, True)
        # Some of detectron2's samplers load the data once more, for which proposals are not needed.
        cfg.MODEL.LOAD_PROPOSALS = False
        parts = make_parts(records, seed)
    grouped = parts.get("aspect_ratio_grouping", True)
    if not isinstance(records, list) or (
        grouped and not all("width" in r and "height" in r for r in records)
    ):
        return build_detection_train_loader(**parts)
    return TrainLoader(parts, seed, lambda *arguments: make_parts(*arguments)["sampler"])


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Any = None
) -> DataLoader[list[dict[str, Any]]]:
    """Like :func:`detectron2.data.build_detection_test_loader`.

    It reads proposal files without executing pickled code.

    Args:
        cfg: configuration.
        dataset_name: one of ``cfg.DATASETS.TEST``, or any registered dataset if no stored proposals
            are used.
        mapper: see :func:`build_train_loader`.

    Raises:
        DataError: the dataset cannot be scored; see :func:`.records_to_score`.
    """
    prepare_datasets(cfg, eval_only=True)
    return build_detection_test_loader(
        records_to_score(cfg, dataset_name),
        mapper=mapper or NamingDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


class TrainLoader:
    """Batches of detectron2's training loader, as a stream that can start at any iteration.

    The images of a batch and their random augmentation follow from the seed and their position in
    the stream. No state has to be stored, and the number of loading processes
    (``DATALOADER.NUM_WORKERS``) does not matter.

    Images are sampled by detectron2's samplers. They are grouped by aspect ratio as in detectron2's
    ``AspectRatioGroupedDataset``, but before they are loaded, by the sizes in their records: groups
    that are not full when a training is interrupted are restored without loading an image.
    """

    def __init__(self, parts: dict[str, Any], seed: int, make_sampler: MakeSampler):
        """
        Args:
            parts: arguments of :func:`build_detection_train_loader`, whose dataset is a list of
                records.
            seed: source of all randomness; the same in all processes.
            make_sampler: makes ``parts["sampler"]`` for another seed.
        """
        others = {**parts, "mapper": None, "aspect_ratio_grouping": False}
        records = others.pop("dataset")
        self._seed = seed
        self._make_sampler = make_sampler
        groups = None
        if parts.get("aspect_ratio_grouping", True):
            groups = bytes(0 if r["width"] > r["height"] else 1 for r in records)
        batch_size = parts["total_batch_size"] // comm.get_world_size()
        self._records = DatasetFromList(records, copy=False)
        self._dataset = SeededDataset(MapDataset(self._records, parts["mapper"]), seed)
        self._sampler = others["sampler"] = BatchSampler(parts["sampler"], batch_size, groups)
        # Without a seed, torch would draw that of the workers from the model's random numbers.
        self._loader = build_detection_train_loader(self._dataset, **{**others, "seed": seed})

    def seek(self, seed: int, iteration: int) -> None:
        """Make the next iterator start at an iteration of a training with this seed.

        All processes must call this together.

        Args:
            seed: not negative.
            iteration: iteration from 0.
        """
        if seed != self._seed:
            self._seed = self._dataset.seed = seed
            with seeded(seed):
                self._sampler.sampler = self._make_sampler(self._records, seed)
        self._sampler.first_batch = iteration

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._loader)


class BatchSampler(Sampler):
    """The indices of another sampler in an order in which every ``batch_size`` form a batch.

    Yields (position, index): the position in the stream of all processes, and the other sampler's
    index.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, groups: Sequence[int] | None):
        """
        Args:
            sampler: one of detectron2's, whose stream is divided among the processes.
            batch_size: batch size of this process.
            groups: the group, 0 or 1, of every index; a batch has images of one group. None for a
                single group.
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
    """A dataset whose random numbers follow from the position of an item in the stream."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, index = key
        with seeded(derive_seed(self.seed, position)):
            return self.dataset[index]
