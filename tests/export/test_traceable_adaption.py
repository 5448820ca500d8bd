"""The form of feature adaption for ONNX against torchvision's deformable convolution."""

import pytest
import torch
import torchvision

from ga_detectron2.export.traceable_adaption import adapt_cells_by_indices
from ga_detectron2.modeling.feature_adaption import FeatureAdaption, to_rows


@pytest.mark.parametrize("reach", [0.5, 20.0])
@pytest.mark.parametrize("groups", [1, 4])
def test_deformable_convolution(reach: float, groups: int) -> None:
    """Of some cells, taps outside the map included."""
    torch.manual_seed(0)
    adaption = FeatureAdaption(16, 24, groups)
    features = torch.randn(1, 16, 7, 9)
    deltas = reach * torch.randn(63, 2)
    cells = torch.randperm(63)[:30]
    with torch.no_grad():
        offsets = deltas @ adaption.offset.weight.flatten(1).T
        offsets = offsets.T.reshape(1, -1, 7, 9)
        expected = torchvision.ops.deform_conv2d(
            features, offsets, adaption.conv.weight, padding=1
        ).relu()
        found = adapt_cells_by_indices(adaption, to_rows(features), cells, deltas[cells])
        none = adapt_cells_by_indices(adaption, to_rows(features), cells[:0], deltas[:0])
    assert expected.max() > 0.01
    torch.testing.assert_close(found, expected.flatten(2)[0].T[cells], rtol=1e-4, atol=1e-6)
    assert none.shape == (0, 24)
