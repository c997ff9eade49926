"""SIGKILL to a whole job at 25 moments: what is finished is kept, the rest is made, and nobody can tell afterwards."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import uid

from made_images import breast_picture, dicom, save
from mammoflow import cli, convert, tables
from mammoflow.imaging import png

SOURCES = Path(convert.__file__).parents[1]
IMAGES, ROUNDS, KILLS = 60, 5, 5
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless)


def command(shard, out):
    return [
        "convert", "dicom_folder", "--shard", str(shard), "--root", str(shard.parent), "--store", str(out / "store"),
        "--ledger", str(out / "0000-of-0001.parquet"), "--threads", "2",
    ]  # fmt: skip


def contents(out):
    """Every file of the store, by name."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in (out / "store").rglob("*") if path.is_file()
    }


def counts(said):
    """done, reused and failed of a job's last line."""
    return tuple(map(int, re.search(r"done=(\d+) reused=(\d+) failed=(\d+) \(", said).groups()))


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A shard of small images of several syntaxes, one of them broken."""
    root = tmp_path_factory.mktemp("raw")
    rows = []
    for number in range(IMAGES):
        ds = dicom(breast_picture(320, 256, seed=number), SYNTAXES[number % len(SYNTAXES)], BitsStored=12)
        path = save(ds, root / f"{number:02}.dcm")
        rows.append(
            {
                "dataset": "dicom_folder", "image_id": path.stem, "study_id": "s", "patient_id": f"p{number % 4}",
                "path": path.name, "file_format": "dicom", "laterality": "L", "group_id": "dicom_folder:p",
                "use": "labelled",
            }
        )  # fmt: skip
    broken = root / "17.dcm"
    broken.write_bytes(broken.read_bytes()[:5000])
    tables.write(tables.finish("images", pd.DataFrame(rows)), root / "0000-of-0001.csv")
    return root / "0000-of-0001.csv"


@pytest.fixture(scope="module")
def undisturbed(shard, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert cli.main(command(shard, out)) == 0
    return out


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_job_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, shard, undisturbed, seed, capsys):
    rng = np.random.default_rng(seed)
    whole = contents(undisturbed)
    store, ledger = tmp_path / "store", tmp_path / "0000-of-0001.parquet"
    killed, before = 0, set()
    while killed < KILLS:
        job = subprocess.Popen(
            [sys.executable, "-m", "mammoflow", *command(shard, tmp_path)],
            env={"PYTHONPATH": str(SOURCES)},
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        # The moment is when some more images have come, and then some looks at the store later: anywhere inside one.
        more, looks = int(rng.integers(0, 6)), int(rng.integers(1, 40))
        while job.poll() is None and looks:
            if len(list(store.rglob("*.png"))) >= len(before) + more and store.exists():
                looks -= 1
            else:
                time.sleep(0.002)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        ended = job.wait()
        assert ended in (0, -signal.SIGKILL)
        written = {name: data for name, data in contents(tmp_path).items() if not name.endswith(".tmp")}
        assert written.items() <= whole.items()  # only finished pictures have final names
        assert before <= set(written)  # and they stay
        killed += ended != 0
        if ledger.exists() or len(written) > IMAGES / 2:  # the job was faster, or soon will be: give it work again
            ledger.unlink(missing_ok=True)
            for name in rng.choice(sorted(written), len(written) // 2, replace=False):
                (tmp_path / str(name)).unlink()
                del written[str(name)]
        before = set(written)
    capsys.readouterr()
    assert cli.main(command(shard, tmp_path)) == 0
    assert counts(capsys.readouterr().err) == (IMAGES - 1 - len(before), len(before), 1)
    assert contents(tmp_path) == whole
    ledgers = [tables.read(out / "0000-of-0001.parquet", "convert_ledger") for out in (tmp_path, undisturbed)]
    first, second = (ledger.drop(columns="seconds") for ledger in ledgers)
    pd.testing.assert_frame_equal(first, second)
    assert {png.read_row(tmp_path / name)["image_id"] for name in whole} == {
        f"{number:02}" for number in range(IMAGES) if number != 17
    }
