"""CBIS-DDSM on disk: which file is which series, and which file of a lesion is its mask.

Download tools lay the archive out in many ways and rename every file, so files are joined to the tables by
SeriesInstanceUID: as a part of the path (NBIA Retriever classic, idc-index ``MG_<uid>``, REST zip ``<uid>/``, the JPEG
mirror ``jpeg/<uid>/``), else out of the DICOM header (NBIA Retriever descriptive, flat folders). Neither PatientID nor
SeriesDescription nor file names can be trusted: some are wrong in the archive itself.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from mammoflow.datasets.headers import FileHeader, read_headers

logger = logging.getLogger(__name__)

# Share of a mask's pixels that must lie at one of its two values, and how near: JPEG copies ring along the outline.
_BINARY_SHARE = 0.99
_BINARY_NEARNESS = 0.1
_UID = re.compile(r"\d+(?:\.\d+){5,}")


def uid_in_path(path: Path, uids: Collection[str]) -> str | None:
    """The known SeriesInstanceUID that a part of the path holds, the last part first; None where there is none."""
    for part in reversed(path.parts):
        for uid in _UID.findall(part):
            if uid in uids:
                return uid
    return None


def series_on_disk(files: Iterable[Path], uids: Collection[str]) -> dict[str, list[FileHeader]]:
    """SeriesInstanceUID -> headers of its files. Files of no known series are left out.

    A file with a broken header still counts where its path names the series.
    """
    series = defaultdict(list)
    for path, header in read_headers(list(files)).items():
        uid = uid_in_path(path, uids) or header.series_uid
        if uid in uids:
            series[uid].append(header)
    return series


def count_series(files: Iterable[Path], uids: Collection[str]) -> int:
    """How many of the series ``uids`` have a file. Headers are read only where the path does not tell."""
    named = {path: uid_in_path(path, uids) for path in files}
    # A file in a folder named by another UID belongs to another series: no need to open it.
    silent = [path for path, uid in named.items() if uid is None and not _UID.search(path.parent.name)]
    read = {header.series_uid for header in read_headers(silent).values()}
    return len(({uid for uid in named.values() if uid} | read) & set(uids))


def largest(headers: list[FileHeader]) -> FileHeader | None:
    """The file with most pixels; the first by path among equals, so that the choice is stable."""
    return max(sorted(headers, key=lambda header: header.path), key=_area, default=None)


def choose_mask(candidates: list[FileHeader], full: FileHeader | None) -> FileHeader | None:
    """The mask among the files of a lesion, by content: 8 bit, two values, as large as the full mammogram ``full``.

    The crop is 16 bit and smaller. Where headers leave it open (the full image is absent, a mask of another size than
    its image, the JPEG copy where all is 8 bit, several answers) the pixels decide. None where no file is a mask.
    """
    readable = [header for header in candidates if header.shape]
    verdicts = {header: _is_mask(header, full) for header in readable}
    sure = [header for header, verdict in verdicts.items() if verdict]
    if len(sure) == 1:
        return sure[0]
    undecided = sure or [header for header, verdict in verdicts.items() if verdict is None]
    return largest([header for header in undecided if has_two_values(header.path)])


def _is_mask(header: FileHeader, full: FileHeader | None) -> bool | None:
    """What header fields alone say; None: they do not say."""
    same_size = header.shape == full.shape if full and full.shape else None
    eight_bit = header.bits_allocated == 8
    if same_size and eight_bit:
        return True
    if same_size is False and not eight_bit:
        return False
    return None


def has_two_values(path: Path) -> bool:
    """True when nearly all pixels lie at the picture's minimum or maximum, and both occur (a mask marks something)."""
    try:
        pixels = _pixels(path)
    except (OSError, EOFError, ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError) as error:
        logger.warning("%s cannot be decoded (%s), so it is not taken for a mask", path, error)
        return False
    low, high = int(pixels.min()), int(pixels.max())
    reach = _BINARY_NEARNESS * (high - low)
    at_an_end = np.count_nonzero(pixels <= low + reach) + np.count_nonzero(pixels >= high - reach)
    return low < high and at_an_end >= _BINARY_SHARE * pixels.size


def _pixels(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
        from PIL import Image

        with Image.open(path) as picture:
            return np.asarray(picture)
    import pydicom

    return pydicom.dcmread(path).pixel_array


def _area(header: FileHeader) -> int:
    return header.height * header.width if header.shape else 0
