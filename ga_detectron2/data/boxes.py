"""Boxes that detectron2's ROI heads die of, looked for where images are loaded.

They add the boxes of the data to the proposals as they are. One that is not finite, turned around
or huge ends there in an assertion without a name, in a demand for more memory than there is, or in
a segmentation fault. detectron2's ``DatasetMapper`` clips boxes and leaves out those without an
area; another mapper may not. To look in the model would mean to wait for the GPU in every step.
"""

from collections.abc import Mapping
from typing import Any

from ga_detectron2.errors import DataError

__all__ = ["BoxCheckedMapper", "BoxError"]

MOST_SIZES = 10
"""How far a box may reach beyond its image, in heights and widths of the image."""


class BoxError(DataError):
    """A box of an object cannot be used."""


class BoxCheckedMapper:
    """Any mapper, whose results are looked through for boxes that ROI heads cannot take.

    It does so on the CPU: in the loader's own processes if it has some.
    """

    def __init__(self, mapper: Any):
        self.mapper = mapper

    def __call__(self, record: Any) -> Any:
        """
        Raises:
            BoxError: names the image's file and the first such box.
        """
        result = self.mapper(record)
        instances = result.get("instances") if isinstance(result, Mapping) else None
        if instances is None or not instances.has("gt_boxes") or not len(instances):
            return result
        boxes = instances.gt_boxes.tensor
        if boxes.shape[1] != 4:  # Rotated.
            return result
        height, width = instances.image_size
        x1, y1, x2, y2 = boxes.unbind(1)
        far_x, far_y = MOST_SIZES * width, MOST_SIZES * height
        # NaN is in no range.
        good = (-far_x <= x1) & (x1 <= x2) & (x2 <= far_x + width)
        good &= (-far_y <= y1) & (y1 <= y2) & (y2 <= far_y + height)
        if not good.all():
            bad = [round(x, 2) for x in boxes[~good][0].tolist()]
            raise BoxError(
                f"{result.get('file_name', 'an image')}: an object has the box {bad} (x1, y1, x2, "
                f"y2) in an image of {width} x {height} pixels: x1 must not be above x2 nor y1 "
                "above y2, all within the image. detectron2's DatasetMapper leaves out such "
                "boxes by filter_empty_instances, after it has clipped them"
            )
        return result
