"""What is compared. Each pipeline takes one DICOM file and writes one PNG, in a process of its own.

naive      what tutorials do: pydicom's pixel_array and apply_voi_lut, the image's own extremes, OpenCV's PNG.
peer       the fast way of published solutions: dicomsdl, a window in float32, Otsu's box on a small copy, the crop as
           PNG: a smaller picture than the others write. (After dangnh0611/kaggle_rsna_breast_cancer on a CPU.)
ours       what `mammoflow convert` does with one image, hash of the source, ledger row and flush to disk included.
floor      what no converter of this kind can avoid: read, cut the frame out, the fastest decoder, deflate of the
           finished and filtered picture (made beforehand), write. With the allocator's settings of ours.

naive, ours and floor give the same product: the whole frame at its own size, 8 bits (or 16).

    python benchmarks/conversion_pipelines.py PIPELINE < requests > answers     (one JSON object per line)
"""

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

DATASET = "dicom_folder"
SAME_PRODUCT: dict[str, Any] = {"crop": False, "long_side": None, "bits": 8}


def naive(path: Path, out: Path, bits: int = 8) -> None:
    import cv2
    import numpy as np
    import pydicom
    from pydicom.pixels import apply_voi_lut

    ds = pydicom.dcmread(path)
    pixels = apply_voi_lut(ds.pixel_array, ds).astype(np.float64)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() - pixels
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    cv2.imwrite(str(out), (pixels * ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16))


def peer(path: Path, out: Path) -> None:
    import cv2
    import dicomsdl
    import numpy as np

    ds = dicomsdl.open(str(path))
    info = ds.getPixelDataInfo()
    pixels = np.empty((info["Rows"], info["Cols"]), info["dtype"])
    ds.copyFrameData(0, pixels)
    inverted = info["PhotometricInterpretation"] == "MONOCHROME1"
    small = cv2.resize(pixels, (416, 416), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    small = (255 * (small - small.min()) / (small.max() - small.min())).astype(np.uint8)
    _, mask = cv2.threshold(255 - small if inverted else small, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    x, y, width, height, _ = stats[1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])]
    scale_x, scale_y = pixels.shape[1] / 416, pixels.shape[0] / 416
    box = np.s_[int(y * scale_y) : int((y + height) * scale_y), int(x * scale_x) : int((x + width) * scale_x)]
    centre, width = (float(value[0]) for value in (ds.WindowCenter, ds.WindowWidth))
    grey = pixels[box].astype(np.float32)
    if ds.getDataElement("VOILUTFunction").value() == "SIGMOID":
        grey = 255 / (1 + np.exp(-4 * (grey - centre) / width))
    else:
        grey = np.clip((grey - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    cv2.imwrite(str(out), (255 - grey if inverted else grey).astype(np.uint8))


def ours(path: Path, out: Path, **changes: Any) -> None:
    """``changes``: settings of section ``convert`` other than those of the same product."""
    from mammoflow import convert
    from mammoflow.imaging import pool, store

    pool.keep_buffers()
    section, rule, recipe = _ours(tuple(sorted(changes.items())))
    image = dict.fromkeys(convert.TABLE_INPUTS) | {"dataset": DATASET, "image_id": path.stem}
    image |= {"patient_id": "p", "path": path.name, "file_format": "dicom", "laterality": "L"}
    made = out.parent / store.relative_path(DATASET, recipe, "p", path.stem)
    made.unlink(missing_ok=True)  # else it would be kept, and nothing measured
    word, row = convert.convert_image(image, path.parent, out.parent, section, rule, recipe)
    if word != "done":
        raise RuntimeError(f"{path}: {row['error']}")
    out.unlink(missing_ok=True)
    made.rename(out)


@cache
def _ours(changes: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], Any, str]:
    from mammoflow import settings
    from mammoflow.datasets import archive

    section = settings.resolve_section("convert", {**SAME_PRODUCT, **dict(changes)})
    return section, archive(DATASET).intensity, settings.convert_recipe(DATASET, section)


def floor(path: Path, out: Path) -> None:
    import imagecodecs
    import numpy as np
    import pydicom
    from isal import isal_zlib
    from pydicom import uid
    from pydicom.encaps import get_frame

    decoders = {
        uid.JPEGLossless: imagecodecs.jpeg8_decode,
        uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
        uid.JPEGLSLossless: imagecodecs.jpegls_decode,
        uid.JPEG2000Lossless: lambda frame: imagecodecs.jpeg2k_decode(frame, numthreads=1),
    }
    ds = pydicom.dcmread(path)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in decoders:
        decoders[syntax](get_frame(ds.PixelData, 0, number_of_frames=1))
    elif syntax == uid.RLELossless:
        ds.pixel_array_options(decoding_plugin="pylibjpeg")
        _ = ds.pixel_array
    else:
        np.frombuffer(ds.PixelData, "<u2").copy()
    out.write_bytes(isal_zlib.compress(_finished(path.with_suffix(".png")), 1))


@cache
def _finished(path: Path) -> Any:
    """The filtered rows of the finished picture, as ``ours`` deflates them."""
    import cv2

    from mammoflow.imaging import png, pool

    pool.keep_buffers()
    return png.filtered(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def peak_memory() -> float:
    """MiB of this process so far. (Not ru_maxrss, which a process inherits from the one that started it.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


PIPELINES = {"naive": naive, "peer": peer, "ours": ours, "floor": floor}


def main(name: str) -> None:
    """Serve requests ``{path, out, options}`` with answers ``{cpu, wall, peak}`` (seconds, MiB)."""
    if name != "ours":
        import cv2

        cv2.setNumThreads(1)
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        PIPELINES[name](Path(request["path"]), Path(request["out"]), **request["options"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
