"""Importing the package, with all of its modules, asks no network and writes no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# An audit hook sees every connection, name look-up and opened file before it happens.
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

sys.addaudithook(watch)
import ga_detectron2
modules = pkgutil.walk_packages(ga_detectron2.__path__, "ga_detectron2.")
names = [m.name for m in modules if not m.name.endswith("__main__")]
for name in names:
    __import__(name)
report = {"modules": len(names), "network": list(network), "written": list(written)}
# The hook works; otherwise this test could not fail.
import urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:9", timeout=1)
except OSError:
    pass
open("made", "w").close()
report["hook"] = [len(network) > len(report["network"]), written[-1].endswith("made")]
print(json.dumps(report))
"""


@pytest.mark.slow
def test_no_network_and_no_files_at_import(tmp_path: Path) -> None:
    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "VIRTUAL_ENV")
    env = {k: os.environ[k] for k in kept if k in os.environ}
    env |= {"PYTHONPATH": str(PROJECT), "HOME": str(home), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", CODE],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["hook"] == [True, True]
    assert report["modules"] > 30
    assert report["network"] == []
    # matplotlib, which detectron2 imports, keeps a list of fonts; Python and torch try whether
    # they can write into the folder for temporary files.
    others = [p for p in report["written"] if not p.startswith(str(temporary))]
    assert [p for p in others if "matplotlib" not in p] == []
    assert [p for p in temporary.rglob("*") if not p.is_dir()] == []
    assert [p.name for p in work.iterdir()] == ["made"]
