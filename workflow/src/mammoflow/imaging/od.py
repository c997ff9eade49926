"""Optical density of DDSM films: each of the archive's scanners has its own curve from grey level to density.

Heath's calibration, as given on DDSM's page "Normalized images" and in pyddsm's ``grey_to_optical.csv``. Dark film has
a high density; for display the scale is turned round, so that dense tissue is bright, as in CBIS-DDSM.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.errors import DecodeError

OD_RANGE = (0.05, 3.0)  # the range in which the calibration holds

# Scanner, as the inventory's column ``machine`` names it -> density of grey level g. The letter is the archive's site:
# A Massachusetts General Hospital, D the ISMD group. LUMISYS stood at Wake Forest (sites B and C).
_CURVES = {
    "DBA": lambda g: (np.log10(np.maximum(g, 1.0)) - 4.80662) / -1.07553,  # log of zero: pixels outside the film
    "HOWTEK-A": lambda g: 3.789 - 0.00094568 * g,
    "LUMISYS": lambda g: (g - 4096.99) / -1009.01,
    "HOWTEK-D": lambda g: 3.96604095240593 - 0.00099055807612 * g,
}
SCANNERS = tuple(_CURVES)


def optical_density(grey: NDArray[np.integer], scanner: str) -> NDArray[np.float64]:
    """Optical density (dimensionless, clipped to ``OD_RANGE``) of stored grey levels, same shape as ``grey``.

    Raises DecodeError where the scanner is not one of ``SCANNERS``.
    """
    if scanner not in _CURVES:
        raise DecodeError(
            f"no optical density curve for the scanner {scanner!r} (known: {', '.join(SCANNERS)}): "
            "correct the DIGITIZER line of the case's .ics file"
        )
    return np.clip(_CURVES[scanner](np.asarray(grey, dtype=np.float64)), *OD_RANGE)


@cache
def od_lut(scanner: str, bits: int) -> NDArray[np.uint16]:
    """Display values of all stored values 0..65535 for a film of ``bits`` (the .ics file's BITS_PER_PIXEL), read-only.

    ``od_lut("LUMISYS", 12)[pixels]`` has 16 bits: 0 is the darkest film (density 3.0), 65535 the brightest (0.05).
    Values that do not fit into ``bits`` count as its largest. Raises DecodeError for an unknown scanner.
    """
    stored = np.minimum(np.arange(1 << 16), (1 << bits) - 1)
    low, high = OD_RANGE
    lut = np.rint((high - optical_density(stored, scanner)) / (high - low) * 65535).astype(np.uint16)
    lut.setflags(write=False)
    return lut
