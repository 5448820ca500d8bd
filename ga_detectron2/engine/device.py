"""The device of a run: the one asked for, or the CPU, and what cannot be done on that."""

import torch

from ga_detectron2.errors import ConfigError

__all__ = ["available_device", "check_device"]


def available_device(key: str, device: str) -> tuple[str, str | None]:
    """``device``, or "cpu" where that is CUDA and absent, and then a note to log.

    Args:
        key: of the configuration, to be named.
        device: its value.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "cpu", f"No CUDA device is available: {key} is 'cpu' instead of '{device}'"
    return device, None


def check_device(key: str, device: str, num_processes: int, amp_key: str, amp: bool) -> None:
    """Refuse what detectron2 cannot do on a CPU.

    Args:
        key, device: as of :func:`available_device`.
        num_processes: on all machines.
        amp_key, amp: key and value of mixed precision.

    Raises:
        ConfigError: with the key, its value, and what would be right.
    """
    if not device.startswith("cpu"):
        return
    if amp:
        raise ConfigError(f"{amp_key} needs a CUDA device, and {key} is 'cpu': set it to False")
    if num_processes > 1 and torch.cuda.is_available():
        raise ConfigError(
            f"{key} is 'cpu' with {num_processes} processes on a machine with CUDA, where "
            "detectron2 lets them talk over GPUs: hide these with CUDA_VISIBLE_DEVICES=''"
        )
