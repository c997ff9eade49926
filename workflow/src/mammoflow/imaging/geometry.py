"""Where a point of the stored image lies in the working image, and back.

The chain, in pixels: subtract the crop's origin, mirror inside the crop if ``flip``, scale, add the padding.
Coordinates are continuous with the origin at the outer corner of the top left pixel, so that a half-open box
``xmin, ymin, xmax, ymax`` keeps that meaning under mirroring (``x' = crop width - x``) and scaling.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Geometry:
    """The fields are the columns of ``tables.GEOMETRY``: pixels, and for the scales output per stored pixel.

    The crop is half-open: columns ``crop_x0..crop_x1 - 1`` and rows ``crop_y0..crop_y1 - 1`` of the stored image.
    """

    stored_height: int
    stored_width: int
    crop_x0: int
    crop_y0: int
    crop_x1: int
    crop_y1: int
    flip: bool
    scale_x: float
    scale_y: float
    pad_left: int
    pad_top: int
    out_height: int
    out_width: int

    @classmethod
    def identity(cls, height: int, width: int) -> Self:
        """The geometry of an image that is kept as it is."""
        return cls(height, width, 0, 0, width, height, False, 1.0, 1.0, 0, 0, height, width)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """From a ledger or manifest row (a mapping or a pandas Series). Raises ValueError where a field is missing."""
        values = {}
        for name, kind in cls.__annotations__.items():
            try:
                values[name] = kind(row[name])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"the row has no geometry: {name} is missing or empty") from None
        return cls(**values)

    def as_row(self) -> dict[str, Any]:
        """The fields as plain Python values, keyed by column."""
        return asdict(self)

    @property
    def crop_width(self) -> int:
        return self.crop_x1 - self.crop_x0

    @property
    def crop_height(self) -> int:
        return self.crop_y1 - self.crop_y0

    def padded(self, left: int, top: int, height: int, width: int) -> Self:
        """The geometry after the working image was placed at (left, top) in a frame of height x width."""
        return replace(
            self, pad_left=self.pad_left + left, pad_top=self.pad_top + top, out_height=height, out_width=width
        )

    def resized(self, height: int, width: int) -> Self:
        """The geometry after the working image was resized to height x width (any padding must come later).

        Raises ValueError where the image is padded already: its border would be scaled to fractions of a pixel.
        """
        if self.pad_left or self.pad_top:
            raise ValueError("resize before padding")
        return replace(
            self,
            scale_x=self.scale_x * width / self.out_width,
            scale_y=self.scale_y * height / self.out_height,
            out_height=height,
            out_width=width,
        )

    def forward(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Boxes (N, 4) ``xmin, ymin, xmax, ymax`` of the stored image -> the same boxes in the working image.

        Nothing is clipped: a box outside the crop stays outside the frame. NaN stays NaN.
        """
        xmin, ymin, xmax, ymax = _columns(boxes)
        left, right = xmin - self.crop_x0, xmax - self.crop_x0
        if self.flip:
            left, right = self.crop_width - right, self.crop_width - left
        return np.stack(
            [
                left * self.scale_x + self.pad_left,
                (ymin - self.crop_y0) * self.scale_y + self.pad_top,
                right * self.scale_x + self.pad_left,
                (ymax - self.crop_y0) * self.scale_y + self.pad_top,
            ],
            axis=1,
        )

    def inverse(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Boxes (N, 4) of the working image -> the same boxes in pixels of the stored image. Undoes :meth:`forward`."""
        xmin, ymin, xmax, ymax = _columns(boxes)
        left, right = (xmin - self.pad_left) / self.scale_x, (xmax - self.pad_left) / self.scale_x
        if self.flip:
            left, right = self.crop_width - right, self.crop_width - left
        return np.stack(
            [
                left + self.crop_x0,
                (ymin - self.pad_top) / self.scale_y + self.crop_y0,
                right + self.crop_x0,
                (ymax - self.pad_top) / self.scale_y + self.crop_y0,
            ],
            axis=1,
        )


def _columns(boxes: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes have shape {array.shape}, expected (N, 4)")
    return array[:, 0], array[:, 1], array[:, 2], array[:, 3]
