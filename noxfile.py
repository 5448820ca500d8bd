"""The tests on every supported Python and with other versions of torch and detectron2.

    nox -l                                   the sessions
    nox -s default-3.12                      the pinned packages on Python 3.12, quick tests
    nox -s newest -- -m '' tests/modeling    the arguments go to pytest instead of "not slow"

An environment takes some 6 GB; nox --envdir names another folder for them. docs/reliability.md
has a table of what was run.
"""

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["default"]

PINNED = ("requirements.txt", "requirements/bootstrap.txt", "requirements/detectron2.txt")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def default(session: nox.Session) -> None:
    """The packages of requirements.txt, as in .venv."""
    session.install("--require-hashes", "-r", "requirements/bootstrap.txt")
    session.install("--require-hashes", "--no-build-isolation", "-r", "requirements.txt")
    session.install("--no-deps", pure_detectron2(session))
    test(session)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest torch, torchvision and everything else that the package index has."""
    install(session, "torch", "torchvision")
    session.install("--no-deps", pure_detectron2(session))
    test(session)


@nox.session(python="3.10")
def compiled(session: nox.Session) -> None:
    """detectron2 with its compiled part, which was built for torch 2.3 and NumPy 1."""
    install(session, "torch==2.3.1", "torchvision==0.18.1", "numpy<2")
    session.install("--require-hashes", "--no-deps", "-r", "requirements/detectron2.txt")
    test(session)


@nox.session(python="3.12")
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the pinned packages, by pip-audit, which asks a service for them."""
    session.install("pip-audit")
    for file in PINNED:
        session.run("pip-audit", "--disable-pip", "--require-hashes", "--requirement", file)


def install(session: nox.Session, *versions: str) -> None:
    """What requirements/*.in ask for, without their pins, and these versions."""
    session.install("pip", "setuptools<81", "wheel")
    names = []
    for file in ("requirements/base.in", "requirements/dev.in"):
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        names += [line.partition("#")[0].strip() for line in lines if not line.startswith("-r")]
    names = [n for n in names if n and not n.startswith(("torch=", "torchvision=", "numpy"))]
    session.install("--no-build-isolation", *versions, *names)


def pure_detectron2(session: nox.Session) -> str:
    """The path of detectron2's wheel of Python files."""
    folder = session.create_tmp()
    output = session.run_install("python", "tools/pure_detectron2.py", folder, silent=True)
    return output.strip().splitlines()[-1]


def test(session: nox.Session) -> None:
    """This package, the versions of what it runs on, and pytest."""
    session.install("--no-build-isolation", "--no-deps", "--editable", ".")
    session.run("python", "-W", "ignore", "-c", SHOW_VERSIONS)
    # As in tools/test.sh: the tensors of most tests are too small for more threads.
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    arguments = session.posargs or ("-m", "not slow")
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *arguments, env=env)


SHOW_VERSIONS = """
import importlib.util, platform, cv2, detectron2, numpy, torch, torchvision
compiled = importlib.util.find_spec("detectron2._C") is not None
print("Python", platform.python_version(), "torch", torch.__version__, "torchvision",
      torchvision.__version__, "NumPy", numpy.__version__, "OpenCV", cv2.__version__,
      "detectron2", detectron2.__version__, "compiled" if compiled else "Python files")
"""
