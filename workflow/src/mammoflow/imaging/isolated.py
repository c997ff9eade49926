"""A decoder in a process of its own, for libraries that end the process on a damaged stream.

gdcm answers some broken JPEG streams with ``std::terminate``, which no Python exception handler sees: in a thread pool
one bad file would end a whole shard. It is asked only where the first choice refused, so a process each is affordable.
"""

import ctypes
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SECONDS = 300
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


def decode(data: bytes, plugin: str, index: int) -> NDArray[np.integer]:
    """Decode frame ``index`` of the DICOM file ``data`` with one of pydicom's plugins.

    Returns (rows, columns). Raises ValueError where the plugin fails, crashes or does not end.
    """
    path = os.pathsep.join(filter(None, [_PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "mammoflow.imaging.isolated", plugin, str(index), str(os.getpid())]
    try:
        child = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{plugin}: no result within {_SECONDS} s") from None
    if child.returncode < 0:
        raise ValueError(f"{plugin}: the decoder ended its process with signal {-child.returncode}")
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ValueError(f"{plugin}: {lines[-1]}")
    return np.load(io.BytesIO(child.stdout), allow_pickle=False)


def die_with_parent(parent: int) -> None:
    """End this process (SIGKILL) when the thread that started it ends, however that happens. Linux only (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was faster
            os._exit(1)


def _main(plugin: str, index: str, parent: str) -> None:
    import pydicom  # before `decode`, which would hide the crashing plugins from it

    from mammoflow.imaging.decode import decode_frame, transfer_syntax

    die_with_parent(int(parent))  # which is ended where this here takes too long
    ds = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True)
    try:
        pixels = decode_frame(ds, transfer_syntax(ds), int(index), plugin)
    except AttributeError:  # of pydicom's plugin, which takes gdcm's None for text
        sys.exit("it gave no pixels")
    except Exception as error:
        sys.exit(str(error).rpartition("by all available plugins:")[2].strip() or str(error))
    np.save(sys.stdout.buffer, pixels, allow_pickle=False)


if __name__ == "__main__":
    _main(*sys.argv[1:])
