"""Records of jobs and `status`: what runs, what stopped and why, without asking a scheduler."""

import os
import signal
import time
from pathlib import Path

import pytest

from made_tables import make_images
from mammoflow import job_record, tables
from mammoflow.cli import main
from mammoflow.status import dataset_status


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An inventory of one image dealt to two shards, nothing converted."""
    frame = make_images(1, "mias")
    tables.write(frame, tmp_path / "mias/inventory/images.parquet")
    for shard in ("0000-of-0002", "0001-of-0002"):
        tables.write(frame, tmp_path / f"mias/shards/{shard}.csv")
    return tmp_path


def ledger(results: Path, number: int = 0) -> Path:
    return results / f"mias/convert/{number:04d}-of-0002.parquet"


def test_a_running_job_is_seen_with_its_place_and_progress(results, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    monkeypatch.setattr(job_record, "RENEWED_EVERY", 0.01)
    assert dataset_status(results, "mias")["shards_waiting"] == 2
    with job_record.job_record(ledger(results), "convert mias", 40) as watch:
        watch({"done": 3, "reused": 4})
        deadline = time.monotonic() + 20
        while (seen := dataset_status(results, "mias"))["jobs"][0]["done"] != 3:
            assert time.monotonic() < deadline, "the record was never renewed"
        assert (seen["shards_running"], seen["shards_waiting"]) == (1, 1)
        job = seen["jobs"][0]
        assert (job["state"], job["node"], job["slurm_job"]) == ("running", "n3", "17")
        assert (job["reused"], job["failed"], job["total"]) == (4, 0, 40)
        assert job["log"].endswith("logs/convert/mias/0000-of-0002.log")
    after = dataset_status(results, "mias")
    assert (after["shards_running"], after["jobs"]) == (0, [])


def test_a_failed_job_keeps_its_reason(results, capsys):
    with pytest.raises(OSError, match="disk full"), job_record.job_record(ledger(results), "convert mias", 40):
        raise OSError("disk full")
    seen = dataset_status(results, "mias")
    assert (seen["shards_stopped"], seen["shards_running"]) == (1, 0)
    assert main(["status", "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert "convert mias 0000-of-0002 failed on" in shown
    assert "OSError: disk full; log" in shown


def test_a_job_killed_without_a_word_is_not_called_running(results, capsys):
    record = job_record.path_of(ledger(results, 1))
    with job_record.job_record(ledger(results, 1), "convert mias", 40):
        left = record.read_text()
    record.write_text(left)  # as SIGKILL leaves it
    assert dataset_status(results, "mias")["shards_running"] == 1
    long_ago = time.time() - 2 * job_record.SILENT_AFTER
    os.utime(record, (long_ago, long_ago))
    seen = dataset_status(results, "mias")
    assert (seen["shards_running"], seen["shards_stopped"]) == (0, 1)
    main(["status", "--results", str(results)])
    assert "0001-of-0002 killed" in capsys.readouterr().out


def test_a_scheduler_that_ends_a_job_is_named(results):
    with pytest.raises(SystemExit), job_record.job_record(ledger(results), "convert mias", 40):
        raise SystemExit(128 + signal.SIGTERM)
    (job,) = dataset_status(results, "mias")["jobs"]
    assert job["state"] == "failed"
    assert "SIGTERM" in job["reason"]
