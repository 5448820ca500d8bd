"""detectron2's wheel of Python files."""

import importlib.metadata
import importlib.util
import zipfile
from pathlib import Path

import pytest

from tests.scripts import load_script


def wheel_of(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_wheel_of_python_files(tmp_path: Path) -> None:
    make_pure = load_script("pure_detectron2").make_pure
    info = "sal_detectron2-0.7.2.dist-info"
    source = wheel_of(
        tmp_path,
        {
            "detectron2/__init__.py": '__version__ = "0.7.2"\n',
            "detectron2/model_zoo/configs/a.yaml": "A: 1\n",
            "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "binary",
            "tools/train_net.py": "",
            f"{info}/METADATA": "Name: sal-detectron2\nVersion: 0.7.2\nRequires-Dist: numpy<2\n",
            f"{info}/LICENSE": "Apache",
        },
    )
    (tmp_path / "out").mkdir()
    wheel = make_pure(source, tmp_path / "out")
    assert wheel.name == "detectron2-0.7.2+python-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read("detectron2-0.7.2+python.dist-info/METADATA").decode()
        record = archive.read("detectron2-0.7.2+python.dist-info/RECORD").decode()
    assert {"detectron2/__init__.py", "detectron2/model_zoo/configs/a.yaml"} <= names
    assert not [n for n in names if n.endswith(".so") or n.startswith("tools/")]
    assert "Name: detectron2\n" in metadata
    assert "Requires-Dist: numpy\n" in metadata
    assert {line.split(",")[0] for line in record.splitlines()} == names


def test_pip_knows_detectron2() -> None:
    if importlib.util.find_spec("detectron2._C") is not None:
        pytest.skip("this detectron2 has a compiled part")
    assert importlib.metadata.version("detectron2").endswith("+python")
