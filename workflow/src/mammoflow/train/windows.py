"""Windows: a part of an image that the network sees at once, cut in training and slid over the image in scoring."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LESION_SHARE = 0.5  # of the training windows of sampling ``window`` lie around a lesion, where the image has one
OVERLAP = 0.5  # of neighbouring windows, on each side
JITTER = 0.25  # of a window: how far a lesion's pixel may lie from the window's centre


def random_windows(masks: Tensor, window: tuple[int, int], always: bool) -> Tensor:
    """Maps (N, 2, 3) from a window to its image, in the normalised coordinates of ``grid_sample``.

    ``masks`` (N, 1, H, W) bool: pixels of lesions.  ``always``: every window holds one, where the image has any, else
    every second. Windows lie wholly inside the image. Draws from torch's global generator of the device.
    """
    count, _, height, width = masks.shape
    centres = torch.rand(count, 2, device=masks.device)
    size = torch.tensor([window[0] / height, window[1] / width], device=masks.device)
    around = torch.rand(count, device=masks.device) < (1.0 if always else LESION_SHARE)
    draws = torch.rand(count, device=masks.device)
    shifts = (torch.rand(count, 2, device=masks.device) * 2 - 1) * JITTER * size
    for number in torch.nonzero(around & masks.flatten(1).any(1)).flatten().tolist():
        pixels = torch.nonzero(masks[number, 0])
        chosen = pixels[int(draws[number] * len(pixels))]
        centres[number] = (chosen + 0.5) / chosen.new_tensor([height, width]) + shifts[number]
    centres = torch.minimum(torch.maximum(centres, size / 2), 1 - size / 2)
    theta = torch.zeros(count, 2, 3, device=masks.device)
    theta[:, 0, 0], theta[:, 1, 1] = size[1], size[0]
    theta[:, 0, 2], theta[:, 1, 2] = 2 * centres[:, 1] - 1, 2 * centres[:, 0] - 1
    return theta


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map that first applies ``inner``, then ``outer``; both (N, 2, 3)."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, shift], 2)


def starts(length: int, window: int) -> list[int]:
    """First pixels of the windows that cover ``length`` with at least :data:`OVERLAP`, evenly spread."""
    if window >= length:
        return [0]
    steps = -(-(length - window) // max(1, int(window * (1 - OVERLAP))))
    return [round(number * (length - window) / steps) for number in range(steps + 1)]


def slide(views: Tensor, window: tuple[int, int] | None, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities (N, K, H, W) of whole images (N, 1, H, W): ``score`` maps windows (N, 1, h, w) to (N, K, h, w).

    Where windows overlap their mean counts, weighted towards each window's middle, where it sees most around it.
    Without a window the image is seen at once.
    """
    if window is None or tuple(window) == tuple(views.shape[-2:]):
        return score(views)
    height, width = views.shape[-2:]
    weight = _hill(window[0], views)[:, None] * _hill(window[1], views)
    total, sums = views.new_zeros(height, width), None
    for top in starts(height, window[0]):
        for left in starts(width, window[1]):
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            part = score(views[place]).float()
            if sums is None:
                sums = part.new_zeros(len(views), part.shape[1], height, width)
            sums[place] += part * weight
            total[place] += weight
    return sums / total


def window_at(image: Tensor, x: float, y: float, window: tuple[int, int]) -> tuple[slice, slice]:
    """The window (rows, columns) of an image (..., H, W) about a point, moved inside where it would leave."""
    spans = []
    for centre, size, length in ((y, window[0], image.shape[-2]), (x, window[1], image.shape[-1])):
        first = min(max(round(centre - size / 2), 0), max(0, length - size))
        spans.append(slice(first, first + min(size, length)))
    return spans[0], spans[1]


def soften(onehot: Tensor, sigma: float) -> Tensor:
    """Blur class shares (N, K, H, W) with a Gaussian of standard deviation ``sigma`` pixels; they still add up to 1."""
    if sigma <= 0:
        return onehot
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, device=onehot.device, dtype=onehot.dtype)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(onehot.shape[1], 1)
    padded = F.pad(onehot, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=onehot.shape[1])
    return F.conv2d(rows, kernel[:, None, None, :], groups=onehot.shape[1])


def _hill(size: int, like: Tensor) -> Tensor:
    """Weights that rise from nearly 0 at a window's ends to 1 in its middle."""
    at = (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size
    return torch.sin(torch.pi * at).square() + 1e-3
