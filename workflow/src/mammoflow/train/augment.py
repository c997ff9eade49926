"""Random changes of a batch, drawn and applied on its device.

Flips are vertical only: conversion turned every breast so that the chest wall lies at the left edge, and a horizontal
flip would undo what the network may rely on. Shapes change by one affine map per view, which also moves the
localisation target, so that lesions stay where they are marked. Grey values change as a different window would change
them; the background keeps its exact 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FLIP = 0.5  # probability
ROTATION = math.radians(10)  # largest angle either way
SCALE = 0.1  # sizes from 1/1.1 to 1.1
SHIFT = 0.05  # share of the image's height and width
GAIN, OFFSET = 0.15, 0.05  # of the window: share, and share of the grey range
NOISE = 0.02  # largest standard deviation, share of the grey range


def augment(views: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """``views`` (N, 1, H, W) float in 0..1 and ``target`` (N, 1, h, w) over the same area; both moved alike.

    Draws from torch's global generator of the device.
    """
    theta = random_affine(len(views), *views.shape[-2:], device=views.device)
    views, target = warp(views, theta), warp(target, theta)
    return jitter(views), target


def random_affine(count: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """``count`` random (2, 3) maps from output to input in the normalised coordinates of ``grid_sample``."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * limit

    angle, scale = uniform(ROTATION), torch.exp(uniform(math.log1p(SCALE)))
    flip = 1 - 2 * (torch.rand(count, device=device) < FLIP).float()
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # Normalised x and y have different lengths in pixels: without the aspect a rotation would shear.
    aspect = height / width
    return torch.stack(
        [
            torch.stack([cos, -sin * aspect * flip, 2 * uniform(SHIFT)], 1),
            torch.stack([sin / aspect, cos * flip, 2 * uniform(SHIFT)], 1),
        ],
        1,
    )


def warp(maps: Tensor, theta: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Apply (N, 2, 3) maps to (N, C, h, w), bilinear, zeros from outside; ``size`` is the result's, if it is another.

    ``align_corners=False`` measures from the outer edges, so that maps of any resolution over the same area agree.
    """
    shape = [*maps.shape[:2], *(size or maps.shape[-2:])]
    grid = F.affine_grid(theta.to(maps.dtype), shape, align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(views: Tensor) -> Tensor:
    """Random gain, offset and noise per view, on the breast only; the result stays in 0..1."""
    shape = (len(views), 1, 1, 1)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(shape, device=views.device) * (high - low) + low

    changed = views * uniform(1 - GAIN, 1 + GAIN) + uniform(-OFFSET, OFFSET)
    changed = changed + torch.randn_like(views) * uniform(0, NOISE)
    return torch.where(views > 0, changed, 0.0).clamp(0, 1)
