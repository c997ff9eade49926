"""Read a working image from the store. OpenCV alone: the stages behind the manifest have no other decoder."""

from pathlib import Path

import cv2
import numpy as np

from mammoflow.errors import UserError


def read_working_image(path: Path) -> np.ndarray:
    """A working image as (h, w) uint8 or uint16. Raises UserError where the file is absent or not a grey PNG."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run convert and manifest again for its dataset")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} is not a grey PNG of 8 or 16 bits: delete it and run convert again")
    return image
