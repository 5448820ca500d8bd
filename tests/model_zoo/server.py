"""An HTTP server on 127.0.0.1 that can misbehave."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves byte strings by their paths.

    Attributes:
        files: content by path.
        status: status code of all answers; 0 for the right one.
        cut: number of bytes after which connections are cut; None for never.
        pause: seconds before an answer.
        requests: paths requested so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status = 0
        self.cut: int | None = None
        self.pause = 0.0
        self.requests: list[str] = []
        self.address = ""


@contextmanager
def serve() -> Iterator[FileServer]:
    """Run a server until the end of the block."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            time.sleep(state.pause)
            content = state.files.get(self.path)
            if state.status or content is None:
                self.send_error(state.status or 404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: state.cut])

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
