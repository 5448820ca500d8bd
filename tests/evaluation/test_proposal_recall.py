"""Average recall of proposals against pycocotools' own summary and detectron2's evaluation."""

import contextlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ga_detectron2.errors import DataError
from ga_detectron2.evaluation import (
    ProposalRecallEvaluator,
    recall_of_metrics,
    recall_of_proposals,
)

SIZE = 400


@pytest.fixture
def register(tmp_path):
    """Registers a dataset of boxes (x, y, w, h) by image; undone after the test."""
    names = []

    def register(boxes_by_image: dict, crowds: tuple = (), first_id: int = 1) -> str:
        name = f"proposal_recall_{tmp_path.name}_{len(names)}"
        annotations = [
            (image_id, box) for image_id, boxes in boxes_by_image.items() for box in boxes
        ]
        contents = {
            "info": {},
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE}
                for i in boxes_by_image
            ],
            "categories": [{"id": 7, "name": "a"}, {"id": 3, "name": "b"}],
            "annotations": [
                {
                    "id": n + first_id,
                    "image_id": image_id,
                    "category_id": (3, 7)[n % 2],
                    "bbox": list(map(float, box)),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(n in crowds),
                }
                for n, (image_id, box) in enumerate(annotations)
            ],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(contents))
        register_coco_instances(name, {}, str(path), str(tmp_path))
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator, proposals_by_image: dict[int, tuple]) -> dict[str, float]:
    evaluator.reset()
    for image_id, (boxes_xywh, scores) in proposals_by_image.items():
        boxes = torch.as_tensor(boxes_xywh, dtype=torch.float32).reshape(-1, 4).clone()
        boxes[:, 2:] += boxes[:, :2]
        proposals = Instances((SIZE, SIZE))
        proposals.proposal_boxes = Boxes(boxes)
        proposals.objectness_logits = torch.as_tensor(scores, dtype=torch.float32)
        # One image at a time and two at a time must not differ; loaders give one.
        evaluator.process([{"image_id": image_id}], [{"proposals": proposals}])
    (scores,) = evaluator.evaluate().values()
    return scores


def random_case(seed: int, images: int = 12, proposals: int = 1200):
    """Boxes of all sizes with jittered copies of them among random proposals."""
    rng = np.random.default_rng(seed)
    gt, found = {}, {}
    for i in range(images):
        n = int(rng.integers(0 if i else 1, 12))
        size = np.exp(rng.uniform(np.log(8), np.log(300), (n, 2)))
        corner = rng.uniform(0, 1, (n, 2)) * (SIZE - size)
        gt[10 * i + 1] = np.round(np.hstack([corner, size]), 1).tolist()
        copies = np.repeat(np.array(gt[10 * i + 1]).reshape(-1, 4), 10, axis=0)
        copies = copies + copies[:, [2, 3, 2, 3]] * rng.normal(0, 0.1, copies.shape)
        size = rng.uniform(8, 200, (proposals - len(copies), 2))
        corner = rng.uniform(0, 1, size.shape) * (SIZE - size)
        boxes = np.vstack([copies, np.hstack([corner, size])])
        boxes[:, 2:] = boxes[:, 2:].clip(1)
        found[10 * i + 1] = (boxes, rng.normal(0, 1, len(boxes)))
    return gt, found


def summary_of_pycocotools(name: str, found: dict, limits: list[int]) -> np.ndarray:
    """pycocotools' own six recalls: three limits, then three sizes at the last of them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(MetadataCatalog.get(name).json_file)
        results = [
            {"image_id": i, "category_id": 3, "bbox": list(map(float, b)), "score": float(s)}
            for i, (boxes, scores) in found.items()
            for b, s in zip(np.float32(boxes), np.float32(scores), strict=True)
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[6:12]


def test_is_what_pycocotools_reports(register) -> None:
    gt, found = random_case(0)
    name = register(gt, crowds=(1, 4))
    scores = run(ProposalRecallEvaluator(name), found)
    keys = ["AR@100", "AR@300", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"]
    expected = summary_of_pycocotools(name, found, [100, 300, 1000])
    np.testing.assert_allclose([scores[k] for k in keys], expected, atol=1e-4)
    assert scores["AR@100"] < scores["AR@300"] < scores["AR@1000"] < 100


def test_limits_may_be_others(register) -> None:
    gt, found = random_case(2)
    name = register(gt)
    scores = run(ProposalRecallEvaluator(name, [100, 10, 1000]), found)
    expected = summary_of_pycocotools(name, found, [10, 100, 1000])
    assert [scores[k] for k in ("AR@10", "AR@100", "AR@1000")] == pytest.approx(expected[:3])
    with pytest.raises(ValueError, match="PROPOSAL_RECALL_LIMITS"):
        ProposalRecallEvaluator(name, [])


def test_beside_detectron2s_own_numbers(register) -> None:
    """The same proposals in both: equal where detectron2's shortcut is exact, close otherwise."""
    # Boxes far apart, so that each proposal can only belong to one of them.
    grid = [[80 * (i % 5), 80 * (i // 5), 4 + 3 * i, 60 - 2 * i] for i in range(20)]
    rng = np.random.default_rng(0)
    near = np.repeat(np.array(grid, float), 5, axis=0)
    near += near[:, [2, 3, 2, 3]] * rng.normal(0, 0.08, near.shape)
    apart = {1: (near, rng.normal(0, 1, len(near)))}
    name = register({1: grid})
    ours = run(ProposalRecallEvaluator(name, [10, 100, 1000]), apart)
    theirs = run(COCOEvaluator(name, distributed=False), apart)
    assert 0 < ours["AR@10"] < ours["AR@100"] < 100
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4, nan_ok=True), key

    gt, found = random_case(3)
    name = register(gt)
    ours = run(ProposalRecallEvaluator(name), found)
    theirs = run(COCOEvaluator(name, distributed=False), found)
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], abs=1), key


def test_where_detectron2s_numbers_differ(register) -> None:
    name = register({1: [[0, 0, 100, 100], [0, 40, 100, 100]]})
    # The better scored proposal has an IoU of 0.724 with the first box and 0.613 with the second,
    # the other one 0.92 with the first box alone.
    found = {1: ([[0, 16, 100, 100], [0, 0, 100, 92]], [2.0, 1.0])}
    # In the order of scores, the first box is taken at all thresholds up to 0.9, and the second
    # never. In pairs of the best IoU, the second box is left for the first proposal up to 0.6.
    assert run(ProposalRecallEvaluator(name), found)["AR@100"] == pytest.approx(100 * 9 / 20)
    theirs = run(COCOEvaluator(name, distributed=False), found)["AR@100"]
    assert theirs == pytest.approx(100 * (9 + 3) / 20)


def test_boxes_on_an_image_without_proposals_are_missed(register) -> None:
    box = [10, 10, 50, 50]
    name = register({1: [box], 2: [box], 3: []})
    found = {1: ([box], [1.0]), 2: (np.zeros((0, 4)), []), 3: (np.zeros((0, 4)), [])}
    assert run(ProposalRecallEvaluator(name), found)["AR@100"] == 50
    assert run(COCOEvaluator(name, distributed=False), found)["AR@100"] == 100
    nothing = {i: (np.zeros((0, 4)), []) for i in (1, 2, 3)}
    scores = run(ProposalRecallEvaluator(name), nothing)
    assert scores["AR@100"] == scores["ARm@1000"] == 0
    assert np.isnan(scores["ARs@1000"])  # 50 x 50 pixels are no small box.


@pytest.mark.parametrize("image_ids", [(5, 4), ("b", "a"), (2**53, 2**53 + 1)])
def test_by_hand(register, image_ids: tuple) -> None:
    image_id, other = image_ids
    name = register({image_id: [[0, 0, 100, 100], [200, 200, 100, 100]], other: []})
    found = {image_id: ([[0, 0, 100, 82], [0, 0, 100, 72]], [0.0, 9.0])}
    found[other] = ([[0, 0, 100, 82]], [9.0])
    scores = run(ProposalRecallEvaluator(name, [1, 2]), found)
    # Of ten thresholds from 0.5 to 0.95, IoU 0.72 of the better scored proposal reaches five, IoU
    # 0.82 of the other seven; of two boxes, one is never found.
    assert scores["AR@1"] == pytest.approx(100 * 5 / 20)
    assert scores["AR@2"] == pytest.approx(100 * 7 / 20)


def test_without_annotations_there_is_no_score(register) -> None:
    name = register({1: [[0, 0, 9, 9]]})
    path = Path(MetadataCatalog.get(name).json_file)
    contents = json.loads(path.read_text())
    del contents["annotations"]
    path.write_text(json.dumps(contents))
    evaluator = ProposalRecallEvaluator(name)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_perfect_proposals_with_annotation_ids_from_0_and_any_image_ids(register) -> None:
    # pycocotools takes a match with annotation 0 for none; image ids may be text or beyond 2^53.
    gt = {f"image {i}": [[10, 10, 50, 50]] for i in range(3)}
    gt |= {2**60 + i: [[10, 10, 50, 50]] for i in range(3)}
    found = {image_id: (boxes, [1.0]) for image_id, boxes in gt.items()}
    assert run(ProposalRecallEvaluator(register(gt, first_id=0)), found)["AR@100"] == 100


def test_recall_of_metrics_is_the_last_of_each_limit(tmp_path) -> None:
    rows = [
        {"iteration": 9, "proposal_recall/AR@100": 10.0, "proposal_recall/AR@10": 5.0},
        {"iteration": 19, "proposal_recall/AR@100": 20.0, "proposal_recall/ARs@100": 1.0}
        | {"box_proposals/AR@100": 99.0},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recall_of_metrics(str(tmp_path)) == {10: 5.0, 100: 20.0}
    path.write_text(json.dumps({"iteration": 9, "total_loss": 1.0}))
    with pytest.raises(DataError, match=r"metrics\.json: no recall of proposals"):
        recall_of_metrics(str(path))


@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS])
def test_recall_of_stored_proposals(register, tmp_path, mode) -> None:
    name = register({0: [[10, 10, 40, 20], [50, 5, 20, 50]], 1: []})
    json_file = MetadataCatalog.get(name).json_file
    # Both boxes, the second after a wrong one: a single proposal finds one of them.
    boxes = np.array([[10, 10, 40, 20], [0, 0, 5, 5], [50, 5, 20, 50]], dtype=np.float32)
    boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, mode)
    content = {
        "boxes": [boxes, boxes[:0]],
        "objectness_logits": [np.array([3.0, 2.0, 1.0], dtype=np.float32), np.zeros(0)],
        "ids": [0, 1],
        "bbox_mode": mode.value,
    }
    path = tmp_path / "box_proposals.pkl"
    path.write_bytes(pickle.dumps(content))
    recall = recall_of_proposals(str(path), json_file, limits=(1, 2, 3))
    assert recall == pytest.approx({1: 50, 2: 50, 3: 100})
    path.write_bytes(pickle.dumps({"boxes": []}))
    with pytest.raises(DataError, match="not a file of proposals"):
        recall_of_proposals(str(path), json_file, (1,))
    path.write_bytes(pickle.dumps({"boxes": print}))
    with pytest.raises(DataError, match=f"{path}: contains pickled code"):
        recall_of_proposals(str(path), json_file, (1,))
