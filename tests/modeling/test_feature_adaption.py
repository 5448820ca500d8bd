"""Feature adaption against deformable convolution, sparse convolution against dense."""

import itertools
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ga_detectron2.modeling import feature_adaption, sparse_conv
from ga_detectron2.modeling.feature_adaption import FeatureAdaption, to_rows
from ga_detectron2.modeling.sparse_conv import (
    NeighboringCells,
    conv3x3,
    conv3x3_at_cells,
    with_neighbors,
)
from ga_detectron2.modeling.weighted_sums import weighted_sums


def reference(adaption, features, shape_deltas):
    """torchvision's operation on (N, C, H, W) maps, (N, 2, H, W) shape outputs."""
    offset = F.conv2d(shape_deltas.detach(), adaption.offset.weight)
    return F.relu(torchvision.ops.deform_conv2d(features, offset, adaption.conv.weight, padding=1))


def make_adaption(in_channels, out_channels, groups, dtype, offset_scale=1.0):
    adaption = FeatureAdaption(in_channels, out_channels, groups).to(dtype)
    nn.init.normal_(adaption.offset.weight, std=offset_scale)
    nn.init.normal_(adaption.conv.weight, std=0.3)
    return adaption


def adapt_all(adaption, features, shape_deltas):
    return adaption(to_rows(features), shape_deltas.permute(0, 2, 3, 1).flatten(1, 2)).to_map()


def gradients(output, weights, *inputs):
    total = (output * weights).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)


def test_rows_are_a_view_of_a_channels_last_map():
    x = torch.randn(2, 6, 3, 5)
    rows = to_rows(x)
    assert rows.rows.shape == (2, 15, 6)
    assert rows.rows[1, 7].equal(x[1, :, 1, 2])
    assert rows.to_map().equal(x)
    last = x.contiguous(memory_format=torch.channels_last)
    assert to_rows(last).rows.data_ptr() == last.data_ptr()


def test_initial_values():
    adaption = FeatureAdaption(256, 256, 4)
    assert adaption.offset.weight.shape == (4 * 18, 2, 1, 1)
    assert adaption.offset.weight.std().item() == pytest.approx(0.1, rel=0.3)
    assert adaption.conv.weight.std().item() == pytest.approx(0.01, rel=0.01)
    wide = FeatureAdaption(256, 256, 4, init_std=0.03)
    assert wide.conv.weight.std().item() == pytest.approx(0.03, rel=0.01)
    assert adaption.offset.bias is None
    assert adaption.conv.bias is None


@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    groups=st.sampled_from([1, 2, 4]),
    group_channels=st.integers(1, 3),
    out_channels=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    offset_scale=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    chunk=st.sampled_from([3, 2048]),
)
@settings(max_examples=30)
def test_adaption(size, groups, group_channels, out_channels, share, offset_scale, chunk):
    """Everywhere and at some cells: values and gradients."""
    N, H, W = size
    C = groups * group_channels
    adaption = make_adaption(C, out_channels, groups, torch.float64, offset_scale)
    x = torch.randn(N, C, H, W, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(N, 2, H, W, dtype=torch.float64, requires_grad=True)
    row_deltas = deltas.permute(0, 2, 3, 1).flatten(0, 2)
    parameters = (x, adaption.offset.weight, adaption.conv.weight)
    expected = reference(adaption, x, deltas).permute(0, 2, 3, 1).flatten(0, 2)
    weights = torch.randn_like(expected)
    cells = (torch.rand(N * H * W) < share).nonzero()[:, 0]
    cells = cells[torch.randperm(len(cells))]

    def check(ours, cells):
        torch.testing.assert_close(ours, expected[cells])
        ours_gradients = gradients(ours, weights[cells], *parameters, deltas)
        assert ours_gradients[3] is None  # nothing flows into the shape outputs
        theirs = gradients(expected[cells], weights[cells], *parameters)
        for a, b in zip(ours_gradients, theirs, strict=False):
            torch.testing.assert_close(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_adaption, "CELLS_PER_CHUNK", chunk)
        everywhere = adaption(to_rows(x), row_deltas.unflatten(0, (N, -1)))
        check(everywhere.rows.flatten(0, 1), slice(None))
        check(adaption.at_cells(to_rows(x), cells, row_deltas[cells]), cells)
        with torch.no_grad():
            doubled = adaption.at_cells(to_rows(x), cells, row_deltas[cells], lambda y: 2 * y)
        torch.testing.assert_close(doubled, 2 * expected[cells])


def test_taps_on_and_around_every_edge():
    """Offsets by whole and half cells, up to beyond both edges of a 2 x 3 map."""
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    adaption = make_adaption(4, 3, 2, torch.float64)
    # Every tap is moved by (dy, dx) of the shape outputs themselves.
    with torch.no_grad():
        adaption.offset.weight.view(2, 9, 2, 2)[:] = torch.eye(2, dtype=torch.float64)
    for dy, dx in itertools.product(range(-6, 7), repeat=2):
        deltas = torch.tensor([dy / 2, dx / 2], dtype=torch.float64).view(1, 2, 1, 1)
        deltas = deltas.expand(1, 2, 2, 3)
        torch.testing.assert_close(adapt_all(adaption, x, deltas), reference(adaption, x, deltas))


def test_no_groups_is_an_ordinary_convolution():
    adaption = FeatureAdaption(6, 5, 0)
    nn.init.normal_(adaption.conv.weight, std=0.3)
    assert not adaption.offset.weight.requires_grad
    x = torch.randn(2, 6, 4, 7)
    adapted = adapt_all(adaption, x, torch.randn(2, 2, 4, 7))
    expected = F.relu(F.conv2d(x, adaption.conv.weight, padding=1))
    assert torch.allclose(adapted, expected, atol=1e-6)
    weights = torch.randn_like(adapted)
    (ours,) = gradients(adapted, weights, adaption.conv.weight)
    (theirs,) = gradients(expected, weights, adaption.conv.weight)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("value", [1e4, -1e30, math.inf, -math.inf, math.nan])
def test_offsets_far_outside_give_nothing(value):
    x = torch.randn(2, 8, 4, 5, requires_grad=True)
    adaption = make_adaption(8, 6, 4, torch.float32)
    nn.init.constant_(adaption.offset.weight, 1.0)
    deltas = torch.zeros(2, 2, 4, 5)
    deltas[0, :, 1, 2] = value
    ours = adapt_all(adaption, x, deltas)
    assert not ours[0, :, 1, 2].any()
    others = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    others[0, :, 1, 2] = False
    expected = reference(adaption, x, torch.where(others, deltas, 0.0))
    torch.testing.assert_close(ours * others, expected * others)
    features, kernel = gradients(ours, torch.ones_like(ours), x, adaption.conv.weight)
    assert features.isfinite().all()
    assert kernel.isfinite().all()


def test_gradcheck():
    """Including the interpolation weights' share, which leads to the offset convolution."""
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(2, 12, 2, dtype=torch.float64)
    adaption = make_adaption(4, 3, 2, torch.float64, offset_scale=0.3)
    cells = torch.tensor([0, 3, 7, 12, 23, 17, 3])

    def run(features, *_weights):  # gradcheck changes the weights in place
        rows = to_rows(features)
        some = adaption.at_cells(rows, cells, deltas.flatten(0, 1)[cells])
        return some, adaption(rows, deltas).rows

    assert torch.autograd.gradcheck(run, (x, adaption.offset.weight, adaption.conv.weight))


@pytest.mark.parametrize("with_weights", [True, False])
def test_gradient_of_weighted_sums_is_that_of_embedding_bag(with_weights):
    """Rows without an entry, with one and with many; a second backward pass through one graph."""
    table = torch.randn(50, 6, requires_grad=True)
    entries = torch.randint(20, (40, 4), dtype=torch.int32)
    weights = torch.randn(40, 4, requires_grad=with_weights)
    of = (table, weights) if with_weights else (table,)
    expected = F.embedding_bag(entries, table, per_sample_weights=weights, mode="sum")
    ours = weighted_sums(table, entries, weights)
    torch.testing.assert_close(ours, expected)
    for _ in range(2):
        out_gradient = torch.randn_like(ours)
        torch.testing.assert_close(
            torch.autograd.grad(ours, of, out_gradient, retain_graph=True),
            torch.autograd.grad(expected, of, out_gradient, retain_graph=True),
        )


def test_cells_of_several_levels_in_one_gather():
    """What GA-RPN does with its sample: each tap lies on the map of its own level."""
    adaption = make_adaption(8, 5, 4, torch.float64)
    maps = [torch.randn(2, 8, s, s + 1, dtype=torch.float64, requires_grad=True) for s in (4, 2)]
    deltas = [torch.randn(2, 2, s, s + 1, dtype=torch.float64) for s in (4, 2)]
    dense = [reference(adaption, x, d) for x, d in zip(maps, deltas, strict=True)]
    wanted = [(0, 0, 3, 4), (1, 1, 0, 2), (0, 1, 1, 1), (1, 0, 0, 0)]  # image, level, row, column
    levels = [to_rows(x) for x in maps]
    image, at, row, column = torch.tensor(wanted).T
    height, width, start = torch.tensor([(4, 5, 0), (2, 3, 20)])[at].T
    taps = adaption.gather_taps_of_maps(
        torch.cat([x.rows for x in levels], dim=1),
        image * 26 + start,
        (height, width),
        row * width + column,
        torch.stack([deltas[at][n, :, i, j] for n, at, i, j in wanted]),
    )
    ours = adaption.project(taps)
    expected = torch.stack([dense[at][n, :, i, j] for n, at, i, j in wanted])
    torch.testing.assert_close(ours, expected)


def test_features_that_need_no_gradient():
    """As where all layers before feature adaption are frozen."""
    adaption = make_adaption(8, 6, 4, torch.float64)
    x, deltas = (torch.randn(1, c, 4, 4, dtype=torch.float64) for c in (8, 2))
    cells = torch.arange(16)
    rows = deltas.permute(0, 2, 3, 1).flatten(0, 2)
    ours = adaption.at_cells(to_rows(x), cells, rows)
    expected = reference(adaption, x, deltas).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(ours, expected)
    weights = (adaption.offset.weight, adaption.conv.weight)
    for a, b in zip(
        gradients(ours, 1.0, *weights), gradients(expected, 1.0, *weights), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_bfloat16_features():
    """As under autocast: the offsets stay in float32, so that taps move as far as they should."""
    adaption = make_adaption(16, 16, 4, torch.float32)
    x = torch.randn(1, 16, 12, 12, requires_grad=True)
    deltas = 3 * torch.randn(1, 144, 2)
    expected = adaption(to_rows(x), deltas).rows
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = adaption(to_rows(x.bfloat16()), deltas).rows
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - expected).norm() < 0.02 * expected.norm()


# ------------------------------------------------------------------------ sparse convolution


@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dense_from=st.sampled_from([None, 0.0, 0.4, 1.0]),
)
@settings(max_examples=60)
def test_convolution_at_cells(size, channels, share, dense_from):
    N, H, W = size
    chosen = torch.rand(N, H, W) < share
    known = with_neighbors(chosen)
    for n in range(N):
        for i in range(H):
            for j in range(W):
                around = chosen[n, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                assert known[n, i, j] == around.any()

    conv = nn.Conv2d(channels, 3, 3, padding=1).double()
    x = torch.randn(N, channels, H, W, dtype=torch.float64, requires_grad=True)
    cells = NeighboringCells.of(chosen.flatten(1), (H, W))
    assert torch.equal(cells.cells, chosen.flatten().nonzero()[:, 0])
    assert torch.equal(cells.known, known.flatten().nonzero()[:, 0])
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)[cells.known]
    if dense_from is None:  # as in export
        ours = conv3x3_at_cells(rows, cells.neighbors, conv)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sparse_conv, "DENSE_FROM", dense_from)
            patch.setattr(feature_adaption, "CELLS_PER_CHUNK", 3)
            ours = conv3x3(rows, cells, conv, size)
    cells = cells.cells
    dense = conv(x).permute(0, 2, 3, 1).flatten(0, 2)[cells]
    torch.testing.assert_close(ours, dense)
    inputs = (x, conv.weight, conv.bias)
    weights = torch.randn_like(ours)
    for a, b in zip(
        gradients(ours, weights, *inputs), gradients(dense, weights, *inputs), strict=True
    ):
        torch.testing.assert_close(a, b)
