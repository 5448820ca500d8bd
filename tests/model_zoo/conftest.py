import pytest

from ga_detectron2.model_zoo import download as download_module

from .server import serve


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, and downloads that do not wait long between their tries."""
    monkeypatch.setattr(download_module, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as state:
        yield state
