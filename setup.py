"""Packaging of ga_detectron2. The settings of ruff, mypy and pytest are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Return ``__version__`` of the package without importing it, which would need torch."""
    path = ROOT / "ga_detectron2" / "__init__.py"
    match = re.search(r'^__version__ = "([^"]+)"$', path.read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f'{path} has no line of the form: __version__ = "1.2.3"')
    return match.group(1)


def read_readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


TEST = ["hypothesis", "pytest", "pytest-timeout", "scipy"]
EXPORT = ["onnx", "onnxruntime"]
DOCS = ["myst-parser", "sphinx", "sphinx-rtd-theme"]

setup(
    name="ga_detectron2",
    version=read_version(),
    description="Guided anchoring (Region Proposal by Guided Anchoring, CVPR 2019) for detectron2",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ga_detectron2", "ga_detectron2.*"]),
    # model_zoo/configs is a link to configs/ at the root, so that there is one copy, found at the
    # same place in a checkout and in an installed package, which holds the files themselves.
    package_data={
        "ga_detectron2.model_zoo": [
            *("configs/*.yaml", "configs/*/*.yaml"),
            *("configs/lazy/*.py", "configs/lazy/*/*.py"),
        ]
    },
    # detectron2 is missing on purpose. It has no release on PyPI and must be built for the user's
    # own torch; `import ga_detectron2` says what to do where it is not there.
    install_requires=[
        "torch>=2.0",
        "torchvision",
        "fvcore",
        "iopath",
        "numpy",
        # Either build of OpenCV serves. Whoever has opencv-python, with its windows, installs
        # this package with --no-deps, since two builds side by side overwrite each other's files.
        "opencv-python-headless",
        "pycocotools",
    ],
    extras_require={
        "visualization": ["matplotlib", "tensorboard"],
        "timm": ["timm>=1.0.9"],
        "export": EXPORT,
        "docs": DOCS,
        "test": TEST,
        "dev": [*TEST, *EXPORT, *DOCS, "ipykernel", "mypy", "nbclient", "nox", "ruff"],
    },
    classifiers=[
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
