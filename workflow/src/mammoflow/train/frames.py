"""A batch's pixels in one piece of memory, from the decoder to the training process, without a copy or a fresh page.

A loader process hands its tensors over in shared memory. Decoded into arrays of their own, put together and then moved
there, the pixels of an image would be written four times; so the decoder writes where the training process will read.
Memory that is new to a process is cleared and mapped page by page, which costs as much as the decoding; so a loader
process keeps its pieces, lends one to the training process for a batch, and takes it for another one once nothing there
refers to it any more. The last byte of a piece tells; only the borrower clears it and only the owner sets it.
"""

import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from mammoflow.pack import PackedImages

FREE, LENT = 0, 1
KEPT = 8  # pieces of a loader process; a borrower who holds more batches than that gets memory of their own
_pieces: list[Tensor] = []  # of this loader process: (bytes + 1,) uint8, shared


def read_frames(images: PackedImages, keys: Sequence[tuple[str, str]]) -> Tensor:
    """The images ``keys`` as (N, 1, H, W), of the pack's type; in a loader process in shared memory."""
    shape = (len(keys), 1, *images.image_size)
    empty = torch.from_numpy(np.empty(0, images.dtype))
    if get_worker_info() is None:
        frames = empty.new_empty(shape)
    else:
        piece = _lend(int(np.prod(shape)) * empty.element_size())
        frames = empty.set_(piece.untyped_storage(), 0, shape)
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


def collate_frames(parts: Sequence[Tensor]) -> Any:
    """:func:`join`, for a batch: what a loader process lends arrives as a tensor at the training process."""
    joined = join(parts)
    place = joined.untyped_storage().data_ptr()
    lent = next((piece for piece in _pieces if piece.data_ptr() == place), None)
    return joined if lent is None else _Loan(lent, joined)


def _lend(size: int) -> Tensor:
    """A piece for ``size`` bytes that nobody reads, marked as lent."""
    piece = next((piece for piece in _pieces if piece[-1] == FREE and piece.numel() > size), None)
    if piece is None:
        # Batches differ in their number of views. Too small ones go, so that in the end all pieces hold the largest.
        _pieces[:] = [piece for piece in _pieces if piece[-1] == LENT]
        storage = torch.UntypedStorage._new_shared(size + 1)  # as torch's own collation does
        piece = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size + 1,))
        if len(_pieces) < KEPT:
            _pieces.append(piece)
    piece[-1] = LENT
    return piece


class _Loan:
    """Frames on their way to the training process, where unpickling makes a tensor of them."""

    def __init__(self, piece: Tensor, frames: Tensor) -> None:
        self.piece, self.frames = piece, frames

    def __reduce__(self) -> tuple[Any, ...]:
        start = self.frames.storage_offset() * self.frames.element_size()
        return _borrow, (self.piece, start, tuple(self.frames.shape), self.frames.numpy().dtype)


def _borrow(piece: Tensor, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """The frames in ``piece``, which is given back when the last tensor that shares their memory is gone."""
    memory: NDArray[np.uint8] = piece.numpy()
    frames = np.ndarray(shape, dtype, memory, start)
    # A tensor's storage keeps the array it was made of alive, and with it every tensor that was cut out of it.
    weakref.finalize(frames, _give_back, memory[-1:]).atexit = False
    return torch.from_numpy(frames)


def _give_back(mark: NDArray[np.uint8]) -> None:
    mark[0] = FREE
