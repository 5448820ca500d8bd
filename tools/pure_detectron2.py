#!/usr/bin/env python3
"""detectron2 as a pure-Python wheel.

Nobody publishes detectron2 for current versions of torch, but its Python files run on all of them.
This takes the file that requirements/detectron2.txt pins (downloaded by pip, hash checked), leaves
out the compiled part ``detectron2/_C`` and writes the rest as an ordinary wheel, so that ``pip
list`` and ``pip uninstall`` know it. What only ``_C`` has (rotated boxes on a GPU, fast COCO
evaluation, deformable convolution of its backbones) is missing; guided anchoring needs none of it.

    python tools/pure_detectron2.py FOLDER      prints the path of the wheel in FOLDER

Needs Python 3.10 or newer with pip, and nothing else.
"""

import argparse
import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PINNED = Path(__file__).resolve().parents[1] / "requirements" / "detectron2.txt"
NAME = "detectron2"


def download(folder: Path) -> Path:
    """The pinned file in ``folder``. It was built for Python 3.10, whichever runs this."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--python-version", "3.10", "--platform", "any"]
    command += ["--platform", "manylinux2014_x86_64", "--dest", str(folder), "-r", str(PINNED)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_pure(source: Path, folder: Path) -> Path:
    """A wheel in ``folder`` with the Python files and configs of the wheel ``source``."""
    with zipfile.ZipFile(source) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        info = info.partition("/")[0]
        init = archive.read(f"{NAME}/__init__.py").decode()
        (version,) = re.findall(r'^__version__ = "(.+)"$', init, re.MULTILINE)
        version += "+python"
        files = {
            name: archive.read(name)
            for name in archive.namelist()
            if name.startswith(f"{NAME}/") and not name.endswith((".so", ".pyd", "/"))
        }
        metadata = archive.read(f"{info}/METADATA").decode()
        metadata = re.sub(r"^Name: .*$", f"Name: {NAME}", metadata, flags=re.MULTILINE)
        metadata = re.sub(r"^Version: .*$", f"Version: {version}", metadata, flags=re.MULTILINE)
        # The cap belongs to the torch that the compiled part was built for.
        metadata = metadata.replace("Requires-Dist: numpy<2\n", "Requires-Dist: numpy\n")
        target = f"{NAME}-{version}.dist-info"
        files[f"{target}/METADATA"] = metadata.encode()
        files[f"{target}/LICENSE"] = archive.read(f"{info}/LICENSE")
    wheel = "Wheel-Version: 1.0\nGenerator: pure_detectron2\nRoot-Is-Purelib: true\n"
    files[f"{target}/WHEEL"] = f"{wheel}Tag: py3-none-any\n".encode()
    files[f"{target}/RECORD"] = "".join(
        [f"{name},{record_hash(content)},{len(content)}\n" for name, content in files.items()]
        + [f"{target}/RECORD,,\n"]
    ).encode()

    path = folder / f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            # A fixed date: the same input gives the same bytes.
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a pure-Python wheel of detectron2.")
    parser.add_argument("folder", type=Path, help="folder for the wheel")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        print(make_pure(download(Path(temporary)), folder))


if __name__ == "__main__":
    main()
