"""Fuzz what reads files of others with atheris, which is guided by the code that an input reaches.

    pip install atheris==2.3.0    # beside torch and detectron2; it has wheels up to Python 3.11
    python -m tests.robustness.atheris_readers proposals --runs 100000 --seconds 300

Starts from right files, of which it changes bytes or, as often, whole parts: instructions of a
pickle, values of a JSON or YAML tree. A reader must read a file rightly or refuse it by its own
kind of error. A run ends at the first input for which it does not, and also at one that takes 20
seconds of the processor, one GiB, or that has something executed, written or sent. The input lies
in FOLDER/input then, and a second time in crash-*. Inputs that reach new code are kept in
FOLDER/corpus, from where the next run goes on.
"""

# ruff: noqa: E402 (what is to be instrumented must be imported first)

import argparse
import contextlib
import faulthandler
import io
import itertools
import json
import logging
import os
import pickle
import pickletools
import random
import resource
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

del sys.modules["pickletools"]  # to be imported with counters
with atheris.instrument_imports(
    include=[
        *("ga_detectron2.checkpoint", "ga_detectron2.data", "ga_detectron2.engine"),
        *("detectron2.checkpoint", "detectron2.config", "detectron2.data.datasets", "fvcore"),
        *("pickletools", "torch._weights_only_unpickler", "yacs", "yaml"),
    ]
):
    import pickletools

    import ga_detectron2.checkpoint
    import ga_detectron2.data
    import ga_detectron2.engine  # noqa: F401

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from detectron2.data import DatasetCatalog

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.data.proposal_files import (
    ProposalFileError,
    read_mmdet_proposals,
    read_proposals,
)
from ga_detectron2.engine import check_run, load_config
from ga_detectron2.errors import CheckpointError, ConfigError
from tests.robustness import test_coco_json, test_configuration, test_files

MOST_SECONDS = 20
MOST_KIB = 2**20
CONFIGS = test_configuration.CONFIGS


class Reader(NamedTuple):
    """Attributes:
    read: raises AssertionError for a wrong result.
    errors: that may end it.
    seeds: right files.
    change: some part of a file, as a whole.
    """

    read: Callable[[Path], None]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes]
    change: Callable[[bytes, random.Random], bytes]


# -- What reads --------------------------------------------------------------------------------


def _read_proposals(path: Path) -> None:
    found = read_proposals(str(path))
    assert len(found.ids) == len(set(found.ids)) == len(found.boxes)
    for boxes, logits in zip(found.boxes, found.objectness_logits, strict=True):
        assert boxes.shape == (len(logits), 4)
        assert logits.ndim == 1
        assert np.isfinite(boxes.astype(np.float64)).all()
        assert np.isfinite(logits.astype(np.float64)).all()


def _read_mmdet_proposals(path: Path) -> None:
    found = read_mmdet_proposals(str(path), [1, 2])
    assert found.ids == [1, 2]
    for boxes, logits in zip(found.boxes, found.objectness_logits, strict=True):
        assert boxes.shape == (len(logits), 4)
        assert boxes.dtype == logits.dtype == np.float32
        assert np.isfinite(boxes).all()
        assert np.isfinite(logits).all()


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(6))
        self.b = torch.nn.Parameter(torch.zeros(2, 2))


def _read_weights(path: Path) -> None:
    model = _Model()
    GACheckpointer(model).load(str(path))
    assert model.a.shape == (6,)
    assert model.b.shape == (2, 2)


def _read_torch_weights(path: Path) -> None:
    """The pickle within a file of torch; as it lies there it has a checksum that finds changes."""
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(range(48)))
        archive.writestr("archive/data/1", bytes(16))
        archive.writestr("archive/version", "3\n")
    try:
        _read_weights(path)
    finally:
        path.write_bytes(content)


def _read_coco(path: Path) -> None:
    with test_coco_json.registered(path.parent, path.read_bytes()):
        records = DatasetCatalog.get(test_coco_json.NAME)
        contents = json.loads(path.read_bytes())
        assert len(records) == len(contents["images"])
        for record in records:
            for annotation in record["annotations"]:
                assert annotation["category_id"] in range(len(contents["categories"]))
                assert all(abs(x) < float("inf") for x in annotation["bbox"])


def _read_configuration(path: Path) -> None:
    check_run(load_config(str(path), [*map(str, test_configuration.RIGHT)]))


# -- What it starts from -----------------------------------------------------------------------


def _pickles(*contents: Any) -> list[bytes]:
    return [pickle.dumps(c, p) for c in contents for p in range(pickle.HIGHEST_PROTOCOL + 1)]


def _proposal_files() -> list[bytes]:
    content = pickle.loads(test_files.detectron2_proposals())
    boxes = [np.asfortranarray(np.ones((2, 4), ">f8")), np.ones((1, 4), np.float16)]
    scores = [np.arange(2, dtype=">f2"), np.zeros(1)]
    other = {"ids": ["a", np.int64(5)], "boxes": boxes, "objectness_logits": scores}
    return _pickles(content, other)


def _weight_files() -> list[bytes]:
    numpy = {"model": {"a": np.arange(6.0), "b": np.ones((2, 2))}, "__author__": "x"}
    detectron = {"blobs": {"a": np.arange(6.0), "b_momentum": np.ones(2, ">i2")}}
    files = [content for content in _pickles(numpy, detectron) if content.startswith(b"\x80")]
    return [*files, test_files.torch_file(), test_files.torch_file(old=True)]


def _torch_pickles() -> list[bytes]:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    mmdet = {"state_dict": tensors, "meta": {"epoch": 1, "names": ("x", 2.5, None, True)}}
    frozen = {"model": {"a": torch.nn.Parameter(torch.arange(6.0)), "b": torch.ones(2).half()}}
    found = []
    for content in ({"model": tensors, "iteration": 3}, mmdet, frozen):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with zipfile.ZipFile(buffer) as archive:
            found += [archive.read(n) for n in archive.namelist() if n.endswith("data.pkl")]
    return found


def _coco_files() -> list[bytes]:
    full = json.loads(json.dumps(test_coco_json.RIGHT))
    full["annotations"][0] |= {"segmentation": [[0, 1, 2, 1, 2, 3]], "keypoints": [1, 1, 2]}
    full["annotations"][1] |= {"segmentation": {"size": [4, 6], "counts": [3, 21]}, "iscrowd": 1}
    full["categories"][0] |= {"keypoints": ["left_eye"], "skeleton": [[1, 1]]}
    return [json.dumps(c).encode() for c in (full, test_coco_json.RIGHT)]


def _configurations() -> list[bytes]:
    names = (
        "ga_faster_R_50",
        "ga_retinanet_R_101_2x_ms",
        "Base-GARPN",
        "quickstart_ga_faster_R_18",
    )
    files = [path for name in names for path in CONFIGS.glob(f"{name}.yaml")]
    assert len(files) > 2
    return [b"_BASE_: a.yaml\nSOLVER: &a\n  STEPS: (1, 2)\nTEST: *a\n"] + [
        path.read_bytes() for path in files
    ]


# -- What it changes ---------------------------------------------------------------------------

_GLOBALS = [
    *("collections OrderedDict", "_codecs encode", "builtins bytes", "numpy dtype"),
    *("numpy ndarray", "numpy.core.multiarray _reconstruct", "numpy.core.multiarray scalar"),
    *("numpy.core.numeric _frombuffer", "torch FloatStorage", "torch._utils _rebuild_tensor_v2"),
    *("torch._utils _rebuild_parameter", "torch Size", "torch Tensor", "torch float16"),
    *("os system", "posix mkdir", "builtins eval"),
]
_PARTS = [
    *(f"c{name.replace(' ', chr(10))}\n".encode() for name in _GLOBALS),
    *(b"}", b"]", b")", b"(", b"0", b"1", b"2", b".", b"R", b"b", b"s", b"a", b"e", b"u", b"t"),
    *(b"\x85", b"\x86", b"\x87", b"\x81", b"Q", b"N", b"\x88", b"\x8f", b"\x91", b"\x94", b"\x97"),
    *(b"K\x00", b"K\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 9),
    *(b"G\x7f\xf8\0\0\0\0\0\0", b"G\x7f\xf0\0\0\0\0\0\0", b"X\x01\0\0\0a", b"C\x02ab", b"U\x01b"),
    *(b"\x96\xff\xff\xff\xff\0\0\0\0", b"h\x00", b"h\x05", b"q\x01", b"r\xff\xff\0\0", b"I-1\n"),
]
_VALUES: list[Any] = [None, True, False, 0, 1, -1, 5, 9, 7, 3, 10**400, 2.5, -1e300, float("nan")]
_VALUES += [float("inf"), "", "a", "a.png", "\x00", "\ud800", [], [1], [[]], {}, {"id": 1}, 2**63]
_VALUES += ["cpu", "GuidedAnchorRPN", [0.5, 1.0], [1, "a"], "(1, 2)", [None], {"size": [4, 6]}]


def _change_pickle(content: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, move or put in some of its instructions."""
    starts: list[int] = []
    with contextlib.suppress(Exception):
        starts = [at for _, _, at in pickletools.genops(content) if at is not None]
    starts.append(len(content))
    parts = [content[a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        first = rng.randrange(len(parts) + 1)
        last = min(len(parts), first + rng.choice((1, 1, 2, 5, 20)))
        kind = rng.randrange(4)
        if kind == 0:
            del parts[first:last]
        elif kind == 1:
            to = rng.randrange(len(parts) + 1)
            parts[to:to] = parts[first:last] * rng.choice((1, 1, 3))
        elif kind == 2:
            parts[first:first] = [rng.choice(_PARTS)]
        else:
            parts[first : first + 1] = [rng.choice(_PARTS)]
    return b"".join(parts)


def _change_tree(tree: Any, rng: random.Random) -> Any:
    """Replace, remove or repeat a value somewhere in lists and dictionaries."""
    places: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending and len(places) < 10_000:
        node = pending.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            pending += [node[key] for key in keys]
    if not places:
        return rng.choice(_VALUES)
    node, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1:
        from_node, from_key = rng.choice(places)
        node[key] = json.loads(json.dumps(from_node[from_key], default=str))
    elif kind == 2 and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(node[key], default=str)))
    elif kind == 3 and isinstance(node, dict):
        node[rng.choice(["id", "keypoints", "segmentation", "iscrowd", "_BASE_", "MODEL"])] = node[
            key
        ]
    else:
        node[key] = rng.choice(_VALUES)
    return tree


def _change_json(content: bytes, rng: random.Random) -> bytes:
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _change_tree(tree, rng)
    return json.dumps(tree).encode()


def _change_yaml(content: bytes, rng: random.Random) -> bytes:
    tree = yaml.safe_load(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _change_tree(tree, rng)
    return yaml.safe_dump(tree).encode("utf-8", "surrogatepass")


# -- Running -----------------------------------------------------------------------------------

READERS: dict[str, Callable[[], Reader]] = {
    "proposals": lambda: Reader(
        _read_proposals, (ProposalFileError,), _proposal_files(), _change_pickle
    ),
    "mmdet_proposals": lambda: Reader(
        _read_mmdet_proposals,
        (ProposalFileError,),
        _pickles(pickle.loads(test_files.mmdet_proposals())),
        _change_pickle,
    ),
    "weights": lambda: Reader(_read_weights, (CheckpointError,), _weight_files(), _change_pickle),
    "torch_weights": lambda: Reader(
        _read_torch_weights, (CheckpointError,), _torch_pickles(), _change_pickle
    ),
    "coco": lambda: Reader(
        _read_coco, (ValueError, FileNotFoundError), _coco_files(), _change_json
    ),
    "configuration": lambda: Reader(
        _read_configuration, (ConfigError,), _configurations(), _change_yaml
    ),
}


class _Watch:
    """What happens while a file is read, and must not."""

    _FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename",
                  "os.mkdir", "os.rmdir", "subprocess.Popen", "socket.connect", "ctypes.dlopen",
                  "pickle.find_class", "builtins.input", "shutil.rmtree")  # fmt: skip

    def __init__(self, folder: Path):
        self.folder = str(folder)
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.is_on:
            return
        is_written = event == "open" and args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR)
        if is_written and str(args[0]).startswith(self.folder):
            return
        if is_written or event in self._FORBIDDEN:
            self.seen.append(f"{event} {args!r}"[:300])
            raise RuntimeError(self.seen[-1])


def make_target(reader: Reader, folder: Path) -> Callable[[bytes], None]:
    """A function of a file's content, which raises for what must not be."""
    watch = _Watch(folder)
    path = folder / "input"
    faulthandler.register(signal.SIGPROF, chain=True)
    counts = {"read": 0, "refused": 0}

    def target(content: bytes) -> None:
        path.write_bytes(content)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        # The clock of the processor: a process that is stopped for a while does not hang. (Real
        # hangs end by the signal, 3 times as late.)
        signal.setitimer(signal.ITIMER_PROF, 3 * MOST_SECONDS)
        watch.is_on = True
        message = "none"
        try:
            reader.read(path)
            counts["read"] += 1
        except reader.errors as error:
            counts["refused"] += 1
            message = str(error)
        finally:
            watch.is_on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
        if not message.strip() or len(message) > 10_000:
            raise RuntimeError(f"an error with a message of {len(message)} characters")
        if watch.seen:
            raise RuntimeError(f"what must not happen: {watch.seen}")
        seconds = time.process_time() - start
        if seconds > MOST_SECONDS:
            raise RuntimeError(f"took {seconds:.0f} s")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        if grown > MOST_KIB:
            raise RuntimeError(f"took {grown >> 10} MiB")
        if sum(counts.values()) % 5000 == 0:
            print(f"inputs: {counts}", flush=True)

    return target


def make_mutator(reader: Reader) -> Callable[[bytes, int, int], bytes]:
    """Changes some bytes, or a part as a whole."""

    def mutate(content: bytes, most_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            with contextlib.suppress(Exception):
                return reader.change(content, rng)[:most_bytes]
        return atheris.Mutate(content, most_bytes)

    return mutate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="at most (default: without end)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="default: atheris_READER")
    parser.add_argument("--input", type=Path, help="read this file, once")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    reader = READERS[args.reader]()
    folder = (args.folder or Path(f"atheris_{args.reader}")).resolve()
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for path in CONFIGS.glob("*.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    target = make_target(reader, folder)
    if args.input:
        target(args.input.read_bytes())
        return
    for i, seed in enumerate(reader.seeds):
        target(seed)
        (folder / "corpus" / f"seed{i}").write_bytes(seed)
    options = [f"-runs={args.runs}", f"-max_total_time={args.seconds}", f"-seed={args.seed}"]
    options += [f"-artifact_prefix={folder}/", "-max_len=8192", "-timeout=3000", "-len_control=0"]
    options += ["-mutate_depth=2", "-rss_limit_mb=4096", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *options, str(folder / "corpus")], target, custom_mutator=make_mutator(reader)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
