"""Downloads from a server on this machine that cuts connections, lies, stalls or is not there."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time

import pytest

from ga_detectron2.errors import ModelZooError
from ga_detectron2.model_zoo import download as download_module
from ga_detectron2.model_zoo.download import MAX_TRIES, download

from .server import closed_port

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(CONTENT).hexdigest()[:8]
OTHER = CONTENT[::-1]


@pytest.fixture
def get(server, tmp_path):
    server.files["/folder/a.pth"] = CONTENT
    path = tmp_path / "cache" / "a.pth"

    def call(**kwargs):
        download(server.address + "/folder/a.pth", str(path), SHA, **kwargs)
        assert path.read_bytes() == CONTENT
        assert left(path) == ["a.pth", "a.pth.lock"]

    call.path = path
    call.part = path.parent / "a.pth.part"
    return call


def left(path):
    return sorted(p.name for p in path.parent.iterdir())


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fails(get, message):
    """The one line in which it fails, after which no file is under the final name."""
    with pytest.raises(ModelZooError, match=message) as e:
        get()
    assert "\n" not in str(e.value)
    assert not get.path.exists()
    return str(e.value)


def test_downloads_once(server, get):
    get()
    get()
    assert server.requests == [("/folder/a.pth", 0)]
    get(force=True)
    assert len(server.requests) == 2


@pytest.mark.parametrize("lengths", [True, False])
def test_without_length(server, get, lengths):
    server.lengths = lengths
    get()


def test_cut_connections_are_resumed(server, get):
    server.cuts = [300_000, 0, 400_000]
    get()
    assert [start for _, start in server.requests] == [0, 300_000, 300_000, 700_000]
    assert server.sent == len(CONTENT)


def test_cut_connection_without_ranges_starts_over(server, get):
    server.cuts = [300_000]
    server.ranges = False
    get()
    assert server.sent == 300_000 + len(CONTENT)


def test_gives_up_and_goes_on_later(server, get):
    server.cuts = [100_000] * MAX_TRIES
    message = fails(get, f"given up after {MAX_TRIES} tries .*cut after 500000 of 1048576 bytes")
    assert "500000 bytes are kept" in message
    assert len(server.requests) == MAX_TRIES
    assert get.part.read_bytes() == CONTENT[:500_000]
    get()
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("size", [1, 500_000, len(CONTENT)])
def test_goes_on_from_what_an_earlier_process_left(server, get, size):
    put(get.part, CONTENT[:size])
    get()
    assert server.requests == [("/folder/a.pth", size)]


@pytest.mark.parametrize("earlier", [OTHER[:500_000], OTHER, CONTENT + b"more"])
def test_part_of_another_file_is_dropped(server, get, earlier):
    put(get.part, earlier)
    get()
    assert server.requests[-1] == ("/folder/a.pth", 0)


def test_wrong_hash(server, get):
    server.files["/folder/a.pth"] = OTHER
    found = hashlib.sha256(OTHER).hexdigest()[:8]
    fails(get, f"not the published file: its SHA-256 begins with {found}, not with {SHA}")
    assert left(get.path) == ["a.pth.lock"]
    assert len(server.requests) == 1


def test_wrong_hash_after_a_cut_is_tried_once_more(server, get):
    server.files["/folder/a.pth"] = OTHER
    server.cuts = [1000]
    fails(get, "not the published file")
    assert [start for _, start in server.requests] == [0, 1000, 0]
    assert left(get.path) == ["a.pth.lock"]


def test_damaged_file_in_the_cache_is_replaced(server, get):
    put(get.path, CONTENT[:-1])
    get()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [404, 403, 410])
def test_no_file(server, get, status):
    server.statuses = [status]
    message = fails(get, f"/folder/a.pth: the server says {status} ")
    assert "GA_DETECTRON2_MIRROR" in message
    assert len(server.requests) == 1
    assert left(get.path) == ["a.pth.lock"]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_busy_server(server, get, status):
    server.statuses = [status] * MAX_TRIES
    fails(get, f"given up after {MAX_TRIES} tries .the server says {status}")
    assert len(server.requests) == MAX_TRIES
    server.statuses = [status]
    get()


def test_server_that_stalls(server, get, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT", 0.05)
    monkeypatch.setattr(download_module, "MAX_TRIES", 2)
    server.pause = 0.5
    fails(get, "given up after 2 tries .TimeoutError")


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with (
        closed_port() as port,
        pytest.raises(ModelZooError, match=r"given up after 5 tries .ConnectionRefusedError"),
    ):
        download(f"http://127.0.0.1:{port}/a.pth", str(tmp_path / "a.pth"), SHA)


def test_other_addresses_are_refused(tmp_path):
    (tmp_path / "b").write_bytes(CONTENT)
    with pytest.raises(ModelZooError, match="not an http"):
        download(f"file://{tmp_path}/b", str(tmp_path / "a.pth"), SHA)


# -- The disk ----------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_full_disk(get):
    get.path.parent.mkdir()
    get.part.symlink_to("/dev/full")
    message = fails(get, "cannot write .*a.pth.part .No space left on device")
    assert "FVCORE_CACHE" in message
    assert left(get.path) == ["a.pth.lock"]
    get()


def test_disk_that_is_too_small(server, get, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fails(get, "no space left in .*: 1048576 bytes are needed, 1048575 are free")
    assert not get.part.exists()
    # Of a file that is there in part, only the rest is needed.
    put(get.part, CONTENT[:1])
    get()


@pytest.fixture
def read_only_folder():
    """A folder in which this process cannot write, also where tests run as root."""
    folder = tempfile.mkdtemp()
    is_root = os.geteuid() == 0
    yield_path = os.path.join(folder, "cache")
    os.mkdir(yield_path)
    os.chmod(folder, 0o755)

    def close():
        os.chmod(yield_path, 0o555)
        if is_root:
            os.seteuid(65534)
        if not os.access(folder, os.X_OK, effective_ids=True):
            pytest.skip(f"only root may enter {folder}: set TMPDIR")

    yield yield_path, close
    if is_root:
        os.seteuid(0)
    os.chmod(yield_path, 0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("below", ["", "new/"])
def test_cache_that_cannot_be_written(server, read_only_folder, below):
    folder, close = read_only_folder
    close()
    with pytest.raises(ModelZooError, match=r"cannot write to the cache folder .*FVCORE_CACHE"):
        download(server.address + "/folder/a.pth", f"{folder}/{below}a.pth", SHA)
    assert os.listdir(folder) == []
    assert server.requests == []


def test_read_only_cache_that_has_the_file(server, read_only_folder):
    folder, close = read_only_folder
    with open(f"{folder}/a.pth", "wb") as file:
        file.write(CONTENT)
    close()
    download(server.address + "/folder/a.pth", f"{folder}/a.pth", SHA)
    assert os.listdir(folder) == ["a.pth"]
    assert server.requests == []


def test_cache_that_is_no_folder(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelZooError, match=r"cannot write to the cache folder"):
        download(server.address + "/folder/a.pth", str(tmp_path / "cache" / "a.pth"), SHA)


# -- Several processes -------------------------------------------------------------------------

FORK = multiprocessing.get_context("fork")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_two_processes_download_once(server, get):
    server.pause = 0.02
    processes = [FORK.Process(target=get) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == [("/folder/a.pth", 0)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_another_process_takes_over_from_one_that_is_killed(server, get, monkeypatch):
    monkeypatch.setattr(download_module, "_CHUNK", 1 << 16)
    server.stalls_at = 300_000
    process = FORK.Process(target=get)
    process.start()
    while not (get.part.exists() and get.part.stat().st_size > 100_000):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not get.path.exists()
    server.stalls_at = None
    get()
    assert server.requests[-1][1] > 100_000
