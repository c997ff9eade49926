"""``mammoflow self-test``: does each installed decoder give back the pixels that went in, and which one is used?

One made frame per transfer syntax goes through every backend, and for lossless JPEG a second one, whose differences
rely on arithmetic modulo 2**16. Exit status 1 where a backend that conversion relies on is missing or wrong; what
another one does is shown and does not matter.
"""

import argparse
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import base
from pydicom.pixels.decoders import gdcm as gdcm_plugin
from pydicom.uid import UID

from mammoflow.imaging import decode, encode, isolated, plugins

EXACT, CLOSE, MISSING = "exact", "close", "not installed"
_TOLERANCE = 0.02  # of the range, for the syntaxes that lose information


@dataclass(frozen=True)
class Result:
    """What one backend did with the frame of one syntax. rank: its place in the order of use, from 1; 0: never used."""

    syntax: UID
    backend: str
    rank: int
    word: str

    @property
    def good(self) -> bool:
        return self.word in (EXACT, CLOSE)

    @property
    def failed(self) -> bool:
        """A first choice must be there and right; a later one must be right where it is there."""
        return (self.rank == 1 and not self.good) or (self.rank > 1 and not self.good and self.word != MISSING)


def configure(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    results = [result for syntax in encode.SYNTAXES for result in examine(syntax)]
    _print_table(results)
    failed = [result for result in results if result.failed]
    for result in failed:
        print(f"{result.syntax.name}: {result.backend} is {result.word}")
    print(
        "conversion cannot be trusted: reinstall the environment" if failed else "every decoder that is used is right"
    )
    return int(bool(failed))


def made_frame(syntax: UID) -> tuple[NDArray[np.unsignedinteger], int]:
    """(pixels (67, 51), bits): noise of 16 bits with the largest steps there are; a ramp where detail is lost."""
    if syntax in encode.LOSSY:
        bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
        ramp = np.add.outer(np.arange(67), np.arange(51)) * ((1 << bits) - 1) / 116
        return ramp.astype(np.uint8 if bits == 8 else np.uint16), bits
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (67, 51), dtype=np.uint16)
    pixels[::5, ::2], pixels[::5, 1::2] = 0, 65535
    return pixels, 16


def examine(syntax: UID) -> list[Result]:
    """Try every backend that could decode ``syntax``, in the order of their use."""
    pixels, bits = made_frame(syntax)
    made = [(encode.dataset(pixels, syntax, BitsStored=bits), pixels)]
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        short = pixels >> 4
        wrapping = encode.dataset(short, syntax, BitsStored=12)
        wrapping.PixelData = encapsulate([encode.wrapping_frame(short, 12)])
        wrapping["PixelData"].is_undefined_length = True
        made.append((wrapping, short))
    ranks = {name: rank for rank, name in enumerate(_order(syntax), 1)}
    results = []
    for name in dict.fromkeys([*ranks, *_others(syntax)]):
        words = [judge(name, ds, expected, syntax in encode.LOSSY) for ds, expected in made]
        results.append(Result(syntax, name, ranks.get(name, 0), next((w for w in words if w != EXACT), words[0])))
    return results


def _order(syntax: UID) -> tuple[str, ...]:
    return plugins.PREFERENCE[syntax] if syntax.is_encapsulated else (plugins.NATIVE,)


def _others(syntax: UID) -> list[str]:
    if not syntax.is_encapsulated:
        return []
    gdcm = ["gdcm"] if syntax in gdcm_plugin.DECODER_DEPENDENCIES else []
    return sorted({*base.get_decoder(syntax).available_plugins, *gdcm} - {""})


def judge(backend: str, ds: Dataset, pixels: NDArray[np.unsignedinteger], lossy: bool) -> str:
    """One word, or a few, on what ``backend`` makes of ``ds``, which holds ``pixels``."""
    syntax = ds.file_meta.TransferSyntaxUID
    crashing = backend in plugins.CRASHING
    if syntax.is_encapsulated:
        there = find_spec(backend) if crashing else backend in base.get_decoder(syntax).available_plugins
        if not there:
            return MISSING
    try:
        if syntax.is_encapsulated and not crashing:
            found = decode.decode_frame(ds, syntax, 0, backend)
        else:
            with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
                ds.save_as(file, enforce_file_format=True)
                file.seek(0)
                found = (
                    isolated.decode(file.read(), backend, 0) if crashing else decode.read_image(Path(file.name)).pixels
                )
    except Exception as error:  # each decoder has exceptions of its own, and all of them are an answer here
        return f"refuses it ({str(error).splitlines()[-1].strip()[:60]})"
    if found.shape != pixels.shape:
        return f"wrong (shape {found.shape})"
    worst = np.abs(found.astype(int) - pixels).max()
    if lossy:
        return CLOSE if worst <= _TOLERANCE * (1 << int(ds.BitsStored)) else f"wrong (by up to {worst})"
    return EXACT if worst == 0 else f"wrong ({np.count_nonzero(found != pixels)} of {pixels.size} pixels)"


def _print_table(results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Decoders by transfer syntax")
    for column in ("transfer syntax", "used", "backend", "result", "why in this order"):
        table.add_column(column)
    syntax = None
    for result in results:
        first = result.syntax != syntax
        syntax = result.syntax
        used = {0: "never", 1: "first", 2: "second"}[result.rank]
        name = f"{syntax.name.split(' (')[0][:44]} ({syntax[len('1.2.840.10008.1.2') :] or '.0'})" if first else ""
        table.add_row(name, used, result.backend, result.word, plugins.reason(syntax) if first else "")
    Console().print(table)
