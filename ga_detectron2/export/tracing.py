"""Models as functions of tensors, as TorchScript and ONNX need them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from .traceable import infer, make_traceable

INPUT_NAME = "image"


def make_adapter(model: nn.Module, image: Tensor) -> TracingAdapter:
    """An adapter that flattens inputs and outputs of a model for one image.

    Args:
        model: see :func:`make_traceable`.
        image: (C, H, W), any image that the model takes.

    Returns:
        an adapter that was called once, so that its ``outputs_schema`` is known.
    """
    adapter = TracingAdapter(make_traceable(model), [{"image": image}], infer)
    # Exporters restore the mode of the adapter in all of its modules.
    adapter.eval()
    adapter(*adapter.flattened_inputs)
    return adapter


def output_names(adapter: TracingAdapter) -> list[str]:
    """Names of the adapter's outputs: fields of its Instances, and ``image_size``."""
    (instances,) = adapter.outputs_schema.schemas
    return [*instances.keys, "image_size"]


@contextmanager
def without_tracer_warnings() -> Iterator[None]:
    """Silence the tracer's warnings about detectron2's code, which do not apply here.

    They concern assertions, branches for values that are not finite, which this package excludes
    itself, and axes that are fixed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        yield
