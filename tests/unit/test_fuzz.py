"""Broken files through the real command: each ends as one row, no worker dies, no final name holds half a picture."""

import contextlib
import gzip
import io
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from broken_files import broken_files, deflate_bomb, whole_files
from made_images import breast_picture, dicom, save
from mammoflow import cli, convert, tables
from mammoflow.imaging import errors, png

SOURCES = Path(convert.__file__).parents[1]
KINDS = {kind.__name__ for kind in errors.DecodeError.__subclasses__()}
# What a broken file must never lead to.
FAULTS = {"InternalError", "DecoderCrashed", "TookTooLong", "OutOfMemory", "StoreUnwritable"}
SHARDS, FILES = 6, 420  # 2,520 files


@pytest.fixture(scope="module")
def wholes():
    return whole_files()


def write_shard(root, files, shard):
    """The table of files that lie in ``root``: names and columns that differ from the usual."""
    rows = [
        {
            "dataset": "dicom_folder", "image_id": name, "study_id": "s", "patient_id": f"p{number % 7}", "path": name,
            "file_format": "dicom", "laterality": "LR"[number % 2], "group_id": "dicom_folder:p", "use": "labelled",
            **columns,
        }
        for number, (name, columns) in enumerate(files)
    ]  # fmt: skip
    tables.write(tables.finish("images", pd.DataFrame(rows)), shard)


def command(stage, root, shard, out, *more):
    return [
        stage, "dicom_folder", "--shard", str(shard), "--root", str(root), "--store", str(out / "store"),
        "--ledger", str(out / "ledger.parquet"), "--threads", "2", *more,
    ]  # fmt: skip


def check(out, count, table="convert_ledger"):
    """Every promise about a ledger and its store. Returns the ledger."""
    ledger = tables.read(out / "ledger.parquet", table)
    assert len(ledger) == count
    failed = ledger[ledger["status"] == "failed"]
    assert set(ledger["status"]) <= {"ok", "failed"}
    assert failed["path"].isna().all()
    for word in failed["error"]:
        kind, _, sentence = word.partition(": ")
        assert kind in KINDS, word
        assert kind not in FAULTS, word
        assert sentence.strip(), word
        assert not re.search(r" object at 0x|\n", word), word  # what differs from run to run
    found = {path.relative_to(out / "store").as_posix() for path in (out / "store").rglob("*") if path.is_file()}
    assert found == set(ledger["path"].dropna())  # no temporary file, and no picture that no row names
    for path in found:
        assert png.read_row(out / "store" / path) is not None
    return ledger


@pytest.mark.parametrize("seed", range(SHARDS))
def test_broken_files_are_rows(tmp_path, wholes, seed, capfd):
    root, listed, done_to = tmp_path / "raw", [], {}
    root.mkdir()
    for number, (what, data, columns) in enumerate(broken_files(wholes, FILES, seed)):
        name = f"{number:04}"
        (root / name).write_bytes(data)
        listed.append((name, columns))
        done_to[name] = what
    write_shard(root, listed, tmp_path / "0000-of-0001.csv")
    call = command("convert", root, tmp_path / "0000-of-0001.csv", tmp_path, "--settings", '{"long_side": 64}')
    assert cli.main([*call, "--image-seconds", "60"]) == 0
    ledger = check(tmp_path, FILES)
    assert 0.4 < (ledger["status"] == "failed").mean() < 0.9  # else the files were not broken, or all at the start
    assert ledger["error"].dropna().str.partition(":")[0].nunique() >= 7
    assert "the worker" not in capfd.readouterr().err
    empty = [name for name, what in done_to.items() if what.endswith(": empty")]
    assert ledger.set_index("image_id").loc[empty, "error"].str.endswith("the file is empty").all()


def test_lesions_of_broken_files_are_rows(tmp_path, wholes):
    root, listed, found = tmp_path / "raw", [], []
    root.mkdir()
    for number, (_, data, columns) in enumerate(broken_files(wholes, 200, seed=99)):
        name = f"{number:04}"
        (root / name).write_bytes(data)
        listed.append((name, columns))
        found.append(
            {
                "dataset": "dicom_folder", "image_id": name, "study_id": "s", "patient_id": f"p{number % 7}",
                "finding_id": f"{name}_1", "geometry": "bbox", "xmin": 5.0, "ymin": 5.0, "xmax": 25.0, "ymax": 30.0,
            }
        )  # fmt: skip
    write_shard(root, listed, tmp_path / "a.csv")
    tables.write(tables.finish("findings", pd.DataFrame(found)), tmp_path / "f.csv")
    assert cli.main(command("crop", root, tmp_path / "a.csv", tmp_path, "--findings", str(tmp_path / "f.csv"))) == 0
    check(tmp_path, 200, "crop_ledger")


def test_whole_files_are_converted(tmp_path, wholes):
    """The ground the broken ones stand on: unbroken, each of them is read."""
    root = tmp_path / "raw"
    root.mkdir()
    for whole in wholes:
        (root / whole.name).write_bytes(whole.data)
    write_shard(root, [(whole.name, whole.columns) for whole in wholes], tmp_path / "a.csv")
    assert cli.main(command("convert", root, tmp_path / "a.csv", tmp_path)) == 0
    assert list(check(tmp_path, len(wholes))["status"]) == ["ok"] * len(wholes)


# --- the file system --------------------------------------------------------------------------------------------------


def png_of_size(height, width):
    """A PNG that announces a size (PNG specification, section 11.2.1) and holds one pixel."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_what_is_no_file_or_would_fill_the_memory(tmp_path):
    root = tmp_path / "raw"
    (root / "folder").mkdir(parents=True)
    (root / "loop").symlink_to("loop")
    (root / "circle_a").symlink_to("circle_b")
    (root / "circle_b").symlink_to("circle_a")
    (root / "dangling").symlink_to("nowhere")
    (root / "device").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    with open(root / "endless", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    (root / "bomb").write_bytes(deflate_bomb(1100))
    (root / "film").write_bytes(gzip.compress(bytes(1 << 20)) * 1100)
    (root / "poster").write_bytes(png_of_size(20_000, 20_000))
    film = {"file_format": "ljpeg", "height": 97, "width": 61, "bits_stored": 12, "machine": "LUMISYS"}
    expected = {
        "folder": "UnreadableFile", "loop": "UnreadableFile", "circle_a": "UnreadableFile",
        "dangling": "UnreadableFile", "device": "UnreadableFile", "pipe": "UnreadableFile", "absent": "UnreadableFile",
        "endless": "TooLarge", "bomb": "TooLarge", "film": "TooLarge", "poster": "TooLarge",
    }  # fmt: skip
    write_shard(root, [(name, film if name == "film" else {}) for name in expected], tmp_path / "a.csv")
    assert cli.main(command("convert", root, tmp_path / "a.csv", tmp_path)) == 0
    ledger = check(tmp_path, len(expected))
    found = ledger["error"].str.partition(":")[0]
    assert dict(zip(ledger["image_id"], found, strict=True)) == expected


@pytest.fixture
def open_directory():
    """A directory that every user may enter, and in which every user may write. Pytest's own are private."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def good_images(root, count=6):
    """Noise, which no compression makes small, and the shard's table."""
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = breast_picture(200, 150, seed=number) + rng.integers(0, 999, (200, 150), dtype=np.uint16)
        save(dicom(picture, BitsStored=16), root / f"{number}")
    shard = root / "0000-of-0001.csv"
    write_shard(root, [(str(number), {}) for number in range(count)], shard)
    return shard


def test_files_without_permission(open_directory):
    """Root may read everything, so the job runs as another user."""
    root, out = open_directory / "raw", open_directory / "out"
    shard = good_images(root)
    out.mkdir()
    out.chmod(0o777)
    (root / "1").chmod(0)
    locked = root / "locked"
    locked.mkdir()
    (root / "3").rename(locked / "3")
    (root / "3").symlink_to("locked/3")
    locked.chmod(0)
    cli.main(command("convert", root, shard, open_directory / "first"))  # as root: imports what a job imports

    def as_nobody():
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        sys.exit(cli.main(command("convert", root, shard, out)))

    job = multiprocessing.get_context("fork").Process(target=as_nobody)
    job.start()
    job.join()
    locked.chmod(0o755)
    assert job.exitcode == 0
    ledger = check(out, 6).set_index("image_id")
    assert list(ledger.index[ledger["status"] == "failed"]) == ["1", "3"]
    assert ledger["error"].dropna().str.endswith("Permission denied").all()


@contextlib.contextmanager
def no_space(out, how):
    """A store with room for some pictures. Yields what to run before the job in its process."""
    if how == "file size":
        yield "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))"
        return
    (out / "store").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(out / "store")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root with the right to")
    try:
        yield ""
    finally:
        subprocess.run(["umount", str(out / "store")], check=True)


@pytest.mark.parametrize("how", ["file size", "disk"])
def test_a_full_disk_stops_the_run_and_leaves_whole_pictures(tmp_path, how):
    root, out = tmp_path / "raw", tmp_path / "out"
    shard = good_images(root)
    if how == "file size":  # two small pictures fit
        for number in (0, 1):
            save(dicom(breast_picture(100, 75, seed=number), BitsStored=16), root / str(number))
    call = command("convert", root, shard, out, "--settings", '{"crop": false}')
    with no_space(out, how) as before:
        code = f"import sys; from mammoflow import cli\n{before}\nsys.exit(cli.main(sys.argv[1:]))"
        job = subprocess.run(
            # Python would leave byte code cut off at that size, which the next program cannot load.
            [sys.executable, "-B", "-c", code, *call],
            env={"PYTHONPATH": str(SOURCES)},
            capture_output=True,
            check=False,
        )
        said = job.stderr.decode()
        assert job.returncode == 2, said
        assert "the store cannot be written (" in said
        assert ("File too large" if how == "file size" else "No space left on device") in said
        assert "Traceback" not in said
        ledger = tables.read(out / "ledger.parquet", "convert_ledger")
        assert list(ledger["image_id"]) == list("012345")
        words = ledger.loc[ledger["status"] == "failed", "error"].str.partition(":")[0]
        assert set(words) == {"StoreUnwritable"}
        written = [path for path in (out / "store").rglob("*") if path.is_file()]
        assert set(ledger["path"].dropna()) <= {path.relative_to(out / "store").as_posix() for path in written}
        assert 0 < len(written) < 6
        for path in written:
            assert path.suffix == ".png"
            with Image.open(path) as picture:
                picture.load()
        kept = {path.name: path.stat().st_mtime_ns for path in written}
        if how == "file size":  # the next run has room, and does the rest
            assert cli.main(call) == 0
            assert list(check(out, 6)["status"]) == ["ok"] * 6
            for path in written:
                assert path.stat().st_mtime_ns == kept[path.name]


def test_a_ledger_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    shard = good_images(tmp_path / "raw", 1)
    (tmp_path / "ledger.parquet").mkdir()
    assert cli.main(command("convert", tmp_path / "raw", shard, tmp_path)) == 2
    assert "ledger.parquet cannot be written: Is a directory" in capsys.readouterr().err


def test_two_jobs_on_one_shard_at_the_same_time(tmp_path):
    shard = good_images(tmp_path / "raw", 12)
    call = [sys.executable, "-m", "mammoflow", *command("convert", tmp_path / "raw", shard, tmp_path)]
    jobs = [subprocess.Popen(call, env={"PYTHONPATH": str(SOURCES)}, stderr=subprocess.PIPE) for _ in range(2)]
    for job in jobs:
        _, said = job.communicate()
        assert job.returncode == 0, said
    ledger = check(tmp_path, 12)
    assert list(ledger["status"]) == ["ok"] * 12
