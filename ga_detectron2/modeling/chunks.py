"""How many cells are gathered for at a time, which bounds the memory that their taps take."""

import torch
from torch import Tensor

__all__ = ["cells_per_chunk"]

# Nine taps of 256 float32 channels each are 19 MB, which are multiplied while they are still near
# the processor. A GPU would rather have few kernels.
CELLS_PER_CHUNK = 2048
CELLS_PER_CHUNK_ON_GPU = 65536
# On the way back every chunk has a gradient as large as all rows, so there may be only a few.
CHUNKS_WITH_GRADIENT = 8


def cells_per_chunk(rows: Tensor, cells: int) -> int:
    """How many of at most ``cells`` cells take their taps from ``rows`` at a time."""
    if rows.is_cuda:
        return CELLS_PER_CHUNK_ON_GPU
    if torch.is_grad_enabled() and rows.requires_grad:
        return max(CELLS_PER_CHUNK, -(-cells // CHUNKS_WITH_GRADIENT))
    return CELLS_PER_CHUNK
