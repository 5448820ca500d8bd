"""Importing the package, with all of its modules, asks no network and writes no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Python tells a hook of every connection, look-up of a name and file, before it is made; it can
# refuse them. What is refused is also kept, for a library may go on after an error.
CODE = """
import json, os, pkgutil, sys

network, written = [], []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        network.append(event)
        raise OSError("no network here")
    if event == "open":
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path) != os.devnull:
            written.append(str(path))
    if event in ("os.mkdir", "os.rename", "os.symlink", "os.link"):
        written.append(str(arguments[0]))

sys.addaudithook(watch)
import ga_detectron2
modules = ["ga_detectron2"]
if "all" in sys.argv:
    found = pkgutil.walk_packages(ga_detectron2.__path__, "ga_detectron2.")
    modules += [m.name for m in found if not m.name.endswith("__main__")]
    for name in modules:
        __import__(name)
report = {"modules": len(modules), "network": list(network), "written": list(written)}
# The hook works: otherwise this test could not fail.
import tempfile, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:9", timeout=1)
except OSError:
    pass
open(os.path.join(os.getcwd(), "made"), "w").close()
report["hook"] = [len(network) > len(report["network"]), written[-1].endswith("made")]
print(json.dumps(report))
"""


@pytest.mark.slow
def test_no_network_and_no_files_at_import(tmp_path: Path) -> None:
    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    done = subprocess.run(
        # -B: compiled files of Python itself are none of the package's.
        [sys.executable, "-B", "-W", "ignore", "-c", CODE, "all"],
        cwd=work,
        env={**environment(), "HOME": str(home), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["hook"] == [True, True]
    assert report["modules"] > 50
    assert report["network"] == []
    # matplotlib, which detectron2 imports, keeps a list of fonts. Python tries whether it can write
    # into the folder for temporary files, and removes what it wrote.
    ours = [path for path in report["written"] if not path.startswith(str(temporary))]
    assert [path for path in ours if not is_of_matplotlib(path)] == []
    # torch 2.11 makes an empty folder for what it may compile.
    made = [p for p in temporary.iterdir() if not p.name.startswith("torchinductor_")]
    assert made == []
    assert [p for p in temporary.rglob("*") if not p.is_dir()] == []
    assert [p.name for p in work.iterdir()] == ["made"]


def is_of_matplotlib(path: str) -> bool:
    return "matplotlib" in path or path.endswith((".config", ".cache"))


def environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "VIRTUAL_ENV")
    project = str(Path(__file__).resolve().parents[2])
    return {**{k: os.environ[k] for k in kept if k in os.environ}, "PYTHONPATH": project}
