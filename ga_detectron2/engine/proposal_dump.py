"""Proposals of a model for a whole dataset, stored in shards so that a run can be continued."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from detectron2.utils.file_io import PathManager
from torch import nn
from torch.utils.data import SequentialSampler

from ga_detectron2.atomic import atomic_open
from ga_detectron2.data.images import NamingDatasetMapper
from ga_detectron2.data.proposal_files import (
    Proposals,
    read_proposals,
    write_proposals,
)
from ga_detectron2.errors import ConfigError

from .output_paths import check_output_file

__all__ = ["ProposalDump", "as_proposal_network"]

logger = logging.getLogger(__name__)


class ProposalDump:
    """A file of proposals that is written shard by shard.

    A shard is a file in the folder ``OUTPUT.shards`` with the proposals of some consecutive images.
    It appears when it is complete, and later runs keep it. ``OUTPUT.json`` describes the model and
    the images, so that a run with other weights, images or settings does not add to the shards.
    Processes share nothing but these files.
    """

    def __init__(
        self, output: str, cfg: CfgNode, records: Sequence[dict[str, Any]], shard_size: int
    ):
        """
        Args:
            output: path of the file of all proposals.
            cfg: configuration of the model.
            records: records of the dataset, in detectron2's format.
            shard_size: number of images in a shard.
        """
        self._output = output
        self._folder = f"{output}.shards"
        self._cfg = cfg
        self._records = records
        self._shard_size = shard_size

    @property
    def num_shards(self) -> int:
        return -(-len(self._records) // self._shard_size)

    @property
    def is_complete(self) -> bool:
        """Whether the file of all proposals exists."""
        return os.path.isfile(self._output)

    def missing_shards(self) -> list[int]:
        """Indices of the shards that do not exist yet."""
        return [i for i in range(self.num_shards) if not os.path.isfile(self._shard_path(i))]

    def prepare(self) -> None:
        """Create the folder, or check that it belongs to a run with the same settings.

        Raises:
            ConfigError: existing files are of other settings, or the output cannot be written.
            OSError: the folder cannot be written.
        """
        check_output_file("--output", self._output)
        settings = self._settings()
        settings_path = f"{self._output}.json"
        if os.path.isfile(settings_path):
            with open(settings_path, encoding="utf-8") as file:
                found = json.load(file)
            differing = [key for key in settings if found.get(key) != settings[key]]
            if differing:
                raise ConfigError(
                    f"{self._output}: the existing files were made with another {differing[0]} "
                    f"(see {settings_path}); choose another --output, or delete that file, "
                    f"{self._folder} and {self._output} to start from the beginning"
                )
        elif self.is_complete:
            raise ConfigError(
                f"{self._output} exists and is not from this tool: choose another --output"
            )
        else:
            os.makedirs(os.path.dirname(os.path.abspath(self._output)), exist_ok=True)
            with atomic_open(settings_path) as file:
                file.write(json.dumps(settings, indent=1).encode())
        if not self.is_complete:
            os.makedirs(self._folder, exist_ok=True)

    def run(self, model: nn.Module, rank: int = 0, num_processes: int = 1) -> None:
        """Compute this process's part of the missing shards.

        Args:
            model: model with a proposal generator; see :func:`as_proposal_network`.
            rank: rank of this process.
            num_processes: number of processes that share the shards.
        """
        network = as_proposal_network(model).eval()
        for shard in range(rank, self.num_shards, num_processes):
            if os.path.isfile(self._shard_path(shard)):
                continue
            start = time.perf_counter()
            records = self._records[shard * self._shard_size :][: self._shard_size]
            proposals = self._propose(network, records)
            write_proposals(self._shard_path(shard), proposals)
            number = sum(map(len, proposals.boxes))
            logger.info(
                f"Shard {shard + 1} of {self.num_shards}: {number} proposals of {len(records)} "
                f"images in {time.perf_counter() - start:.1f} s"
            )

    def merge(self) -> int:
        """Join all shards into one file, and delete them.

        Returns:
            the number of proposals.

        Raises:
            DataError: a shard is damaged.
            OSError: the file cannot be written, or a shard is missing.
        """
        merged = Proposals([], [], [])
        for shard in range(self.num_shards):
            found = read_proposals(self._shard_path(shard))
            merged.ids.extend(found.ids)
            merged.boxes.extend(found.boxes)
            merged.objectness_logits.extend(found.objectness_logits)
        write_proposals(self._output, merged)
        shutil.rmtree(self._folder)
        return sum(map(len, merged.boxes))

    def _shard_path(self, shard: int) -> str:
        return os.path.join(self._folder, f"{shard:05d}.pkl")

    @torch.no_grad()
    def _propose(self, network: nn.Module, records: Sequence[dict[str, Any]]) -> Proposals:
        loader = build_detection_test_loader(
            list(records),
            mapper=NamingDatasetMapper(self._cfg, False),
            # detectron2's own sampler would divide the images among the processes again.
            sampler=SequentialSampler(records),
            num_workers=self._cfg.DATALOADER.NUM_WORKERS,
        )
        found = Proposals([], [], [])
        for inputs in loader:
            for image, output in zip(inputs, network(inputs), strict=True):
                proposals = output["proposals"].to("cpu")
                image_id = image["image_id"]  # NumPy text in detectron2's records of Pascal VOC
                found.ids.append(image_id.item() if isinstance(image_id, np.generic) else image_id)
                found.boxes.append(proposals.proposal_boxes.tensor.float().numpy())
                found.objectness_logits.append(proposals.objectness_logits.float().numpy())
        return found

    def _settings(self) -> dict[str, str | int]:
        """Digests of everything that the proposals depend on, by readable names."""
        model = self._cfg.MODEL.clone()
        model.defrost()
        model.DEVICE = model.WEIGHTS = ""
        test = {key: value for key, value in self._cfg.INPUT.items() if "TRAIN" not in key}
        weights = hashlib.sha256()
        with open(PathManager.get_local_path(self._cfg.MODEL.WEIGHTS), "rb") as file:
            while chunk := file.read(1 << 20):
                weights.update(chunk)
        images = [[str(r["image_id"]), r["height"], r["width"]] for r in self._records]
        return {
            "configuration of the model": _digest(model.dump()),
            "configuration of the input": _digest(json.dumps(test, sort_keys=True, default=str)),
            "file of weights": weights.hexdigest(),
            "set of images": _digest(json.dumps(images)),
            "shard size": self._shard_size,
        }


def as_proposal_network(model: nn.Module) -> nn.Module:
    """The part of a model that makes proposals, as detectron2's ``ProposalNetwork``.

    Args:
        model: a ``ProposalNetwork``, which is returned unchanged, or a ``GeneralizedRCNN``, whose
            modules the returned network shares.

    Raises:
        ConfigError: the model makes no proposals.
    """
    if isinstance(model, ProposalNetwork):
        return model
    if not isinstance(model, GeneralizedRCNN) or model.proposal_generator is None:
        raise ConfigError(
            f"{type(model).__name__} makes no proposals: choose the configuration of a model "
            "with a proposal generator, such as configs/ga_rpn_R_50.yaml"
        )
    return ProposalNetwork(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        pixel_std=model.pixel_std.flatten().tolist(),
    ).to(model.device)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
