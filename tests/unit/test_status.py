"""Records of jobs and `status`: what runs, what stopped and why, without asking a scheduler."""

import io
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from made_tables import make_images
from mammoflow import job_record, status, tables
from mammoflow.cli import main
from mammoflow.console import stdout_console
from mammoflow.files import write_yaml
from mammoflow.settings import read_config
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


def test_a_renewal_that_fails_is_tried_again(results, monkeypatch):
    """The record's directory becomes a file for a while, in one step, which stops root as well."""
    monkeypatch.setattr(job_record, "RENEWED_EVERY", 0.01)
    said = io.StringIO()  # only looked at: pytest's own capture is emptied when it is read, while the thread may write
    monkeypatch.setattr(sys, "stderr", said)
    (results / "directory").mkdir()
    (results / "file").touch()

    def becomes(kind):
        (results / "link").symlink_to(results / kind)
        (results / "link").replace(ledger(results).parent)

    def until(condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, what

    becomes("directory")
    with job_record.job_record(ledger(results), "convert mias", 40) as watch:
        for done in (1, 2):  # the second outage is said as well
            becomes("file")
            until(lambda done=done: said.getvalue().count("cannot be renewed") == done, "nothing said")
            becomes("directory")
            watch({"done": done})
            until(lambda done=done: dataset_status(results, "mias")["jobs"][0]["done"] == done, "never renewed again")
            assert said.getvalue().count("cannot be renewed") == done
    assert dataset_status(results, "mias")["jobs"] == []


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


# --- another number of shards, other results --------------------------------------------------------------------------


def deal(results: Path, shards: int, ledgers: int, age: float = 0) -> None:
    """``shards`` shard files, ``age`` seconds old; the first ``ledgers`` are converted, each to one failed image."""
    for number in range(shards):
        name = f"{number:04d}-of-{shards:04d}"
        path = results / f"mias/shards/{name}.csv"
        tables.write(make_images(1, "mias"), path)
        os.utime(path, (time.time() - age,) * 2)
        if number < ledgers:
            row = make_images(1, "mias")[["dataset", "image_id", "patient_id"]]
            row = row.assign(status="failed", error="Gone", recipe="0badcafe")
            tables.write(tables.finish("convert_ledger", row), results / f"mias/convert/{name}.parquet")


@pytest.fixture
def back_again(tmp_path: Path) -> Path:
    """Configuration with two shards, all done; three were dealt since, and the last job that ran saw three."""
    results = tmp_path / "my results"
    tables.write(make_images(1, "mias"), results / "mias/inventory/images.parquet")
    deal(results, 2, ledgers=2, age=100)
    deal(results, 3, ledgers=0)
    write_yaml(results / "config.yaml", {"results": str(results), "datasets": {"mias": {"shards": 3}}})
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"results": f"{results}/", "datasets": {"mias": {"shards": 2}}}))
    return config


def test_the_configuration_says_which_shards_count_not_the_newest_files(back_again, capsys):
    """Snakemake does not touch what is up to date, nor calls ``onstart`` where nothing is to be done."""
    assert main(["status", "--json", "--config", str(back_again)]) == 0
    seen = json.loads(capsys.readouterr().out)["mias"]
    assert (seen["shards"], seen["shards_done"], seen["shards_waiting"]) == (2, 2, 0)


def test_without_a_configuration_the_one_that_the_last_run_saved_says_it(results):
    deal(results, 2, ledgers=1)
    deal(results, 3, ledgers=0, age=100)
    assert dataset_status(results, "mias")["shards"] == 2  # the newest files
    write_yaml(results / "config.yaml", {"datasets": {"mias": {"shards": 3}}})
    assert dataset_status(results, "mias")["shards"] == 3


def test_the_default_configuration_says_it_only_of_its_own_runs(back_again, tmp_path, capsys, monkeypatch):
    """A run of another file may share its results, and its shards are those that count."""
    (tmp_path / "config").mkdir()
    back_again.rename(tmp_path / "config" / "config.yaml")
    monkeypatch.chdir(tmp_path)
    shards = {}
    for label, changed in [("own", {}), ("of another file", {"seed": 7})]:
        config = read_config(Path("config/config.yaml"))
        config["datasets"]["mias"]["shards"] = 3
        write_yaml(Path(config["results"]) / "config.yaml", {**config, **changed})
        assert main(["status", "--json"]) == 0
        shards[label] = json.loads(capsys.readouterr().out)["mias"]["shards"]
    assert shards == {"own": 2, "of another file": 3}


def test_failed_ledgers_have_the_names_that_the_rules_give_them(back_again, capsys):
    """Quoted for ``xargs``: the path holds a space."""
    assert main(["failed-shards", "mias", "--config", str(back_again)]) == 0
    named = shlex.split(capsys.readouterr().out)
    results = read_config(back_again)["results"]
    assert named == [f"{results}/mias/convert/{number:04d}-of-0002.parquet" for number in range(2)]
    assert main(["status", "--config", str(back_again)]) == 0
    said = capsys.readouterr().out
    assert f"failed-shards mias --config {back_again} | xargs -r snakemake" in said
    assert f"--configfile {back_again} -R" in said


def test_where_nothing_failed_nothing_is_named_and_it_is_said(results, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["failed-shards", "mias", "--results", str(results)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no image failed" in captured.err


def test_a_dataset_or_results_that_are_not_there_name_the_cure(back_again, tmp_path, capsys, monkeypatch):
    assert main(["failed-shards", "rsna", "--config", str(back_again)]) == 2
    assert "does not name 'rsna'" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)  # no config/config.yaml here
    assert main(["status"]) == 2
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize("width", [None, 80])
def test_the_table_cuts_no_word_off(results, capsys, width):
    """Neither in a pipe, where there is room, nor in a narrow window, where it goes on in the next line."""
    view = status._table({"mias": dataset_status(results, "mias")})
    (stdout_console() if width is None else Console(width=width)).print(view)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert ("shards done" in printed.splitlines()[1]) == (width is None)
    assert max(map(len, printed.splitlines())) <= (width or 140)


def test_results_are_called_as_snakemake_calls_files_on_its_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("results: ./results//a/")
    assert read_config(tmp_path / "c.yaml")["results"] == "results/a"
