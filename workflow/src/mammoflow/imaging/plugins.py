"""imagecodecs as a decoding plugin of pydicom, and which plugin is trusted with which transfer syntax.

pydicom's own order (gdcm, pillow, pylibjpeg) is neither the fastest nor, for lossless JPEG, always right:
pylibjpeg-libjpeg returns wrong pixels where a difference wraps modulo 2**16 (pylibjpeg-libjpeg issue 90), without
an error. So the order is stated here per syntax, and the caller learns which plugin decoded.
The plugin interface is described in pydicom's guide "Creating decoding plugins".
"""

from mammoflow.imaging import lean  # noqa: F401 - before anything that imports pydicom

# isort: split
from functools import cache
from importlib.util import find_spec

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders import base

from mammoflow.imaging.codestream import jpeg_precision
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
_REASONS = {
    **dict.fromkeys(_LOSSLESS_JPEG, "fastest; pylibjpeg is wrong where the prediction wraps"),
    uid.JPEGBaseline8Bit: "fastest",
    uid.JPEGExtended12Bit: "reads 12 bits of every encoder",
    **dict.fromkeys(
        (uid.JPEGLSLossless, uid.JPEGLSNearLossless), "fastest; the others take damaged streams for pictures"
    ),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), "newest OpenJPEG, releases the interpreter lock"),
    **dict.fromkeys(_HTJ2K, "three times as fast as OpenJPEG"),
    uid.RLELossless: "six times as fast as pydicom's own",
}
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
    if runner.transfer_syntax in _LOSSLESS_JPEG:
        _drop_carry(frame, jpeg_precision(src))
    _agree_on_sign(frame, runner)
    # The sample size of the stream decides, as with pydicom's own plugins: 8 bits may sit in a 16-bit object.
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    return frame.data.cast("B")


def reason(syntax: str) -> str:
    """Why the first of PREFERENCE is the first, for `mammoflow self-test`."""
    return _REASONS.get(syntax, "uncompressed: a view of the file's own bytes")


def _drop_carry(frame: NDArray[np.unsignedinteger], precision: int) -> None:
    """Reduce samples to ``precision`` bits in place.

    T.81 H.1.2.1 predicts modulo 2**16, and an encoder may rely on it: 128 after 52 as a difference of -180 in 8 bits.
    libjpeg-turbo keeps the bits above the precision then.
    """
    top = (1 << precision) - 1
    if precision < 8 * frame.dtype.itemsize and frame.max() > top:
        frame &= frame.dtype.type(top)


def _agree_on_sign(frame: NDArray[np.integer], runner: base.DecodeRunner) -> None:
    """Extend or cut the sign of samples in place where stream and header disagree about it; the header is right.

    JPEG-LS knows no signed samples, and encoders of JPEG 2000 write signed ones as unsigned. (pydicom corrects this
    in arrays, not in the buffer that is asked for.)
    """
    signed = bool(runner.pixel_representation)
    if runner.transfer_syntax in (uid.JPEG2000Lossless, uid.JPEG2000, *_HTJ2K):
        disagrees, precision = bool(runner.get_option("j2k_is_signed", signed)) != signed, "j2k_precision"
    elif runner.transfer_syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        disagrees, precision = signed, "jls_precision"
    else:
        return
    unused = 8 * frame.dtype.itemsize - runner.get_option(precision, runner.bits_stored)
    if disagrees and unused:
        samples = frame.view(f"{'ui'[signed]}{frame.dtype.itemsize}")
        np.left_shift(samples, unused, out=samples)
        np.right_shift(samples, unused, out=samples)


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
    installed = [name for name in PREFERENCE.get(syntax, ()) if _installed(name, decoder)]
    if not installed and LAST_RESORT.get(syntax) in decoder.available_plugins:
        installed = [LAST_RESORT[syntax]]
    if not installed:
        raise UnsupportedSyntax(f"no decoder for {uid.UID(syntax).name} is installed")
    return tuple(installed)


def _installed(name: str, decoder: base.Decoder) -> bool:
    # A decoder that may end the process is never loaded into this one; pydicom knows it in its child process only.
    return find_spec(name) is not None if name in CRASHING else name in decoder.available_plugins


# add_plugin is not thread-safe, so everything is registered before any thread runs.
for _syntax in _DECODE:
    plugins_for(_syntax)
