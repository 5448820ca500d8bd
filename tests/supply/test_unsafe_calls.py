"""Nothing in this project executes what is in a file that somebody was given by others."""

from pathlib import Path

import pytest

from tests.supply.unsafe_calls import find_unsafe

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("ga_detectron2", "tools", "benchmarks", "docs")

# What may stay, and why.
EXCEPTIONS = {
    ("ga_detectron2/checkpoint/numpy_pickle.py", "pickle.Unpickler"): (
        "its find_class knows a few names alone, each of which leads to a record of that file"
    ),
    ("ga_detectron2/engine/lazy_config.py", "detectron2.config.LazyConfig.load"): (
        "a lazy configuration is Python code, which the user runs as such"
    ),
    ("ga_detectron2/model_zoo/zoo.py", "detectron2.config.LazyConfig.load"): (
        "files of this package, found by their name in its own list"
    ),
    ("ga_detectron2/export/runtime.py", "torch.jit.load"): (
        "an exported model is a program, which its user runs as such; docs/versions.md says so"
    ),
    ("benchmarks/kill_and_resume.py", "importlib.util.spec_from_file_location"): (
        "tools/train_net.py of the same checkout"
    ),
}


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")]
    assert len(found) > 100
    return sorted(path for path in found if "_build" not in path.parts)


def test_only_known_exceptions() -> None:
    found = {
        (str(path.relative_to(PROJECT)), name): line
        for path in sources()
        for line, name in find_unsafe(path.read_text(encoding="utf-8"))
    }
    new = [f"{file}:{line}: {name}" for (file, name), line in found.items()
           if (file, name) not in EXCEPTIONS]  # fmt: skip
    assert not new, "\n".join(new)
    assert not EXCEPTIONS.keys() - found.keys(), "exceptions that are no longer needed"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import pickle\npickle.load(f)", "pickle.load"),
        ("import pickle as p\np.loads(b)", "pickle.loads"),
        ("from pickle import loads as read\nread(b)", "pickle.loads"),
        ("def f(b):\n    return loads(b)\nfrom pickle import loads", "pickle.loads"),
        ("import pickle\nread = pickle.load", "pickle.load"),
        ("import pickle\nclass U(pickle.Unpickler): pass", "pickle.Unpickler"),
        ("from pickle import *", "from pickle import *"),
        ("import torch\ntorch.load(f)", "torch.load"),
        ("import torch\ntorch.load(f, weights_only=False)", "torch.load"),
        ("import torch\ntorch.load(f, weights_only=flag)", "torch.load"),
        ("import torch\nread(torch.load)", "torch.load"),
        ("import torch\ntorch.load(torch.load(f), weights_only=True)", "torch.load"),
        ("import yaml\nyaml.load(f)", "yaml.load"),
        ("import yaml\nyaml.load(f, Loader=yaml.FullLoader)", "yaml.load"),
        ("import yaml\nyaml.unsafe_load(f)", "yaml.unsafe_load"),
        ("cfg.merge_from_file(f)", ".merge_from_file"),
        ("get_cfg().merge_from_file(f, allow_unsafe=True)", ".merge_from_file"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "numpy.load"),
        ("import numpy as np\nnp.load(f, **options)", "numpy.load"),
        ("import subprocess\nsubprocess.run(s, shell=True)", "subprocess.run"),
        ("eval(text)", "eval"),
        ("import builtins\nexec(text)", "exec"),
    ],
)
def test_finds(code: str, name: str) -> None:
    assert name in [found for _, found in find_unsafe(code)]


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(f, map_location='cpu', weights_only=True)",
        "import yaml\nyaml.safe_load(f)\nyaml.load(f, Loader=yaml.SafeLoader)",
        "import numpy as np\nnp.load(f)\nnp.load(f, allow_pickle=False)",
        "import pickle\npickle.dumps(x)\nmodel.eval()\nre.compile(x)\njson.load(f)",
        "cfg.merge_from_file(f, allow_unsafe=False)",
        "import subprocess\nsubprocess.run(['ls'])",
    ],
)
def test_leaves_alone(code: str) -> None:
    assert find_unsafe(code) == []
