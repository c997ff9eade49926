"""imagecodecs as a decoding plugin of pydicom, and which plugin is trusted with which transfer syntax.

pydicom's own order (gdcm, pillow, pylibjpeg) is neither the fastest nor, for lossless JPEG, always right:
pylibjpeg-libjpeg returns wrong pixels where the prediction wraps modulo 2**16 (pylibjpeg-libjpeg issue 90), without
an error. So the order is stated here per syntax, and the caller learns which plugin decoded.
The plugin interface is described in pydicom's guide "Creating decoding plugins".
"""

from functools import cache

import imagecodecs
from pydicom import uid
from pydicom.pixels.decoders import base

from mammoflow.imaging.errors import UnsupportedSyntax

NAME = "imagecodecs"
NATIVE = "pydicom"  # what the ledger calls the decoder of uncompressed pixels

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_LOSSLESS_JPEG = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_HTJ2K = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_DECODE = {
    **dict.fromkeys(_JPEG, imagecodecs.jpeg8_decode),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), imagecodecs.jpegls_decode),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), imagecodecs.jpeg2k_decode),
    **dict.fromkeys(_HTJ2K, imagecodecs.htj2k_decode),
}

# First to last; what is not installed is passed over. Where a syntax has one name only, that decoder notices damaged
# streams which the others would turn into wrong pixels (JPEG-LS: pylibjpeg; RLE: pydicom), so there is no second try.
PREFERENCE = {
    **dict.fromkeys(_LOSSLESS_JPEG, (NAME, "gdcm")),
    uid.JPEGBaseline8Bit: (NAME, "pylibjpeg"),
    uid.JPEGExtended12Bit: ("pylibjpeg", NAME),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), (NAME,)),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), (NAME, "pylibjpeg")),
    **dict.fromkeys(_HTJ2K, (NAME, "pylibjpeg")),
    uid.RLELossless: ("pylibjpeg",),
}
# Only where nothing of PREFERENCE is installed.
LAST_RESORT = {**dict.fromkeys(_LOSSLESS_JPEG, "pylibjpeg"), uid.RLELossless: "pydicom"}
# May end the process on a damaged stream (see mammoflow.imaging.isolated).
CRASHING = frozenset({"gdcm"})

DECODER_DEPENDENCIES = dict.fromkeys(_DECODE, ("imagecodecs>=2024.1",))


def is_available(syntax: str) -> bool:
    """Whether this plugin decodes ``syntax`` (asked by pydicom)."""
    return syntax in _DECODE


def _decode_frame(src: bytes, runner: base.DecodeRunner) -> bytes | bytearray:
    """Decode one frame (called by pydicom). Raises ValueError or imagecodecs' error where the stream does not fit."""
    if runner.samples_per_pixel != 1:
        raise ValueError("only single-channel frames are decoded here")
    options = {"numthreads": 1} if _DECODE[runner.transfer_syntax] is imagecodecs.jpeg2k_decode else {}
    frame = _DECODE[runner.transfer_syntax](src, **options)
    if frame.shape != (runner.rows, runner.columns):
        raise ValueError(f"the stream holds {frame.shape}, the header says {(runner.rows, runner.columns)}")
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2:
        raise ValueError(f"the stream holds {frame.dtype}")
    # The sample size of the stream decides, as with pydicom's own plugins: 8 bits may sit in a 16-bit object.
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    return frame.data.cast("B")


@cache
def plugins_for(syntax: str) -> tuple[str, ...]:
    """Installed plugins for a compressed syntax, best first. Raises UnsupportedSyntax where there is none."""
    try:
        decoder = base.get_decoder(syntax)
    except NotImplementedError:
        raise UnsupportedSyntax(
            f"transfer syntax {uid.UID(syntax).name} is not an image compression known here"
        ) from None
    if syntax in _DECODE and NAME not in decoder.available_plugins:
        decoder.add_plugin(NAME, (__name__, "_decode_frame"))
    installed = [name for name in PREFERENCE.get(syntax, ()) if name in decoder.available_plugins]
    if not installed and LAST_RESORT.get(syntax) in decoder.available_plugins:
        installed = [LAST_RESORT[syntax]]
    if not installed:
        raise UnsupportedSyntax(f"no decoder for {uid.UID(syntax).name} is installed")
    return tuple(installed)


# add_plugin is not thread-safe, so everything is registered before any thread runs.
for _syntax in _DECODE:
    plugins_for(_syntax)
