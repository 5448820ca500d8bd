"""Targets against twins that look at one cell and one box at a time, written from the method.

The twins compute in float32 where the method rounds (numpy scalars, one operation at a time), or on
boxes whose IoUs are quotients of whole numbers, so that ties are ties; otherwise they leave out
what a rounding error can decide.
"""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.modeling import matching
from ga_detectron2.modeling.anchors import cells_inside_images, make_cell_grid, make_squares
from ga_detectron2.modeling.matching import MatchRule, match_anchors, match_approximate_anchors
from ga_detectron2.modeling.targets import (
    GroundTruth,
    box_levels,
    central_region,
    location_targets,
    pad_ground_truth,
    sample_cells,
)

CPU = torch.device("cpu")
F32 = np.float32

# The published settings: of the shape targets, and of guided anchors' matches.
RPN_RULE = MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
RETINANET_SHAPE_RULE = MatchRule((0.4, 0.5), (0, -1, 1), 0.4)
RETINANET_BOX_RULE = MatchRule((0.5,), (0, 1), 0.0)
RULES = [RPN_RULE, RETINANET_SHAPE_RULE, RETINANET_BOX_RULE]


def instances(boxes, classes=None) -> Instances:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    x = Instances((100, 100), gt_boxes=Boxes(boxes))
    if classes is not None:
        x.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return x


def ground_truth_of(images) -> GroundTruth:
    return pad_ground_truth([instances(boxes) for boxes in images])


# ----------------------------------------------------------------------------- ground truth


def test_ground_truth_is_padded_and_boxes_without_an_area_do_not_count():
    nan, inf = math.nan, math.inf
    bad = [[5, 5, 5, 9], [7, 7, 6, 9], [nan, 0, 9, 9], [0, 0, inf, 9], [0, 0, 1e8, 9]]
    first = instances([[1, 2, 3, 4], *bad, [0, 0, 2, 2]], classes=[3, *[1] * 5, 2])
    ground_truth = pad_ground_truth([first, instances([[10, 20, 30, 40]], [7]), instances([], [])])
    assert ground_truth.boxes.shape == (3, 7, 4)
    assert ground_truth.valid.tolist() == [
        [True, *[False] * 5, True],
        [True] + [False] * 6,
        [False] * 7,
    ]
    assert ground_truth.boxes.isfinite().all()
    index = torch.tensor([[6, 0], [0, 0], [0, 0]])
    assert ground_truth.take(index)[:2].tolist() == [
        [[0, 0, 2, 2], [1, 2, 3, 4]],
        [[10, 20, 30, 40]] * 2,
    ]
    assert ground_truth.take_classes(index)[:2].tolist() == [[2, 3], [7, 7]]
    without_boxes = pad_ground_truth([instances([]), instances([])])
    assert without_boxes.take(index[:2]).tolist() == [[[0.0] * 4] * 2] * 2
    assert without_boxes.take_classes(index[:2]).tolist() == [[0] * 2] * 2


# ------------------------------------------------------------------------- location targets


def twin_level(box, num_levels, first_stride, base_scale):
    area = (box[2] - box[0]) * (box[3] - box[1])
    level = math.floor(math.log2(math.sqrt(area)) - math.log2(base_scale * first_stride) + 0.5)
    return min(max(level, 0), num_levels - 1)


def twin_region(box, stride, ratio, height, width):
    """First and last column and row; Python's round is half to even."""
    r = (1 - ratio) / 2
    inner, outer = F32(1 - r), F32(r)
    x1, y1, x2, y2 = (F32(v) / F32(stride) for v in box)
    left = round(float(inner * x1 + outer * x2))
    right = round(float(outer * x1 + inner * x2))
    top = round(float(inner * y1 + outer * y2))
    bottom = round(float(outer * y1 + inner * y2))
    return (
        min(max(left, 0), width),
        min(max(top, 0), height),
        min(max(right, 0), width),
        min(max(bottom, 0), height),
    )


def twin_location(sizes, strides, boxes, base_scale, center_ratio, ignore_ratio):
    """Target and weight of every cell of one image; a box without an area counts nowhere."""
    boxes = [b for b in boxes if b[2] > b[0] and b[3] > b[1]]
    targets, weights = [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        for i in range(height):
            for j in range(width):
                target, weight = 0.0, 0.1
                for box in boxes:
                    own = twin_level(box, len(sizes), strides[0], base_scale)
                    if abs(own - level) > 1:
                        continue
                    x1, y1, x2, y2 = twin_region(box, stride, ignore_ratio, height, width)
                    if x1 <= j <= x2 and y1 <= i <= y2 and target == 0:
                        weight = 0.0
                    if own != level:
                        continue
                    x1, y1, x2, y2 = twin_region(box, stride, center_ratio, height, width)
                    if x1 <= j <= x2 and y1 <= i <= y2:
                        target, weight = 1.0, 1.0
                targets.append(target)
                weights.append(weight)
    return targets, weights


def far_from_the_next_level(box):
    """Whether float32 cannot take the box for one of the next level; an exact limit is fine."""
    area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    if area == 0:
        return True
    level = math.log2(area) / 2 + 0.5  # base scale x stride is a power of two
    return level == round(level) or abs(level - round(level)) > 1e-4


@st.composite
def grids(draw, most_levels=5):
    first = draw(st.sampled_from([1, 2, 4, 8]))
    levels = draw(st.integers(1, most_levels))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    sizes = tuple((max(1, height >> i), max(1, width >> i)) for i in range(levels))
    return sizes, tuple(first << i for i in range(levels))


@st.composite
def location_boxes(draw, extent):
    """Boxes on and around a map of ``extent`` pixels: tiny, large, outside, without an area."""
    position = st.one_of(
        st.integers(-extent, 2 * extent).map(float),
        st.floats(-0.5 * extent, 1.5 * extent, width=32),
    )
    size = st.one_of(
        st.sampled_from([0.0, -1.0, 0.125, 1.0, 16.0, 32.0, 64.0]),
        st.floats(0.0625, 2.0 * extent, width=32),
    )
    x, y, w, h = draw(position), draw(position), draw(size), draw(size)
    return [float(F32(v)) for v in (x, y, x + w, y + h)]


@st.composite
def location_problems(draw):
    sizes, strides = draw(grids())
    extent = max(sizes[0]) * strides[0]
    boxes = st.lists(location_boxes(extent).filter(far_from_the_next_level), max_size=6)
    ratios = draw(st.sampled_from([(0.2, 0.5), (0.2, 0.2), (0.0, 1.0), (0.3, 0.75)]))
    return sizes, strides, draw(st.lists(boxes, min_size=1, max_size=2)), ratios


@given(location_problems(), st.sampled_from([2, 4, 8]), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_location_targets(problem, base_scale, random):
    sizes, strides, images, (center, ignore) = problem
    grid = make_cell_grid(sizes, strides, CPU)
    ours = location_targets(grid, ground_truth_of(images), base_scale, center, ignore)
    for n, boxes in enumerate(images):
        targets, weights = twin_location(sizes, strides, boxes, base_scale, center, ignore)
        assert ours.targets[n].tolist() == targets
        torch.testing.assert_close(ours.weights[n], torch.tensor(weights), rtol=0, atol=1e-7)
    shuffled = [random.sample(boxes, len(boxes)) for boxes in images]
    again = location_targets(grid, ground_truth_of(shuffled), base_scale, center, ignore)
    assert torch.equal(again.targets, ours.targets)
    assert torch.equal(again.weights, ours.weights)


@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_level_of_a_box_exactly_between_two_levels(count):
    """floor(x + 0.5): the larger level, for every place in a vector of boxes."""
    for level in range(1, 5):
        side = 32 * 2 ** (level - 0.5)
        tall = torch.tensor([0.0, 0.0, side / math.sqrt(2), side * math.sqrt(2)]).round()
        assert tall[2] * tall[3] == round(side * side)
        boxes = tall.expand(count, 4)
        assert box_levels(boxes, 5, 4, 8).tolist() == [level] * count
        smaller = boxes * torch.tensor([1, 1, 1, 0.99])
        assert box_levels(smaller, 5, 4, 8).tolist() == [level - 1] * count


def test_central_region_rounds_half_to_even():
    # Ratio 0 is the centre: 0.5, 1.5, 2.5 and 3.5 go to 0, 2, 2 and 4.
    for edge, expected in ((1, 0), (3, 2), (5, 2), (7, 4)):
        region = central_region(torch.tensor([0.0, 0.0, edge, edge]), 0.0, 10, 10)
        assert region.tolist() == [expected] * 4


# ---------------------------------------------------------------------------------- matching


def twin_iou(box, anchor):
    """IoU of two boxes in float64; 0 where one has no area."""
    width = min(box[2], anchor[2]) - max(box[0], anchor[0])
    height = min(box[3], anchor[3]) - max(box[1], anchor[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, anchor)]
    return width * height / (areas[0] + areas[1] - width * height)


def twin_match(iou, inside, rule, number=float):
    """Index and label of every cell of an image.

    Args:
        iou: by box and cell.
        inside: by cell.
        number: float32 where values of iou are quotients of whole numbers and ties matter.
    """
    iou = [[number(v) for v in row] for row in iou]
    index, label = [], []
    for cell in range(len(inside)):
        best, box = number(0), 0
        for m in range(len(iou)):
            if iou[m][cell] > best:
                best, box = iou[m][cell], m
        k = sum(best >= number(t) for t in rule.thresholds)
        index.append(box)
        label.append(rule.labels[k])
    for m in range(len(iou)):
        of_inside = [iou[m][c] for c in range(len(inside)) if inside[c]]
        best = max(of_inside, default=number(0))
        if best <= 0 or best < number(rule.min_positive_iou):
            continue
        for cell in range(len(inside)):
            if inside[cell] and iou[m][cell] == best:
                index[cell], label[cell] = m, 1
    return index, [x if inside[c] else -1 for c, x in enumerate(label)]


def clear_cut(iou, inside, rule, margin=1e-5):
    """(R,) bool: cells of which no decision hangs on a difference of IoUs below ``margin``."""
    if not iou:
        return torch.ones_like(inside)
    iou = torch.tensor(iou, dtype=torch.float64) * inside
    # Which box is the cell's best, and what label its IoU stands for.
    best = torch.cat([iou, iou.new_zeros(2, len(inside))]).topk(2, dim=0).values
    clear = (best[0] == 0) | (best[0] - best[1] > margin)
    for threshold in rule.thresholds:
        clear &= (best[0] - threshold).abs() > margin
    # Whether the box's best IoU is good enough, and whether the cell is the only one that has it.
    of_box = iou.amax(dim=1, keepdim=True)
    near_best = (iou > of_box - margin) & (of_box > 0)
    single = near_best.sum(dim=1, keepdim=True) == 1
    good = (of_box - rule.min_positive_iou).abs() > margin
    below = of_box < rule.min_positive_iou - margin
    return clear & ~(near_best & ~((single & good) | below)).any(dim=0)


def check_matches(ours, n, iou, inside, rule, exact=True):
    """The index matters where a cell is positive, and is one that can be looked up elsewhere."""
    index, label = twin_match(iou, inside.tolist(), rule, F32 if exact else float)
    clear = torch.ones_like(inside) if exact else clear_cut(iou, inside, rule)
    for c in clear.nonzero()[:, 0].tolist():
        assert ours.labels[n, c] == label[c]
        if label[c] == 1:
            assert ours.boxes[n, c] == index[c]
    assert ours.boxes.min() >= 0
    assert ours.boxes[n].max() < max(1, len(iou))
    return clear


@pytest.fixture(params=[None, 20], ids=["few chunks", "many chunks"], scope="module")
def chunks(request):
    """Both with and without the boundaries of chunks in reach of small problems."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setitem(matching.PAIRS_PER_CHUNK, "cpu", request.param)
        yield


@pytest.fixture(params=["near", "all"], scope="module")
def comparison(request):
    """The way of comparing guided anchors that a CPU takes, and the one for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "all":
            patch.setattr(matching, "_compare_near", matching._compare_all)
        yield


def whole_boxes(extent):
    """Boxes at whole numbers, on and around the map, some without an area or far outside."""
    position = st.integers(-extent // 4, extent)
    size = st.integers(0, extent)
    return st.tuples(position, position, size, size).map(
        lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
    )


@st.composite
def match_problems(draw, most_levels=3, most_cells=6):
    """Grid, image sizes and boxes of a batch, padded to its largest image."""
    levels = draw(st.integers(1, most_levels))
    first = draw(st.sampled_from([2, 4, 8]))
    height, width = draw(st.integers(1, most_cells)), draw(st.integers(1, most_cells))
    sizes = tuple((max(1, height >> i), max(1, width >> i)) for i in range(levels))
    strides = tuple(first << i for i in range(levels))
    extent = max(height, width) * first
    boxes = whole_boxes(extent)
    images = draw(st.lists(st.lists(boxes, max_size=5), min_size=1, max_size=3))
    image_sizes = [
        (draw(st.integers(1, height * first)), draw(st.integers(1, width * first))) for _ in images
    ]
    return sizes, strides, image_sizes, images


def twin_cells(sizes, strides):
    """(x, y, stride) of every cell."""
    return [
        (j * s, i * s, s)
        for (height, width), s in zip(sizes, strides, strict=True)
        for i in range(height)
        for j in range(width)
    ]


@given(match_problems())
@settings(max_examples=40)
def test_cells_inside_images(problem):
    sizes, strides, image_sizes, _ = problem
    grid = make_cell_grid(sizes, strides, CPU)
    inside = cells_inside_images(grid, image_sizes)
    for n, (height, width) in enumerate(image_sizes):
        cells = twin_cells(sizes, strides)
        assert inside[n].tolist() == [x < width and y < height for x, y, _ in cells]


def check_shape_targets(problem, rule, base_scale, scales, ratios, exact):
    sizes, strides, image_sizes, images = problem
    grid = make_cell_grid(sizes, strides, CPU)
    inside = cells_inside_images(grid, image_sizes)
    ours = match_approximate_anchors(
        grid, inside, ground_truth_of(images), rule, base_scale, scales, ratios
    )
    sides = [
        (
            base_scale * 2 ** (i / scales) / math.sqrt(r),
            base_scale * 2 ** (i / scales) * math.sqrt(r),
        )
        for i in range(scales)
        for r in ratios
    ]
    anchors = [
        [(x - s * w / 2, y - s * h / 2, x + s * w / 2, y + s * h / 2) for w, h in sides]
        for x, y, s in twin_cells(sizes, strides)
    ]
    for n, boxes in enumerate(images):
        iou = [[max(twin_iou(b, a) for a in of_cell) for of_cell in anchors] for b in boxes]
        check_matches(ours, n, iou, inside[n], rule, exact)


@pytest.mark.usefixtures("chunks")
@given(match_problems(), st.sampled_from(RULES), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60)
def test_shape_targets_with_ties(problem, rule, base_scale):
    """Three approximate anchors of whole sides, so that IoUs tie exactly."""
    check_shape_targets(problem, rule, base_scale, 1, (0.25, 1.0, 4.0), exact=True)


@pytest.mark.usefixtures("chunks")
@given(
    match_problems(most_levels=5, most_cells=10),
    st.sampled_from([RPN_RULE, RETINANET_SHAPE_RULE, MatchRule((0.3, 0.7), (0, -1, 1), 0.05)]),
    st.sampled_from([0.5, 1, 2, 4, 8]),
    st.sampled_from([(0.5, 1.0, 2.0), (0.125, 1.0), (3.0,)]),
)
@settings(max_examples=40)
def test_shape_targets_of_nine_approximate_anchors(problem, rule, base_scale, ratios):
    """Anchors of irrational sides; cells that a rounding error may decide are left out."""
    check_shape_targets(problem, rule, base_scale, 3, ratios, exact=False)


@pytest.mark.parametrize(
    ("rule", "base_scale", "first_stride"), [(RPN_RULE, 8, 4), (RETINANET_SHAPE_RULE, 4, 8)]
)
def test_shape_targets_as_far_away_as_an_iou_can_matter(rule, base_scale, first_stride):
    """Boxes that reach from an anchor so far to one side that its IoU just matters, or just not.

    Or that are as much larger or smaller to all sides. One box an image.
    """
    generator = torch.Generator().manual_seed(0)
    strides = tuple(first_stride << i for i in range(4))
    image = (256, 320)
    sizes = tuple((math.ceil(image[0] / s), math.ceil(image[1] / s)) for s in strides)
    generate = DefaultAnchorGenerator(
        sizes=[[base_scale * s * 2 ** (i / 3) for i in range(3)] for s in strides],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=strides,
        offset=0.0,
    )
    anchors = Boxes.cat(generate([torch.zeros(1, 1, *size) for size in sizes])).tensor
    chosen = anchors[torch.randint(len(anchors), (240,), generator=generator)]
    share = torch.where(torch.arange(240) % 2 == 0, 1.001, 0.999) * rule.thresholds[0]
    length = chosen[:, 2:] - chosen[:, :2]
    boxes = chosen.clone()
    for i in range(240):
        side, axis = i // 2 % 3, i // 6 % 2
        if side == 0:
            boxes[i, axis] -= length[i, axis] * (1 / share[i] - 1)
        elif side == 1:
            boxes[i, axis + 2] += length[i, axis] * (1 / share[i] - 1)
        else:  # as large as that to all sides, or as small
            grow = share[i] ** (0.5 if axis else -0.5) / 2
            center = (chosen[i, :2] + chosen[i, 2:]) / 2
            boxes[i] = torch.cat([center - grow * length[i], center + grow * length[i]])
    grid = make_cell_grid(sizes, strides, CPU)
    inside = torch.ones(len(boxes), len(anchors) // 9, dtype=torch.bool)
    truth = ground_truth_of(boxes[:, None].tolist())
    ours = match_approximate_anchors(grid, inside, truth, rule, base_scale, 3, (0.5, 1.0, 2.0))
    iou = pairwise_iou(Boxes(boxes), Boxes(anchors)).unflatten(1, (-1, 9)).amax(dim=2)
    level = sum((iou >= t).long() for t in rule.thresholds)
    expected = torch.tensor(rule.labels)[level]
    near_threshold = sum((iou - t).abs() < 1e-5 for t in rule.thresholds) > 0
    clear = ~near_threshold & (iou < iou.amax(dim=1, keepdim=True) - 1e-5)
    assert torch.equal(ours.labels[clear], expected[clear])
    barely = (iou >= rule.thresholds[0]) & (iou < 1.01 * rule.thresholds[0])
    assert (barely & clear).any(dim=1).float().mean() > 0.2


@pytest.mark.usefixtures("chunks", "comparison")
@given(match_problems(), st.sampled_from(RULES), st.data())
@settings(max_examples=60)
def test_guided_anchor_matches(problem, rule, data):
    sizes, strides, image_sizes, images = problem
    grid = make_cell_grid(sizes, strides, CPU)
    inside = cells_inside_images(grid, image_sizes)
    extent = max(sizes[0]) * strides[0]
    # Sides of whole numbers around each cell; a few kinds of them, so that there are ties.
    sides = data.draw(
        st.lists(st.tuples(st.integers(1, extent), st.integers(1, extent)), min_size=1, max_size=5)
    )
    anchors = [
        [
            [x - w, y - h, x + w, y + h]
            for i, (x, y, _) in enumerate(twin_cells(sizes, strides))
            for w, h in [sides[(i + n) % len(sides)]]
        ]
        for n in range(len(images))
    ]
    ours = match_anchors(
        torch.tensor(anchors, dtype=torch.float32), inside, ground_truth_of(images), rule
    )
    for n, boxes in enumerate(images):
        check_matches(
            ours, n, [[twin_iou(b, a) for a in anchors[n]] for b in boxes], inside[n], rule
        )


@pytest.mark.usefixtures("comparison")
@pytest.mark.parametrize(
    ("thresholds", "labels"), [((0.3, 0.7), (0, -1, 1)), ((0.5,), (0, 1)), ((0.4, 0.5), (0, -1, 1))]
)
def test_labels_are_those_of_detectron2s_matcher(thresholds, labels):
    """It assigns the best cells of every box, from any IoU, and needs one of at least some IoU."""
    generator = torch.Generator().manual_seed(0)
    grid = make_cell_grid(((40, 50), (20, 25), (10, 13)), (8, 16, 32), CPU)
    corner = torch.rand(30, 2, generator=generator) * 250
    boxes = torch.cat([corner, corner + 10 + 140 * torch.rand(30, 2, generator=generator)], dim=1)
    squares = make_squares(grid, 4)
    iou = pairwise_iou(Boxes(boxes), Boxes(squares))
    assert (iou.amax(dim=1) > 0).all()
    theirs_index, theirs = Matcher(list(thresholds), list(labels), True)(iou)
    inside = torch.ones(1, len(squares), dtype=torch.bool)
    ours = match_anchors(
        squares[None], inside, ground_truth_of([boxes.tolist()]), MatchRule(thresholds, labels, 0.0)
    )
    assert torch.equal(ours.labels[0], theirs.long())
    without_claim = (iou != iou.amax(dim=1, keepdim=True)).all(dim=0) & (theirs == 1)
    assert without_claim.any()
    assert torch.equal(ours.boxes[0][without_claim], theirs_index[without_claim])


def test_box_targets_where_most_pairs_reach_a_threshold(monkeypatch):
    """They are merged as they pile up, several times here, and box after box all the same."""
    monkeypatch.setitem(matching.PAIRS_PER_CHUNK, "cpu", 400)
    merged, merge = [], matching._merge_near
    monkeypatch.setattr(matching, "_merge_near", lambda *x: merged.append(x) or merge(*x))
    generator = torch.Generator().manual_seed(0)
    anchors = torch.rand(2, 150, 4, generator=generator) * 30
    anchors[..., 2:] += 60
    boxes = torch.rand(2, 40, 4, generator=generator) * 30
    boxes[..., 2:] += 60
    inside = torch.rand(2, 150, generator=generator) < 0.9
    ours = match_anchors(anchors, inside, ground_truth_of(boxes.tolist()), RPN_RULE)
    assert len(merged) > 3
    for n in range(2):
        iou = pairwise_iou(Boxes(boxes[n].double()), Boxes(anchors[n].double()))
        assert (iou > 0.3).float().mean() > 0.5
        clear = check_matches(ours, n, iou.tolist(), inside[n], RPN_RULE, exact=False)
        assert clear.float().mean() > 0.9


# ---------------------------------------------------------------------------------- sampling


@given(
    st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=12, max_size=12), min_size=1),
    st.sampled_from([1, 2, 3, 7, 11, 12, 13, 256, 10**6]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(max_examples=80)
def test_sample(labels, batch_size, fraction):
    sample = sample_cells(torch.tensor(labels), batch_size, fraction)
    assert sample.cells.shape == sample.positive.shape == sample.negative.shape
    normalizer = 0
    for n, of_image in enumerate(labels):
        positive = sample.cells[n][sample.positive[n]].tolist()
        negative = sample.cells[n][sample.negative[n]].tolist()
        # None twice, and each of its own kind: never an ignored one.
        assert len(set(positive + negative)) == len(positive) + len(negative)
        assert all(of_image[i] == 1 for i in positive)
        assert all(of_image[i] == 0 for i in negative)
        assert not (sample.positive[n] & sample.negative[n]).any()
        # As many as there may be.
        assert len(positive) == min(of_image.count(1), int(batch_size * fraction))
        assert len(negative) == min(of_image.count(0), batch_size - len(positive))
        normalizer += max(len(positive), 1) + max(len(negative), 1)
    assert sample.normalizer().item() == normalizer
    values = torch.arange(len(labels) * 12 * 6).view(-1, 12, 2, 3)
    for n, cells in enumerate(sample.cells):
        assert torch.equal(sample.take(values)[n], values[n, cells])


def test_samples_are_uniform():
    """4000 draws of 20 from 30 positive and 50 negative cells; the bounds are 5 sigma."""
    torch.manual_seed(0)
    labels = torch.full((90,), -1)
    labels[:30], labels[40:] = 1, 0
    draws = 4000
    sample = sample_cells(labels.expand(draws, -1), 20, 0.4)

    def check(chosen, first, count, share):
        index = sample.cells[chosen].view(draws, -1) - first
        hits = torch.zeros(draws, count).scatter_(1, index, 1.0)
        z = (hits.sum(dim=0) - draws * share) / math.sqrt(draws * share * (1 - share))
        assert z.abs().max() < 5
        # The sum of squares is that of count - 1 independent ones times count / (count - 1).
        assert abs((z**2).sum() - count) < 5 * math.sqrt(2 * count)
        # Cells are drawn independently of their neighbours: pairs come as often as any two do.
        pairs = (hits[:, 1:] * hits[:, :-1]).sum(dim=0)
        k = round(share * count)
        together = k * (k - 1) / (count * (count - 1))
        z = (pairs - draws * together) / math.sqrt(draws * together * (1 - together))
        assert z.abs().max() < 5

    check(sample.positive, 0, 30, 8 / 30)
    check(sample.negative, 40, 50, 12 / 50)
