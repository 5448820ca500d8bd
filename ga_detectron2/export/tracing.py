"""A model as a function of tensors, which TorchScript and ONNX can hold."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from .traceable import infer, make_traceable

INPUT_NAME = "image"


def make_adapter(model: nn.Module, image: Tensor) -> TracingAdapter:
    """Flatten inputs and outputs of a model for one image.

    Args:
        model: see :func:`make_traceable`.
        image: (C, H, W), as the model takes it. What is traced does not depend on what it shows.

    Returns:
        an adapter that has been called once, so that its ``outputs_schema`` is known.
    """
    adapter = TracingAdapter(make_traceable(model), [{"image": image}], infer)
    # Whoever exports it puts all parts of it back into the mode in which the adapter was.
    adapter.eval()
    adapter(*adapter.flattened_inputs)
    return adapter


def output_names(adapter: TracingAdapter) -> list[str]:
    """Names of the adapter's outputs, those of the fields of its Instances and ``image_size``."""
    (instances,) = adapter.outputs_schema.schemas
    return [*instances.keys, "image_size"]


@contextmanager
def without_tracer_warnings() -> Iterator[None]:
    """Silence what detectron2's own code makes the tracer say, of which nothing is amiss here.

    They are about assertions, about branches for values that are not finite, which this package
    leaves out itself, and about axes that are fixed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        yield
