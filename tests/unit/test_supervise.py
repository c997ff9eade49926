"""Decoders that really crash, hang or eat the memory: the guilty image is a failed row, the innocent are converted."""

import ctypes
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from made_images import breast_picture, dicom, save
from mammoflow import cli, convert, files, tables
from mammoflow.errors import UserError
from mammoflow.imaging import errors, plugins, supervise
from waiting import wait_until

SOURCES = Path(convert.__file__).parents[1]


def read_address_zero():
    ctypes.string_at(0)


def hold_everything_up():
    ctypes.PyDLL(None).pause()  # PyDLL: with the interpreter lock, so that no thread goes on


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def ask_for_too_much():
    np.empty(1 << 46, np.uint8)


# What stands behind the end of a JPEG-LS stream makes the decoder below misbehave.
ILL = {
    b"SEGV": (read_address_zero, "DecoderCrashed: imagecodecs ended its process with signal 11 (SIGSEGV)"),
    b"ABRT": (os.abort, "DecoderCrashed: imagecodecs ended its process with signal 6 (SIGABRT)"),
    b"EXIT": (lambda: os._exit(7), "DecoderCrashed: imagecodecs ended its process with status 7"),
    b"HANG": (threading.Event().wait, "TookTooLong: no result of imagecodecs after 3 s"),
    b"LOCK": (hold_everything_up, "TookTooLong: no result of imagecodecs after 3 s"),
    b"KILL": (
        kill_itself,
        "OutOfMemory: the system killed the process that imagecodecs was in (signal 9 (SIGKILL))",
    ),
    b"HUGE": (ask_for_too_much, "OutOfMemory: imagecodecs got no memory"),
    b"FINE": (lambda: None, None),
}


def ill_decoder(stream, **options):
    faulthandler.disable()  # pytest's, in the worker: it would print pages
    ILL.get(bytes(stream)[-4:], ILL[b"FINE"])[0]()
    return imagecodecs.jpegls_decode(stream, **options)


@pytest.fixture
def ill(monkeypatch):
    """imagecodecs' JPEG-LS decoder as above; workers are forked from this process and have it too."""
    monkeypatch.setitem(plugins._DECODE, uid.JPEGLSLossless, ill_decoder)


def archive(root, marks):
    """One image per mark, and the shard's table beside them. Returns the table's path."""
    rows = []
    for number, mark in enumerate(marks):
        ds = dicom(breast_picture(96, 64, seed=number), uid.JPEGLSLossless, BitsStored=12)
        frame = imagecodecs.jpegls_encode(breast_picture(96, 64, seed=number))
        ds.PixelData = encapsulate([frame + (b"\0" if len(frame) % 2 else b"") + mark])
        save(ds, root / f"{number:02}.dcm")
        rows.append(
            {
                "dataset": "dicom_folder", "image_id": f"i{number:02}", "study_id": "s", "patient_id": f"p{number % 2}",
                "path": f"{number:02}.dcm", "file_format": "dicom", "laterality": "L", "group_id": "dicom_folder:p",
                "use": "labelled",
            }
        )  # fmt: skip
    shard = root / "0000-of-0001.csv"
    tables.write(tables.finish("images", pd.DataFrame(rows)), shard)
    return shard


def command(stage, root, shard, out, *more):
    return [
        stage, "dicom_folder", "--shard", str(shard), "--root", str(root), "--store", str(out / "store"),
        "--ledger", str(out / "0000-of-0001.parquet"), *more,
    ]  # fmt: skip


def temporary_files(directory):
    return [path for path in directory.rglob("*") if path.name.endswith(".tmp")]


def test_the_guilty_are_named_and_the_innocent_converted(tmp_path, ill, capfd):
    marks = [*ILL, *([b"FINE"] * 6)]
    shard = archive(tmp_path / "raw", marks)
    call = command("convert", tmp_path / "raw", shard, tmp_path, "--threads", "2", "--image-seconds", "3")
    assert cli.main(call) == 0
    ledger = tables.read(tmp_path / "0000-of-0001.parquet", "convert_ledger").set_index("image_id")
    for number, mark in enumerate(marks):
        row, word = ledger.loc[f"i{number:02}"], ILL[mark][1]
        if word is None:
            assert row["status"] == "ok", row["error"]
            assert (tmp_path / "store" / row["path"]).is_file()
        else:
            assert row["status"] == "failed"
            assert row["error"].startswith(word)
            assert row["source_size"] == (tmp_path / "raw" / f"{number:02}.dcm").stat().st_size
    assert len(list((tmp_path / "store").rglob("*.png"))) == len(marks) - 7
    assert not temporary_files(tmp_path)
    said = capfd.readouterr().err
    assert f"convert dicom_folder 0000-of-0001: done={len(marks) - 7} reused=0 failed=7" in said
    assert re.search(
        r"the worker ended with signal \d+ \(SIG\w+\); \d images that it had in hand are tried again", said
    )


def test_a_crash_fails_all_lesions_of_the_image_and_no_other(tmp_path, ill):
    shard = archive(tmp_path / "raw", [b"FINE", b"SEGV", b"FINE"])
    box = {"geometry": "bbox", "xmin": 10.0, "ymin": 10.0, "xmax": 30.0, "ymax": 30.0}
    found = [
        {"dataset": "dicom_folder", "image_id": f"i{image:02}", "study_id": "s", "patient_id": f"p{image % 2}",
         "finding_id": f"i{image:02}_{number}", **box}
        for image in range(3) for number in range(2)
    ]  # fmt: skip
    findings = tmp_path / "raw" / "0000-of-0001.findings.csv"
    tables.write(tables.finish("findings", pd.DataFrame(found)), findings)
    assert cli.main(command("crop", tmp_path / "raw", shard, tmp_path, "--findings", str(findings))) == 0
    ledger = tables.read(tmp_path / "0000-of-0001.parquet", "crop_ledger")
    assert list(ledger["status"]) == ["ok", "ok", "failed", "failed", "ok", "ok"]
    assert ledger["error"].dropna().eq(ILL[b"SEGV"][1]).all()


def test_convert_file_survives_its_decoder(tmp_path, ill, capsys):
    archive(tmp_path, [b"SEGV"])
    assert cli.main(["convert-file", str(tmp_path / "00.dcm"), "--out", str(tmp_path / "a.png")]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] == ILL[b"SEGV"][1]
    assert not (tmp_path / "a.png").exists()


def test_a_fault_of_ours_is_one_row_with_its_traceback_in_the_log(capfd):
    def work(number):
        if number == 2:
            raise KeyError("unforeseen")
        return [("done", {"n": number})]

    rows = supervise.run_supervised(
        work, range(5), lambda n, error: [("failed", {"n": n, "error": error.word})], 2, "x"
    )
    assert rows[2]["error"] == "InternalError: KeyError: 'unforeseen'"
    assert [row["n"] for row in rows] == list(range(5))
    assert "Traceback" in capfd.readouterr().err


def test_who_is_slow_only_because_of_another_is_not_blamed():
    """All in hand are overdue when one holds the interpreter lock; alone, the others end in time."""

    def work(number):
        if number == 1:
            hold_everything_up()
        return [("done", {})]

    outcomes = dict(supervise.supervise(work, range(12), threads=4, seconds=1.0))
    assert isinstance(outcomes.pop(1), errors.TookTooLong)
    assert set(map(str, outcomes.values())) == {"[('done', {})]"}
    assert len(outcomes) == 11


def test_a_worker_that_is_told_to_end_is_no_fault_of_an_image():
    def work(_):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with pytest.raises(UserError, match=r"SIGTERM.*, which somebody sent"):
        list(supervise.supervise(work, [0]))


def test_a_worker_that_cannot_begin_ends_the_run(monkeypatch):
    monkeypatch.setattr(supervise, "_limit_memory", lambda _: os._exit(9))
    with pytest.raises(UserError, match="status 9 before it began an image"):
        list(supervise.supervise(lambda _: [], [0]))


# --- signals to a job -------------------------------------------------------------------------------------------------

# A job whose decoder says that it was called, then waits for ever.
WAITING = """
import os, sys, threading
from pathlib import Path
from pydicom import uid
from mammoflow import cli
from mammoflow.imaging import plugins
def wait(*_, **__):
    Path(sys.argv[1]).write_text(str(os.getpid()))
    threading.Event().wait()
plugins._DECODE[uid.JPEGLSLossless] = wait
sys.exit(cli.main(sys.argv[2:]))
"""


def waiting_job(tmp_path):
    """The job as a process, and the pid of its worker, which has an image in hand."""
    shard = archive(tmp_path / "raw", [b"FINE"])
    pid = tmp_path / "pid"
    call = [sys.executable, "-c", WAITING, str(pid), *command("convert", tmp_path / "raw", shard, tmp_path)]
    job = subprocess.Popen(call, env={"PYTHONPATH": str(SOURCES)}, start_new_session=True, stderr=subprocess.PIPE)
    wait_until(lambda: pid.exists() and pid.read_text())
    return job, int(pid.read_text())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_worker_outlives_its_job(tmp_path, number, code):
    job, worker = waiting_job(tmp_path)
    job.send_signal(number)
    _, said = job.communicate(timeout=60)
    assert job.returncode == code
    wait_until(lambda: not files._runs(worker))
    assert b"Traceback" not in said
    assert not (tmp_path / "0000-of-0001.parquet").exists()
    assert not temporary_files(tmp_path)


# --- what killed processes leave behind -------------------------------------------------------------------------------


def test_only_what_dead_processes_left_is_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    machine = files._MACHINE
    gone = [f".a.png.{machine}-{dead.pid}.x1_z.tmp", ".a.png.elsewhere-12.old.tmp", ".b.png.x.tmp"]
    kept = [f".a.png.{machine}-{os.getpid()}.abc.tmp", ".a.png.elsewhere-12.new.tmp", "a.png", ".a.png", "a.tmp"]
    for name in gone + kept:
        (tmp_path / name).touch()
    for name in gone[1:]:
        os.utime(tmp_path / name, (1, 1))
    files.sweep(tmp_path, "a.png")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, gone[2]}
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_a_temporary_file_names_its_process(tmp_path):
    with files.replacing(tmp_path / "a.png") as handle:
        handle.write(b"half")
        files.sweep(tmp_path)
        assert Path(handle.name).exists()
        assert f"-{os.getpid()}." in handle.name
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_status_says_what_each_reason_means(tmp_path, ill, capsys):
    results = tmp_path / "results" / "dicom_folder"
    shard = archive(tmp_path / "raw", [b"FINE", b"SEGV", b"ABRT"])
    ledger = results / "convert" / shard.with_suffix(".parquet").name
    call = command("convert", tmp_path / "raw", shard, tmp_path)
    call[call.index("--ledger") + 1] = str(ledger)
    assert cli.main(call) == 0
    tables.write(tables.read(shard, "images"), results / "inventory" / "images.parquet")
    tables.write(tables.read(shard, "images"), results / "shards" / shard.name)
    capsys.readouterr()
    assert cli.main(["status", "--results", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "dicom_folder: 2 x DecoderCrashed: The decoder ended its process, also when this was its only image." in said
    for kind in errors.DecodeError.__subclasses__():
        assert errors.meaning(f"{kind.__name__}: something").endswith(".")
