"""The whole command: hundreds of faults, kills, pauses, two at once, a full disk; and what it leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from collect.catalogue import Catalogue
from collect.stub_server import Faults, StubServer
from collect.test_transfer import arrived_whole
from mammoflow import cli, collect
from mammoflow.collect.state import Store
from mammoflow.errors import UserError

pytestmark = pytest.mark.usefixtures("quick")

REPOSITORY = Path(__file__).resolve().parents[2]


def command(dataset: str, out: Path, settings: dict) -> list[str]:
    return [
        sys.executable,
        "-m",
        "mammoflow",
        "collect",
        dataset,
        "--out",
        str(out),
        "--settings",
        json.dumps(settings),
    ]


def spawn(dataset: str, out: Path, settings: dict) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow" / "src")}
    return subprocess.Popen(
        command(dataset, out, settings), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_200_series_with_30_percent_faults_arrive_complete_and_verified(many: Catalogue, out: Path) -> None:
    with StubServer([many], Faults(rate=0.3, times=2, retry_after="0")) as server:
        last = collect.collect("cmmd", out, server.settings("nbia") | {"jobs": 8, "timeout_s": 0.2})
        asked = [one for one in server.seen if one.path.endswith("getImage")]
        faulty = {one.query["SeriesInstanceUID"] for one in asked if one.fault}
    assert (last.status, last.series_done, last.bytes_done) == ("done", 200, last.bytes)
    assert 0.2 < len(faulty) / 200 < 0.4
    assert len({one.fault for one in asked}) == 10  # every kind, and none
    arrived_whole(many, out)
    record = json.loads((out / "collected.json").read_text())
    assert (record["series_count"], record["file_count"]) == (200, 600)
    assert {one["checked"] for series in record["series"] for one in series["files"]} == {"md5"}
    assert {one["md5"] for series in record["series"] for one in series["files"]} == many.digests()


def test_a_bucket_with_30_percent_faults_gives_all_objects(tcga_brca: Catalogue, out: Path) -> None:
    with StubServer([tcga_brca], Faults(rate=0.3, retry_after="0"), page_size=4) as server:
        last = collect.collect("tcga_brca", out, server.settings("idc") | {"timeout_s": 0.2})
    assert last.status == "done", last.message
    arrived_whole(tcga_brca, out)


def test_ten_kills_on_the_way_change_nothing(many: Catalogue, out: Path) -> None:
    """Killed without warning in the middle of a file, each time at a later one, from both sources; then left to
    finish."""
    patients = sorted({one.patient for one in many.series.values()})[:40]
    wanted = {md5 for one in many.series.values() if one.patient in patients for md5 in _digests(one.contents())}
    with StubServer([many]) as server:
        victim: list[subprocess.Popen[str]] = []
        fatal = {
            4,
            14,
            18,
            28,
            32,
            42,
            46,
            56,
            60,
            70,
        }  # requests for images: a zip is one, a series in the bucket three

        def kill(number: int) -> None:
            if number in fatal:
                os.kill(victim[-1].pid, signal.SIGKILL)

        server.on_image = kill
        statuses = []
        for number in range(10):
            settings = server.settings(("nbia", "idc")[number % 2]) | {"patients": patients, "jobs": 2}
            # The first request may come before Popen has returned here.
            with server.lock:
                victim.append(spawn("cmmd", out, settings))
            victim[-1].communicate()
            statuses.append(victim[-1].returncode)
        assert statuses == [-signal.SIGKILL] * 10
        assert Store(out).progress().status == "broken"
        there = Store(out).entries()
        assert 0 < len(there) < 40
        before = len(server.seen)
        last = spawn("cmmd", out, server.settings("nbia") | {"patients": patients})
        last.communicate()
        assert last.returncode == 0
        again = [one.query["SeriesInstanceUID"] for one in server.seen[before:] if one.path.endswith("getImage")]
        assert set(again).isdisjoint(there)
        assert max(Counter(again).values()) == 1
    assert {md5 for path in out.rglob("*.dcm") for md5 in _digests([path.read_bytes()])} == wanted
    assert not list(out.rglob("*.part"))
    assert len(json.loads((out / "collected.json").read_text())["series"]) == 40


def _digests(contents: list[bytes]) -> list[str]:
    import hashlib

    return [hashlib.md5(content).hexdigest() for content in contents]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_state_from_which_the_same_command_goes_on(sent: int, many: Catalogue, out: Path) -> None:
    patients = sorted({one.patient for one in many.series.values()})[:12]
    with StubServer([many]) as server:
        settings = server.settings("nbia") | {"patients": patients, "jobs": 2}
        process: list[subprocess.Popen[str]] = []
        server.on_image = lambda number: os.kill(process[0].pid, sent) if number == 5 else None
        with server.lock:
            process.append(spawn("cmmd", out, settings))
        _, said = process[0].communicate()
        assert process[0].returncode == 130, said
        assert "the same command goes on" in said
        assert "Traceback" not in said
        assert collect.progress(out).status == "paused"
        assert collect.progress(out).series_done < 12
        assert collect.collect("cmmd", out, settings).status == "done"
        assert len(json.loads((out / "collected.json").read_text())["series"]) == 12


def test_the_page_starts_pauses_and_goes_on_through_the_disk(many: Catalogue, out: Path) -> None:
    patients = sorted({one.patient for one in many.series.values()})[:12]
    assert collect.progress(out).status == "new"
    with StubServer([many]) as server:
        settings = server.settings("nbia") | {"patients": patients, "jobs": 2, "timeout_s": 60}
        goes_on = threading.Event()
        reached = threading.Event()

        def hold(number: int) -> None:
            """From the fifth zip on the server falls silent in the middle of each."""
            if number >= 5:
                reached.set()
                goes_on.wait(50)

        server.on_image = hold
        collect.start("cmmd", out, settings)
        assert reached.wait(30)
        assert collect.progress(out).status == "running"
        with pytest.raises(UserError, match="another process collects into"):
            collect.start("cmmd", out, settings)
        with pytest.raises(UserError, match="another process collects into"):
            collect.collect("cmmd", out, settings)
        collect.pause(out)
        _until_free(out)
        goes_on.set()
        now = collect.progress(out)
        assert now.status == "paused", now
        assert now.series_done == 4
        assert now.series == 12
        collect.start("cmmd", out, settings)
        _until_free(out)
        assert collect.progress(out).status == "done", (out / ".collect" / "output.txt").read_text()
        assert collect.progress(out).bytes_done == collect.progress(out).bytes


def test_looking_on_never_keeps_a_run_from_its_directory(out: Path) -> None:
    store, ended = Store(out), threading.Event()
    seen: list[bool] = []

    def look() -> None:
        while not ended.is_set():
            seen.append(store.busy())

    store.hidden.mkdir(parents=True)
    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for _ in range(50):
        with store.locked():
            assert store.busy()
    ended.set()
    for watcher in watchers:
        watcher.join()
    assert not store.busy()
    assert len(seen) > 50


def _until_free(out: Path) -> None:
    """Wait until the process that holds the directory has let go of it."""
    import fcntl

    with (out / ".collect" / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)


def test_a_full_disk_is_seen_before_the_first_byte(cmmd: Catalogue, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with StubServer([cmmd]) as server:
        with pytest.raises(UserError, match=r"1\.1 GB are needed and 0\.0 GB are free.*choose less with max_gb"):
            collect.collect("cmmd", out, server.settings("nbia"))
        assert {one.path.rsplit("/", 1)[1] for one in server.seen} == {"getSeries"}
    assert collect.progress(out).status == "failed"


def test_a_file_lost_or_cut_afterwards_is_fetched_again(cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd]) as server:
        settings = server.settings("idc")
        collect.collect("cmmd", out, settings)
        paths = sorted(out.rglob("*.dcm"))
        paths[0].unlink()
        paths[-1].write_bytes(b"cut")
        with (out / ".collect" / "journal.jsonl").open("a") as handle:
            handle.write('{"series": "half a li')
        before = server.images_asked
        assert collect.collect("cmmd", out, settings).status == "done"
        assert 0 < server.images_asked - before < len(paths)
    arrived_whole(cmmd, out)


def test_both_sources_share_one_directory(cmmd: Catalogue, out: Path) -> None:
    """What one service began, the other finishes."""
    patient = sorted(one.patient for one in cmmd.series.values())[0]
    with StubServer([cmmd]) as server:
        collect.collect("cmmd", out, server.settings("nbia") | {"patients": [patient]})
        collect.collect("cmmd", out, server.settings("idc"))
        first = [one for one in server.seen if one.path.endswith("getImage")]
    assert len(first) == 1
    record = json.loads((out / "collected.json").read_text())
    assert record["sources"] == ["idc", "nbia"]
    arrived_whole(cmmd, out)


def test_estimate_says_what_a_run_then_fetches(tcga_brca: Catalogue, out: Path, capsys: pytest.CaptureFixture) -> None:
    with StubServer([tcga_brca]) as server:
        settings = server.settings("idc") | {"modality": ["MG"]}
        first = collect.estimate("tcga_brca", out, settings)
        assert {one.modality for one in first.chosen} == {"MG"}
        assert (first.patients, first.exams, first.images) == (1, 1, 6)
        assert first.bytes_left == first.bytes > 0
        assert not list(out.rglob("*.dcm"))
        arguments = [
            "collect",
            "tcga_brca",
            "--out",
            str(out),
            "--settings",
            json.dumps(server.settings("idc")),
            "--modality",
            "MG",
        ]
        assert cli.main([*arguments, "--dry-run"]) == 0
        assert "1 patients, 1 exams, 2 series, 6 images" in capsys.readouterr().out
        assert cli.main(arguments) == 0
        assert collect.estimate("tcga_brca", out, settings).bytes_left == 0
    assert sum(1 for _ in out.rglob("*.dcm")) == 6
