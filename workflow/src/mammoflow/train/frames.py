"""A batch's pixels in one piece of memory, from the decoder to the training process, without a copy.

A loader process hands its tensors over in shared memory. Decoded into arrays of their own, put together and then moved
there, the pixels of an image would be written four times; the system clears and maps fresh pages each time, which costs
more than decoding. So the decoder writes where the training process will read.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mammoflow.pack import PackedImages


def read_frames(images: PackedImages, keys: Sequence[tuple[str, str]]) -> Tensor:
    """The images ``keys`` as (N, 1, H, W), of the pack's type; in a loader process in shared memory."""
    shape = (len(keys), 1, *images.image_size)
    empty = torch.from_numpy(np.empty(0, images.dtype))
    if get_worker_info() is None:
        frames = empty.new_empty(shape)
    else:  # as torch's own collation does
        size = int(np.prod(shape))
        storage = torch.UntypedStorage._new_shared(size * empty.element_size())
        frames = empty.set_(storage, 0, shape)
    for key, frame in zip(keys, frames.numpy(), strict=True):
        images.read_into(key, frame[0])
    return frames


def join(parts: Sequence[Tensor]) -> Tensor:
    """``torch.cat`` along the first dimension; parts that lie one behind the other in memory are not copied."""
    together = all(
        one.is_contiguous() and other.is_contiguous() and one.data_ptr() + one.nbytes == other.data_ptr()
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        for one, other in pairwise(parts)
    )  # fmt: skip
    if not together:
        return torch.cat(list(parts))
    first = parts[0]
    return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())
