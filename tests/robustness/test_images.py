"""Image files of all kinds, as training and tools/demo.py read them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ga_detectron2.data.images import NamingDatasetMapper, read_rgb
from ga_detectron2.errors import DataError
from tests.robustness.examples import EXAMPLES

HEIGHT, WIDTH = 24, 40
# Columns of ever lighter grey, which every format here can hold.
GREY = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
RGB = np.stack([GREY] * 3, axis=2)


def save_exif(path: Path) -> None:
    """Turned by a quarter, with a note that says so."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(RGB))).save(path, exif=exif)


def save_as(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(RGB).convert(mode).save(path)


# File, how it is written, and tolerance of compression.
KINDS: dict[str, tuple[str, Callable[[Path], None], int]] = {
    "rgb": ("a.png", save_as("RGB"), 0),
    "grey": ("a.png", save_as("L"), 0),
    "palette": ("a.png", lambda path: Image.fromarray(RGB).quantize(256).save(path), 4),
    "alpha": ("a.png", save_as("RGBA"), 0),
    "grey with alpha": ("a.png", save_as("LA"), 0),
    "cmyk": ("a.jpg", save_as("CMYK"), 12),
    "ycbcr": ("a.jpg", save_as("YCbCr"), 12),
    "exif": ("a.jpg", save_exif, 12),
}


def as_training_reads(path: Path) -> np.ndarray:
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST = 0
    record = {"file_name": str(path), "image_id": 1, "height": HEIGHT, "width": WIDTH}
    return NamingDatasetMapper(cfg, False)(record)["image"].permute(1, 2, 0).numpy()


@pytest.fixture(params=[as_training_reads, lambda path: read_rgb(str(path))])
def read(request: pytest.FixtureRequest) -> Callable[[Path], np.ndarray]:
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_read(tmp_path: Path, kind: str, read: Callable) -> None:
    name, save, tolerance = KINDS[kind]
    save(tmp_path / name)
    found = read(tmp_path / name)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - RGB).max() <= tolerance


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_colours_are_reduced_to_8_and_grey_refused(
    tmp_path: Path, name: str, read: Callable
) -> None:
    """Pillow reduces colours, and would make a white image of grey."""
    path = tmp_path / name
    deep = np.random.default_rng(0).integers(0, 1 << 16, RGB.shape, dtype=np.uint16)
    assert cv2.imwrite(str(path), deep[..., ::-1])
    assert (read(path) == deep >> 8).all()
    assert cv2.imwrite(str(path), deep[..., 0])
    with pytest.raises(DataError, match=rf"{name}: .*more than 8 bits per channel.*convert it"):
        read(path)


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n\x00\x00", cv2.imencode(".jpg", NOISE)[1].tobytes()[:1500]],
    ids=["empty", "half a header", "truncated"],
)
def test_damaged_images_are_refused_by_name(tmp_path: Path, content: bytes, read: Callable) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_size_other_than_in_the_record_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB[:10]).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png: Mismatched image shape"):
        as_training_reads(tmp_path / "small.png")


def test_errors_of_annotations_are_not_blamed_on_the_image(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "good.png")
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    annotation = {"bbox": [1, 1, 9, 9], "bbox_mode": 99, "category_id": 0}
    record = {"file_name": str(tmp_path / "good.png"), "height": HEIGHT, "width": WIDTH}
    with pytest.raises(DataError, match=r"good\.png: ") as error:
        NamingDatasetMapper(cfg, True)({**record, "annotations": [annotation]})
    assert "decoded" not in str(error.value)


def test_image_of_billions_of_pixels_is_refused(tmp_path: Path) -> None:
    """Its file has a few bytes, its pixels would fill the memory."""
    header = b"P6\n60000 60000\n255\n"
    (tmp_path / "huge.ppm").write_bytes(header)
    with pytest.raises(DataError, match=r"huge\.ppm"):
        read_rgb(str(tmp_path / "huge.ppm"))


PNG = cv2.imencode(".png", RGB)[1].tobytes()
JPEG = cv2.imencode(".jpg", RGB)[1].tobytes()


@settings(max_examples=EXAMPLES)
@given(
    content=st.sampled_from([PNG, JPEG]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5),
    end=st.integers(0, 10_000),
)
def test_any_damage(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, changes: list, end: int
) -> None:
    data = bytearray(content)
    for at, byte in changes:
        data[at % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(bytes(data[: end % (2 * len(data))]))
    try:
        image = read_rgb(str(path))
    except DataError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
