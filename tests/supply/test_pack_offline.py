"""tools/pack_offline.sh: a folder from which the package installs without internet."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "tools" / "pack_offline.sh"
# What the script's header says is on the machine already, and what is imported by nothing we run.
ON_THE_MACHINE = {"torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "matplotlib"}
NOT_IMPORTED = {"black", "tensorboard-data-server", "filelock", "colorama", "pywin32"}
NOT_IMPORTED |= {"markupsafe", "typing-extensions"}  # come with torch


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(x) for x in command], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--python", "312"], "--python needs a version such as 3.12"),
        (["--fresh"], "unknown option --fresh"),
        (["one", "two"], "more than one folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    done = run("bash", SCRIPT, *arguments)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.slow
def test_packed_folder_installs_without_internet(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    # With files left from an earlier run.
    folder.mkdir()
    (folder / "fvcore-0.0.1-py3-none-any.whl").write_bytes(b"")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    done = run("bash", SCRIPT, "--python", version, folder)
    assert done.returncode == 0, done.stderr
    wheels = {parse_wheel_filename(x.name)[0]: x for x in folder.glob("*.whl")}
    assert sum(x.stat().st_size for x in folder.iterdir()) < 40 * 2**20
    check_versions(wheels)
    check_complete(wheels)

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    done = run(folder / "install.sh", PYTHON=str(python), PIP_INDEX_URL="http://127.0.0.1:9/none")
    assert done.returncode == 0, done.stderr
    listed = run(python, "-m", "pip", "list", "--format", "freeze").stdout
    installed = {canonicalize_name(line.partition("==")[0]) for line in listed.splitlines()}
    assert wheels.keys() - installed <= {"setuptools"}

    # Only this package is installed over what is there.
    done = run(folder / "install.sh", "--target", tmp_path / "target", PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target" / "ga_detectron2" / "model_zoo" / "configs").is_dir()
    assert not (tmp_path / "target" / "yacs").exists()
    assert f"export PYTHONPATH={tmp_path / 'target'}" in done.stdout


def check_versions(wheels: dict[str, Path]) -> None:
    """Each of the versions that requirements.txt pins, apart from detectron2 and this package."""
    text = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    pinned = {f"{n}=={v}" for n, v in re.findall(r"^([\w-]+)==([\w.!+]+)", text, re.MULTILINE)}
    ours = {"detectron2", "ga-detectron2"}
    found = {f"{n}=={parse_wheel_filename(x.name)[1]}" for n, x in wheels.items() if n not in ours}
    assert found <= pinned
    assert ours < wheels.keys()


def check_complete(wheels: dict[str, Path]) -> None:
    """Whatever a wheel in the folder requires is there, or on the machine."""
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            file = next(x for x in archive.namelist() if x.endswith(".dist-info/METADATA"))
            metadata = archive.read(file).decode()
        for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE):
            needed = Requirement(line.strip())
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                known = wheels.keys() | ON_THE_MACHINE | NOT_IMPORTED
                assert canonicalize_name(needed.name) in known, f"{name} requires {line}"
