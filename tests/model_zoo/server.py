"""A small HTTP server on 127.0.0.1 that can be told to misbehave."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves byte strings by their paths.

    Attributes:
        files: what is served.
        statuses: codes with which the next requests are answered instead; 0 for a right answer.
        cuts: after how many bytes the connections of the next requests are cut; None for never.
        ranges: whether requests for a part of a file are understood.
        lengths: whether Content-Length is sent.
        pause: seconds before each 64 KiB.
        stalls_at: before which byte a connection waits until this is None.
        requests: (path, first byte asked for) of each request so far.
        sent: number of bytes sent so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.statuses: list[int] = []
        self.cuts: list[int | None] = []
        self.ranges = True
        self.lengths = True
        self.pause = 0.0
        self.stalls_at: int | None = None
        self.requests: list[tuple[str, int]] = []
        self.sent = 0
        self.address = ""


@contextmanager
def serve() -> Iterator[FileServer]:
    """Run a server until the end of the block."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            state.requests.append((self.path, start))
            status = state.statuses.pop(0) if state.statuses else 0
            cut = state.cuts.pop(0) if state.cuts else None
            content = state.files.get(self.path)
            if status or content is None:
                self.send_error(status or 404)
                return
            start = start if state.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            if state.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self._send(content[start : None if cut is None else start + cut])

        def _send(self, content: bytes) -> None:
            for i in range(0, len(content), 1 << 16):
                time.sleep(state.pause)
                while state.stalls_at is not None and i >= state.stalls_at:
                    time.sleep(0.01)
                try:
                    self.wfile.write(content[i : i + (1 << 16)])
                except OSError:  # whoever asked has gone
                    return
                state.sent += len(content[i : i + (1 << 16)])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nobody answers, and that nobody else gets."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
