"""Evaluating published models, each in a process of its own, and comparing with what they scored.

Not imported with the package: it needs the trainer, which needs the model zoo.
"""

import json
import logging
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

from ga_detectron2.errors import CheckpointError, ConfigError

from ..engine import (
    GATrainer,
    check_run,
    load_config,
    load_inference_model,
    use_available_device,
)
from ..modeling.compilation import compiler_failure
from .download import matches
from .published import PUBLISHED_MODELS, PublishedModel
from .zoo import get_config_file

__all__ = ["Job", "Measurement", "format_table", "measure", "measure_apart", "reproduce"]

PUBLISHED_ON = "coco_2017_val"
_GIB = 1 << 30


@dataclass(frozen=True)
class Job:
    """How models are to be evaluated.

    Attributes:
        dataset_name: registered, or one of ``datasets``.
        datasets: to be registered, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.
        weights_dir: folder with the files of weights under their published names; None: ``ga://``.
        overrides: keys and values in turn, for every configuration.
        output: folder for what the evaluation writes.
    """

    dataset_name: str = PUBLISHED_ON
    datasets: tuple[str, ...] = ()
    weights_dir: str | None = None
    overrides: tuple[str, ...] = ()
    output: str = "output/reproduce"


@dataclass
class Measurement:
    """What came out of one model.

    Attributes:
        name, metric, published: from the table of published models; percent, on COCO val2017.
        measured: the same metric on ``dataset``; None if there is none.
        images: number of images of the data set.
        images_per_second: of the model alone, one image at a time, without loading and scoring;
            the first few images do not count, but what is compiled at a later size does
            (``TEST.COMPILE_BACKBONE``). None with too few images.
        peak_memory_gib: on a GPU the largest sum of PyTorch's tensors in evaluation; on a CPU the
            largest resident memory of the process, which includes its libraries and the data.
        device: its name.
        weights: what was loaded.
        as_published: whether the SHA-256 of the weights is that of the published file.
        scores: everything that the evaluation computed.
        error: why there is nothing of all this.
    """

    name: str
    metric: str
    published: float
    dataset: str
    measured: float | None = None
    images: int = 0
    images_per_second: float | None = None
    peak_memory_gib: float | None = None
    device: str = ""
    weights: str = ""
    as_published: bool | None = None
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    error: str | None = None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.published


def reproduce(
    names: Sequence[str],
    job: Job,
    json_file: str,
    measure_one: Callable[[str, Job], Measurement] | None = None,
) -> list[Measurement]:
    """Evaluate models one after the other; one that fails does not keep the others from it.

    Args:
        names: of published models.
        job: how.
        json_file: is written anew after every model.
        measure_one: evaluates a model; :func:`measure_apart` if it is not given.

    Returns:
        a measurement for each name.
    """
    measurements = []
    for name in names:
        measurements.append((measure_one or measure_apart)(name, job))
        _write_json(measurements, json_file)
    return measurements


def measure_apart(name: str, job: Job) -> Measurement:
    """:func:`measure` in a new process, so that memory is this model's alone.

    Whatever goes wrong there, even the end of the process, is told in ``error``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_send, args=(name, job, sender))
    process.start()
    sender.close()
    try:
        measurement: Measurement = receiver.recv()
    except EOFError:
        process.join()
        measurement = _failed(name, job, f"its process ended without a result, {_say_end(process)}")
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
        receiver.close()
    return measurement


def measure(name: str, job: Job) -> Measurement:
    """Evaluate a published model in this process.

    Raises:
        ConfigError, CheckpointError: as for ``tools/train_net.py --eval-only``.
    """
    model_info = _find(name)
    weights = _weights_of(model_info, job)
    cfg = load_config(get_config_file(name), job.overrides, job.datasets)
    use_available_device(cfg)
    cfg.DATASETS.TEST = (job.dataset_name,)
    cfg.MODEL.WEIGHTS = weights
    cfg.OUTPUT_DIR = os.path.join(job.output, name)
    check_run(cfg, eval_only=True)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    for logger_name in ("detectron2", "fvcore", "ga_detectron2"):
        setup_logger(cfg.OUTPUT_DIR, name=logger_name)

    model = load_inference_model(cfg)
    loader: Any = GATrainer.build_test_loader(cfg, job.dataset_name)
    evaluator = GATrainer.build_evaluator(cfg, job.dataset_name)
    on_gpu = next(model.parameters()).device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    stopwatch = Stopwatch(model, on_gpu, warmup=min(5, len(loader) - 1))
    results = inference_on_dataset(model, loader, evaluator)
    scores = {
        task: {key: _finite(value) for key, value in values.items()}
        for task, values in results.items()
    }
    return Measurement(
        name=name,
        metric=model_info.metric,
        published=model_info.coco_val2017,
        dataset=job.dataset_name,
        measured=_metric(model_info.metric, scores),
        images=len(loader.dataset),
        images_per_second=stopwatch.images_per_second(),
        peak_memory_gib=(torch.cuda.max_memory_allocated() if on_gpu else _peak_rss()) / _GIB,
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
        weights=weights,
        as_published=matches(PathManager.get_local_path(weights), model_info.sha256_prefix),
        scores=scores,
    )


class Stopwatch:
    """Counts the images that a model gets and the seconds that it takes for them."""

    def __init__(self, model: nn.Module, on_gpu: bool, warmup: int):
        """
        Args:
            model: called with lists of images.
            on_gpu: whether to wait for the GPU.
            warmup: number of calls that do not count.
        """
        self._on_gpu, self._warmup = on_gpu, warmup
        self._calls = self._images = 0
        self._seconds = self._start = 0.0
        model.register_forward_pre_hook(lambda _model, _inputs: self._begin())
        model.register_forward_hook(lambda _model, inputs, _outputs: self._end(len(inputs[0])))

    def images_per_second(self) -> float | None:
        """None before the first call that counts."""
        return self._images / self._seconds if self._images else None

    def _begin(self) -> None:
        self._start = self._now()

    def _end(self, num_images: int) -> None:
        self._calls += 1
        if self._calls > self._warmup:
            self._seconds += self._now() - self._start
            self._images += num_images

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def format_table(measurements: Sequence[Measurement]) -> str:
    """A table in Markdown, and what there is to say about it."""
    on_gpu = any(m.device not in ("", "CPU") for m in measurements)
    memory = "memory (GiB)" if on_gpu else "RSS (GiB)"
    lines = [
        f"| model | metric | published | measured | difference | images/s | {memory} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for m in measurements:
        measured = "failed" if m.error else _format(m.measured, ".1f") or "none"
        cells = [
            m.name,
            m.metric,
            f"{m.published:.1f}",
            measured,
            _format(m.difference, "+.1f"),
            _format(m.images_per_second, ".2f"),
            _format(m.peak_memory_gib, ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for dataset in dict.fromkeys(m.dataset for m in measurements):
        if dataset != PUBLISHED_ON:
            lines.append(
                f"Measured on {dataset}, published on COCO val2017: the difference says nothing "
                "about the reproduction."
            )
    others = [m.name for m in measurements if m.as_published is False]
    if others:
        lines.append(f"Not the published weights, by their SHA-256: {', '.join(others)}.")
    lines.extend(f"{m.name} failed: {m.error}" for m in measurements if m.error)
    return "\n".join(lines).rstrip() + "\n"


def _measure_and_send(name: str, job: Job, sender: Connection) -> None:
    try:
        measurement = measure(name, job)
    except (ConfigError, CheckpointError, OSError) as error:
        measurement = _failed(name, job, str(error))
    except Exception as error:  # Whatever it is, the next model may still work.
        logging.getLogger(__name__).exception("Evaluation of %s failed", name)
        reason = " ".join(str(error).split()) or "no message"
        told = compiler_failure(error) or f"{type(error).__name__}: {reason}"
        measurement = _failed(name, job, told)
    sender.send(measurement)
    sender.close()


def _failed(name: str, job: Job, error: str) -> Measurement:
    info = _find(name)
    return Measurement(name, info.metric, info.coco_val2017, job.dataset_name, error=error)


def _say_end(process: Any) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        killed = signal.Signals(-code).name
        hint = " (out of memory?)" if killed == "SIGKILL" else ""
        return f"by the signal {killed}{hint}"
    return f"with status {code}"


def _find(name: str) -> PublishedModel:
    return next(model for model in PUBLISHED_MODELS if model.name == name)


def _weights_of(model: PublishedModel, job: Job) -> str:
    if job.weights_dir is None:
        return f"ga://{model.name}"
    file_name = os.path.basename(urlparse(model.weights_url).path)
    path = os.path.join(job.weights_dir, file_name)
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no file {path}")
    return path


def _metric(metric: str, scores: dict[str, dict[str, float | None]]) -> float | None:
    task, key = {"AR1000": ("proposal_recall", "AR@1000"), "box AP": ("bbox", "AP")}[metric]
    return scores.get(task, {}).get(key)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _peak_rss() -> int:
    """The largest resident memory of this process so far, in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            # What getrusage says of a new process begins with what its parent had at the time.
            peak = next(line for line in file if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _write_json(measurements: Sequence[Measurement], path: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    content = [{**asdict(m), "difference": m.difference} for m in measurements]
    unfinished = f"{path}.{os.getpid()}.tmp"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
    os.replace(unfinished, path)
