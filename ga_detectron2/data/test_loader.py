"""detectron2's data to score."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from torch.utils.data import DataLoader

from .images import NamingDatasetMapper
from .records import records_to_score

__all__ = ["build_test_loader"]


def build_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Any = None
) -> DataLoader[list[dict[str, Any]]]:
    """Like :func:`detectron2.data.build_detection_test_loader`; executes no file of proposals.

    Args:
        cfg: configuration.
        dataset_name: one of ``cfg.DATASETS.TEST``, or any other where no proposals are loaded.
        mapper: makes what a model takes of a record; without, detectron2's ``DatasetMapper`` with
            errors that name the image.

    Raises:
        ProposalFileError: its file of ``DATASETS.PROPOSAL_FILES_TEST`` cannot be used.
    """
    return build_detection_test_loader(
        records_to_score(cfg, dataset_name),
        mapper=mapper or NamingDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
