"""Image files of every format that is read, and many ways to break one. Equal seeds give equal files."""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pydicom
import tifffile
from numpy.random import Generator
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from made_images import breast_picture, dicom
from mammoflow.imaging import pvrg_encode

SYNTAXES = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit,
    uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless,
    uid.JPEG2000, uid.HTJ2KLossless,
)  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """An unbroken file: its bytes, and the columns of the `images` table that name its format and size."""

    name: str
    data: bytes
    columns: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None  # of a DICOM file


def whole_files() -> list[Whole]:
    """One small file per transfer syntax and depth, and per format that is no DICOM."""
    files = []
    for number, syntax in enumerate(SYNTAXES):
        for bits in (8, 12, 16):
            if (syntax == uid.JPEGBaseline8Bit and bits > 8) or (syntax == uid.JPEGExtended12Bit and bits != 12):
                continue
            picture = breast_picture(96 + 8 * number, 64 + 4 * bits, top=(1 << bits) - 1, seed=number)
            ds = dicom(picture.astype(np.uint8) if bits == 8 else picture, syntax, BitsStored=bits)
            ds.WindowCenter, ds.WindowWidth = 1 << bits - 1, 1 << bits
            files.append(Whole(f"{syntax.keyword}-{bits}", to_bytes(ds), {"file_format": "dicom"}, ds))
    for bits in (8, 16):
        picture = breast_picture(120, 90, top=(1 << bits) - 1, seed=bits).astype(f"u{bits // 8}")
        raw = picture.astype(picture.dtype.newbyteorder(">")).tobytes()
        files.append(
            Whole(f"pgm-{bits}", b"P5\n# film\n90 120\n%d\n" % ((1 << bits) - 1) + raw, {"file_format": "pgm"})
        )
        files.append(Whole(f"png-{bits}", _saved(Image.fromarray(picture), "PNG"), {"file_format": "png"}))
        for compression in (None, "zlib", "lzw", "packbits"):
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, picture, compression=compression, rowsperstrip=17)
            files.append(Whole(f"tiff-{compression}-{bits}", buffer.getvalue(), {"file_format": "tiff"}))
        if bits == 8:
            files.append(Whole("jpeg", _saved(Image.fromarray(picture), "JPEG"), {"file_format": "jpeg"}))
    film = breast_picture(97, 61, top=4095, seed=3)
    columns = {"file_format": "ljpeg", "height": 97, "width": 61, "bits_stored": 12, "machine": "LUMISYS"}
    files += [Whole(f"ljpeg-{k}", pvrg_encode.encode(film, 12, predictor=k), columns) for k in (1, 7)]
    return files


def to_bytes(ds: Dataset) -> bytes:
    """``ds`` as the bytes of a DICOM file, however wrong its values are."""
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _saved(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


# --- bytes ------------------------------------------------------------------------------------------------------------


def cut(data: bytes, rng: Generator) -> bytes:
    return data[: int(len(data) * rng.random())]


def cut_near_the_end(data: bytes, rng: Generator) -> bytes:
    return data[: -int(rng.integers(1, 40))]


def flip_bits(data: bytes, rng: Generator, start: float = 0.0, stop: float = 1.0) -> bytes:
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 30))):
        content[int(len(data) * rng.uniform(start, stop))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def zero_a_block(data: bytes, rng: Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 600))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def fill_a_block(data: bytes, rng: Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 60))
    return data[:at] + b"\xff" * len(data[at : at + size]) + data[at + size :]


def drop_a_block(data: bytes, rng: Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 300))
    return data[:at] + data[at + size :]


def repeat_a_block(data: bytes, rng: Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 300))
    return data[: at + size] + data[at:]


def other_start(data: bytes, rng: Generator) -> bytes:
    starts = [
        b"\x89PNG\r\n\x1a\n", b"P5 ", b"P5 9 9 70000\n", b"P5 99999 99999 255\n", b"II*\0", b"MM\0*",
        b"\xff\xd8\xff\xc3",
        b"\xff\xd8\xff\xe0", b"\x1f\x8b\x08\0", b"PK\3\4", b"", bytes(128) + b"DICM", bytes(128) + b"NONE",
    ]  # fmt: skip
    start = starts[int(rng.integers(len(starts)))]
    return start + data[len(start) :]


def only_noise(data: bytes, rng: Generator) -> bytes:
    return other_start(rng.bytes(len(data)), rng)


def nothing(data: bytes, rng: Generator) -> bytes:
    return b""


def few_bytes(data: bytes, rng: Generator) -> bytes:
    return data[: int(rng.integers(1, 140))]


def deep_sequences(data: bytes, rng: Generator) -> bytes:
    """Sequences of undefined length inside each other, before the first element of a DICOM file."""
    at = 144 + int.from_bytes(data[140:144], "little") if data[128:132] == b"DICM" else 0
    depth = int(rng.integers(5, 20_000))
    opened = (b"\x08\x00\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth
    closed = (b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)) * int(depth * (rng.random() < 0.7))
    return data[:at] + opened + closed + data[at:]


BYTES: dict[str, Callable[[bytes, Generator], bytes]] = {
    "cut": cut,
    "cut near the end": cut_near_the_end,
    "bits flipped": flip_bits,
    "bits flipped in the header": partial(flip_bits, stop=0.12),
    "bits flipped before the pixels": partial(flip_bits, start=0.04, stop=0.25),
    "block of zeros": zero_a_block,
    "block of ones": fill_a_block,
    "block lost": drop_a_block,
    "block twice": repeat_a_block,
    "another format's start": other_start,
    "noise": only_noise,
    "empty": nothing,
    "few bytes": few_bytes,
    "deep sequences": deep_sequences,
}

# --- DICOM values -----------------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, ...]] = {
    "Rows": (None, 0, 1, 7, 60000, 65535),
    "Columns": (None, 0, 1, 7, 60000, 65535),
    "BitsAllocated": (None, 0, 1, 8, 12, 16, 24, 32, 64, 65535),
    "BitsStored": (None, 0, 1, 3, 7, 9, 15, 17, 32, 65535),
    "HighBit": (None, 0, 3, 15, 31, 65535),
    "PixelRepresentation": (None, 1, 2, 65535),
    "SamplesPerPixel": (None, 0, 2, 3, 4, 65535),
    "PhotometricInterpretation": (None, "", "RGB", "YBR_FULL_422", "PALETTE COLOR", "MONOCHROME1", "monochrome2", "?"),
    "PlanarConfiguration": (1, 65535),
    "NumberOfFrames": ("0", "-1", "2", "2000000000", "1.5", "many"),
    "RescaleSlope": ("", "0", "-1", "1e308", "nan", "1\\2", "steep"),
    "RescaleIntercept": ("", "-1e308", "inf", "-70000", "low"),
    "RescaleType": ("", "OD", "HU"),
    "WindowCenter": ("", "1e308", "nan", "5\\6\\7", "middle"),
    "WindowWidth": ("", "0", "-3", "1e-300", "1e308", "inf", "1\\\\2", "wide"),
    "VOILUTFunction": ("", "SIGMOID", "LINEAR_EXACT", "CUBIC"),
    "PixelPaddingValue": (0, 65535),
    "PresentationIntentType": ("", "FOR PROCESSING", "?"),
}


def change_values(ds: Dataset, rng: Generator) -> None:
    for _ in range(int(rng.integers(1, 3))):
        name = list(VALUES)[int(rng.integers(len(VALUES)))]
        value = VALUES[name][int(rng.integers(len(VALUES[name])))]
        if value is None:
            if name in ds:
                delattr(ds, name)
            continue
        # A text in whatever representation the standard gives the element, as broken writers leave it.
        representation = pydicom.datadict.dictionary_VR(name)
        representation = "US" if representation == "US or SS" else representation
        ds.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(name), "LO", value) if isinstance(value, str) else
               pydicom.DataElement(pydicom.datadict.tag_for_keyword(name), representation, value))  # fmt: skip


def other_syntax(ds: Dataset, rng: Generator) -> None:
    others = [*SYNTAXES, uid.MPEG2MPML, uid.UID("1.2.840.10008.1.2.4.201"), uid.UID("1.2.3"), uid.UID("")]
    ds.file_meta.TransferSyntaxUID = others[int(rng.integers(len(others)))]


def lost_pixels(ds: Dataset, rng: Generator) -> None:
    if rng.random() < 0.5:
        del ds.PixelData
    else:
        ds.PixelData = encapsulate([b"\0\0"]) if ds.file_meta.TransferSyntaxUID.is_encapsulated else b""


def short_or_long_pixels(ds: Dataset, rng: Generator) -> None:
    data = ds.PixelData
    ds.PixelData = data[: 2 * int(len(data) * rng.random() / 2)] if rng.random() < 0.7 else data + bytes(100)


def fragments(ds: Dataset, rng: Generator) -> None:
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frame = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
    kind = int(rng.integers(4))
    if kind == 0:
        ds.PixelData = encapsulate([frame, frame])
    elif kind == 1:
        ds.PixelData = encapsulate([frame], fragments_per_frame=3)
    elif kind == 2:
        ds.PixelData = encapsulate([frame[: len(frame) // 2 * 2]])[8:]
    else:
        ds.PixelData = encapsulate([frame, frame])
        ds.NumberOfFrames = 3


def lookup_table(ds: Dataset, rng: Generator) -> None:
    item = Dataset()
    descriptors = [[0, 0, 0], [256, 0, 16], [4, 65535, 8], [65535, 0, 99], [1, 0, 1]]
    item.add_new("LUTDescriptor", "US", descriptors[int(rng.integers(len(descriptors)))])
    lengths = [0, 1, 4, 256, 4096]
    item.add_new("LUTData", "OW", rng.bytes(2 * lengths[int(rng.integers(len(lengths)))]))
    name = ("VOILUTSequence", "ModalityLUTSequence")[int(rng.integers(2))]
    setattr(ds, name, Sequence([item] * int(rng.integers(1, 3))))


DATASETS: dict[str, Callable[[Dataset, Generator], None]] = {
    "values": change_values,
    "another syntax": other_syntax,
    "no pixels": lost_pixels,
    "pixels of another length": short_or_long_pixels,
    "fragments": fragments,
    "lookup table": lookup_table,
}


def deflate_bomb(megabytes: int) -> bytes:
    """A deflated DICOM file that is a thousand times as large when inflated."""
    ds = dicom(breast_picture(96, 64, top=4095), uid.DeflatedExplicitVRLittleEndian, BitsStored=12)
    plain = to_bytes(ds)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    end = 144 + int.from_bytes(plain[140:144], "little")
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # such blocks stand alone
    return plain[:end] + block * megabytes + packer.flush()


def broken_files(wholes: list[Whole], count: int, seed: int) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """``count`` broken files: what was done to which, the bytes, and columns of the `images` table."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        whole = wholes[number % len(wholes)]
        if whole.dataset is not None and rng.random() < 0.5:
            kind = list(DATASETS)[int(rng.integers(len(DATASETS)))]
            ds = pydicom.dcmread(io.BytesIO(whole.data))
            try:
                DATASETS[kind](ds, rng)
                data = to_bytes(ds)
            except Exception as error:  # pydicom does not write everything; the bytes below are broken all the same
                kind, data = f"values flipped ({type(error).__name__})", flip_bits(whole.data, rng, stop=0.3)
        else:
            kind = list(BYTES)[int(rng.integers(len(BYTES)))]
            data = BYTES[kind](whole.data, rng)
        yield f"{whole.name}: {kind}", data, whole.columns
