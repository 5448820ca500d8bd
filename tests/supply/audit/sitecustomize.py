"""Python runs this file at its start, if it is in PYTHONPATH: notes what is opened for writing.

Writing a file from C++, as OpenCV does, goes unnoticed; test_writes.py lists folders for that.
"""

import os
import sys

_LOG = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {"os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1, "shutil.move": 1}


def _note(path: object) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        os.write(_LOG, os.path.abspath(os.fsdecode(path)).encode() + b"\n")


def _watch(event: str, arguments: tuple) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING:
            _note(path)
    elif event in _EVENTS:
        _note(arguments[_EVENTS[event]])
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        if event == "socket.connect" and not isinstance(arguments[1], tuple):
            return  # a path: processes of one machine, such as those that load images
        os.write(_LOG, f"network: {event} {arguments[1:]}\n".encode())


sys.addaudithook(_watch)
