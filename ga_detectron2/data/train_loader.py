"""detectron2's training data, from any iteration on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    build_detection_train_loader,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from .boxes import BoxCheckedMapper
from .classes import ClassCheckedMapper, ModelClasses, check_record_classes, classes_of_model
from .images import NamingDatasetMapper
from .records import records_to_train
from .seeds import derive_seed, seeded

__all__ = ["TrainLoader", "build_train_loader", "make_train_loader"]

MakeSampler = Callable[[Sequence[Any]], Iterable[int]]
"""One of detectron2's samplers for the records of a data set."""


def build_train_loader(cfg: CfgNode, mapper: Any = None) -> Iterable[Any]:
    """Like :func:`detectron2.data.build_detection_train_loader`, with a stream that can be resumed.

    Args:
        cfg: configuration.
        mapper: makes what a model takes of a record; without, detectron2's ``DatasetMapper`` with
            errors that name the image.

    Returns:
        see :func:`make_train_loader`.

    Raises:
        ClassError: an object is of a class that the model does not have.
        DataError: no image has an object, and ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves out
            such images; or an object has no mask, ``MODEL.MASK_ON``, and no mapper makes it.
        ProposalFileError: a file of ``DATASETS.PROPOSAL_FILES_TRAIN`` cannot be used.
    """
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    with seeded(seed):
        records = records_to_train(cfg, has_masks=mapper is None)
        mapper = mapper or NamingDatasetMapper(cfg, True)
        # Some of detectron2's samplers load the data once more; proposals are no part of that.
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.LOAD_PROPOSALS = False
        parts = build_detection_train_loader.from_config(cfg, mapper, dataset=records)

    def make_sampler(records: Sequence[Any]) -> Iterable[int]:
        parts = build_detection_train_loader.from_config(cfg, mapper, dataset=records)
        return parts["sampler"]

    return make_train_loader(parts, seed, make_sampler, classes_of_model(cfg))


def make_train_loader(
    parts: dict[str, Any],
    seed: int,
    make_sampler: MakeSampler,
    classes: ModelClasses | None = None,
) -> Iterable[Any]:
    """What :func:`detectron2.data.build_detection_train_loader` makes, with a stream to resume.

    Args:
        parts: its arguments.
        seed: what chance follows from; the same in all processes.
        make_sampler: makes ``parts["sampler"]`` anew where another seed is to be followed.
        classes: of the model, if it has any. They are compared with those of all objects at once,
            or as they are loaded where a mapper of one's own may change them. For ROI heads such a
            mapper's boxes are looked at, too: the loader raises :class:`.BoxError` for those that
            they cannot take.

    Returns:
        a :class:`TrainLoader`; or detectron2's own loader for data that cannot be put into an order
        before they are loaded: torch data sets, and records without ``width`` and ``height``, which
        images are grouped by.

    Raises:
        ClassError: an object is of a class that the model does not have.
    """
    records = parts["dataset"]
    grouped = parts.get("aspect_ratio_grouping", True)
    if classes is not None:
        if isinstance(records, list) and type(parts["mapper"]) in _KEEP_CLASSES:
            check_record_classes(records, classes)
        else:
            mapper = ClassCheckedMapper(parts["mapper"], classes)
            parts = {
                **parts,
                "mapper": BoxCheckedMapper(mapper) if classes.of_roi_heads else mapper,
            }
    if not isinstance(records, list) or (
        grouped and not all("width" in r and "height" in r for r in records)
    ):
        return build_detection_train_loader(**parts)
    return TrainLoader(parts, seed, make_sampler)


_KEEP_CLASSES = (DatasetMapper, NamingDatasetMapper)


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

    def __init__(self, parts: dict[str, Any], seed: int, make_sampler: MakeSampler):
        """
        Args:
            parts: arguments of :func:`build_detection_train_loader`, with records of a list.
            seed: what chance follows from; the same in all processes.
            make_sampler: makes ``parts["sampler"]`` anew where another seed is to be followed.
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
        # torch draws a seed for the workers: not from the numbers that the model uses.
        self._loader = build_detection_train_loader(self._dataset, **{**others, "seed": seed})

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
                self._sampler.sampler = self._make_sampler(self._records)
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
