"""Training data can start at any iteration, and are otherwise detectron2's."""

import itertools
import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, build_detection_train_loader

from ga_detectron2.data import TrainLoader, build_train_loader
from ga_detectron2.data.seeds import derive_seed, seed_all, seeded

NAME = "ga_train_loader_test"


@pytest.fixture(scope="module", autouse=True)
def records(tmp_path_factory: pytest.TempPathFactory):
    """Eleven images; every third is upright."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    for i in range(11):
        size = (24, 16) if i % 3 else (16, 24)
        image = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        path = str(folder / f"{i}.png")
        cv2.imwrite(path, image)
        records.append(
            {"file_name": path, "image_id": i, "width": size[0], "height": size[1],
             "annotations": []}
        )  # fmt: skip
    DatasetCatalog.register(NAME, lambda: [dict(r) for r in records])
    yield records
    DatasetCatalog.remove(NAME)


def config(seed: int = 5, workers: int = 0, grouped: bool = True, batch: int = 2) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(range(16, 33))
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.SEED = seed
    return cfg


def batches(loader, number: int) -> list[list[dict]]:
    return list(itertools.islice(loader, number))


def assert_same(found: list[list[dict]], expected: list[list[dict]]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])  # its size and its flip are drawn


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_images_of_a_batch_are_detectron2s(grouped: bool, sampler: str) -> None:
    cfg = config(grouped=grouped, batch=3)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    with seeded(cfg.SEED):
        expected = build_detection_train_loader(cfg)
    for ours, theirs in zip(
        batches(build_train_loader(cfg), 30), batches(expected, 30), strict=True
    ):
        assert [x["image_id"] for x in ours] == [x["image_id"] for x in theirs]


@pytest.mark.parametrize("grouped", [True, False])
def test_stream_starts_at_any_iteration(grouped: bool) -> None:
    whole = batches(build_train_loader(config(grouped=grouped)), 20)
    for start in (0, 1, 7, 13):
        loader = build_train_loader(config(grouped=grouped))
        assert isinstance(loader, TrainLoader)
        loader.seek(5, start)
        np.random.rand(start)  # numbers that the process draws do not matter
        assert_same(batches(loader, 7), whole[start : start + 7])


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_workers_and_an_unknown_seed_change_nothing(sampler: str) -> None:
    """detectron2's samplers take ``cfg.SEED`` (newer ones all of them), which may be -1."""
    cfg, other = config(), config(seed=-1, workers=2)
    cfg.DATALOADER.SAMPLER_TRAIN = other.DATALOADER.SAMPLER_TRAIN = sampler
    whole = batches(build_train_loader(cfg), 9)
    loader = build_train_loader(other)
    loader.seek(5, 3)
    assert_same(batches(loader, 6), whole[3:])


def test_augmentation_and_order_differ_between_seeds_and_visits() -> None:
    images = {}
    for seed in (1, 2):
        cfg = config(seed)
        cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
        for batch in batches(build_train_loader(cfg), 40):
            for x in batch:
                images.setdefault((seed, x["image_id"]), []).append(tuple(x["image"].shape[1:]))
    assert all(len(set(shapes)) > 1 for shapes in images.values())
    order = [[x["image_id"] for b in batches(build_train_loader(config(s)), 9) for x in b]
             for s in (1, 2, -1, -1)]  # fmt: skip
    assert order[0] != order[1]
    assert order[2] != order[3]


def test_records_without_sizes_are_left_to_detectron2(records: list[dict]) -> None:
    name = f"{NAME}_unsized"
    DatasetCatalog.register(
        name,
        lambda: [{k: v for k, v in r.items() if k not in ("width", "height")} for r in records],
    )
    cfg = config()
    cfg.DATASETS.TRAIN = (name,)
    assert not isinstance(build_train_loader(cfg), TrainLoader)
    assert len(batches(build_train_loader(cfg), 1)[0]) == 2
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert isinstance(build_train_loader(cfg), TrainLoader)
    DatasetCatalog.remove(name)


def test_seeds_depend_on_all_numbers_and_are_restored() -> None:
    assert len({derive_seed(*n) for n in ((1,), (1, 0), (0, 1), (1, 0, 0), (2, 0), (1, 1))}) == 6

    def draw() -> tuple[float, ...]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_all(3)
    first, second = draw(), draw()
    seed_all(3)
    assert draw() == first
    with seeded(3):
        assert draw() == first
    assert draw() == second
