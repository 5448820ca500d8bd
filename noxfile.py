"""The tests with other versions of Python, torch, torchvision and NumPy: docs/versions.md.

    nox -s python312                             what is quick, with Python 3.12
    nox -s newest -- -m 'not slow' tests/data    the rest goes to pytest
    nox --envdir FOLDER -s python312             environments outside this folder (some 6 GB each)

Where a Python is missing nox says so. With pyenv, PYENV_VERSION=3.12.1 nox -s python312 offers it.
"""

import os
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["pinned"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True

QUICK = ("-m", "not slow")
PINNED = ("requirements.txt", "requirements/bootstrap.txt")
PYTHON_312 = ("torch==2.11.*", "torchvision==0.26.*", "numpy>=2")
NEWEST = ("torch", "torchvision", "numpy>=2")

# The version of requirements.txt, whose Python files are the same for every Python.
DETECTRON2 = "sal-detectron2==0.7.2"
# What setup.py asks for, and what detectron2 itself imports. detectron2.model_zoo imports
# pkg_resources, which setuptools 81 removed.
NEEDED = (
    *("setuptools<81", "wheel", "fvcore", "iopath", "opencv-python-headless", "pycocotools"),
    *("cloudpickle", "hydra-core>=1.1", "matplotlib", "omegaconf>=2.1,<2.4", "packaging"),
    *("Pillow", "tabulate", "tensorboard", "termcolor", "tqdm", "yacs"),
)
TESTS = (
    *("hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "scipy", "onnx", "onnxruntime"),
    *("sphinx", "myst-parser", "sphinx-rtd-theme", "ipykernel", "nbmake", "nox"),
)


@nox.session(venv_backend="none")
def pinned(session: nox.Session) -> None:
    """All tests in .venv, with the packages of requirements.txt (as tools/test.sh)."""
    session.run("tools/test.sh", *session.posargs, external=True)


@nox.session(python="3.12")
def python312(session: nox.Session) -> None:
    """Python 3.12, torch 2.11, torchvision 0.26, NumPy 2, detectron2 without a compiled part."""
    test_with(session, PYTHON_312)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest torch, torchvision and NumPy that there are, and detectron2 as in python312."""
    test_with(session, NEWEST)


@nox.session(python="3.10")
def supply(session: nox.Session) -> None:
    """Known vulnerabilities of the pinned packages, by pip-audit, which asks a service for them.

    --strict: a package that the service does not know is a failure, not one without faults.
    """
    session.install("pip-audit")
    options = ("--disable-pip", "--require-hashes", "--strict", "--timeout", "30")
    for file in session.posargs or PINNED:
        session.run("pip-audit", *options, "--requirement", file)


@nox.session(python="3.10")
def yanked(session: nox.Session) -> None:
    """Pinned versions that their authors have withdrawn, by the package index that uv is told.

    uv says so of what it would install. Nothing is downloaded but the index's pages.
    """
    session.install("uv")
    # Into an empty folder, since nothing is said of what is installed already.
    options = ("--dry-run", "--no-deps", "--require-hashes", "--target", session.create_tmp())
    found = []
    for file in session.posargs or PINNED:
        output = session.run(
            *("uv", "pip", "install", *options, "-r", file),
            silent=True,
            env={"UV_HTTP_TIMEOUT": "30"},
        )
        if output is None:  # nox --install-only
            return
        if "Resolved" not in output:
            session.error(f"{file}: uv looked nothing up:\n{output}")
        lines = output.splitlines()
        session.log(f"{file}: {next(line for line in lines if 'Resolved' in line)}")
        found += [f"{file}: {line}" for line in lines if "is yanked" in line]
    if found:
        session.error("\n".join(found))


def test_with(session: nox.Session, versions: tuple[str, ...]) -> None:
    """Install these versions, and everything else as new as it goes with them, and run tests."""
    # Everything at once, so that nothing replaces these versions afterwards. fvcore and iopath
    # are published as source alone, and are built with the setuptools that is there.
    session.install("setuptools<81", "wheel")
    session.install("--no-build-isolation", *versions, *NEEDED, *TESTS)
    install_detectron2_without_compiled_part(session)
    session.install("--no-build-isolation", "--no-deps", "--editable", ".")
    session.run("python", "-W", "ignore", "-c", SHOW_VERSIONS)
    # As in tools/test.sh: the tensors of most tests are too small for more threads.
    env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    session.run("python", "-m", "pytest", *(session.posargs or QUICK), env=env)


SHOW_VERSIONS = """
import importlib.util, platform, cv2, detectron2, numpy, torch, torchvision
assert importlib.util.find_spec("detectron2._C") is None, "detectron2 has a compiled part"
print("Python", platform.python_version(), "torch", torch.__version__, "torchvision",
      torchvision.__version__, "NumPy", numpy.__version__, "OpenCV", cv2.__version__)
"""


def install_detectron2_without_compiled_part(session: nox.Session) -> None:
    """Unpack a wheel's Python files, as they are, without ``_C`` and whatever else is in it.

    The wheel was built for Python 3.10 and torch 2.3; its Python files fit others, too. Its
    metadata stay out, since they ask for NumPy 1.
    """
    folder = Path(session.create_tmp())
    session.install("pip")  # uv cannot download alone, and its environments have no pip
    options = ("--no-deps", "--python-version", "3.10", "--only-binary=:all:")
    session.run(
        "python", "-m", "pip", "download", "--quiet", *options, "--dest", str(folder), DETECTRON2
    )
    (wheel,) = folder.glob("sal_detectron2-*.whl")
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = session.run("python", "-c", show, silent=True)
    if site_packages is None:  # nox --install-only
        return
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("detectron2/") and not name.endswith((".so", ".pyd")):
                archive.extract(name, site_packages.strip())
