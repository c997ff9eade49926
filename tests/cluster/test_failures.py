"""The failure drill: what goes wrong on a cluster, and that a rerun then does exactly the missing work.

One archive in seven shards, and a fault in each. No fault needs a hook in the workflow: a file on a filesystem that
hangs is a FIFO, one that cannot be written is a file where a directory should be, a film that needs much memory is
a large one. Deaths, limits and cancellations are SLURM's own.
"""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pydicom
import pytest

from cluster.slurm import Cluster, ClusterWorkflow, Job, Run
from mammoflow import settings, tables
from mammoflow.convert import convert_images
from mammoflow.imaging import store
from mammoflow.rows import from_frame
from waiting import wait_until
from workflow.harness import make_workflow, mammoflow

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SHARDS = 7
NAMES = [f"{number:04d}-of-{SHARDS:04d}" for number in range(SHARDS)]
EXITS, MEMORY, TIME, NODE, CANCELLED, SPARED, CORRUPT = range(SHARDS)
HELD = (TIME, NODE, CANCELLED, SPARED)
SECTIONS = {
    "data": "data",
    "datasets": {"cmmd": {"shards": SHARDS}},
    "convert": {"long_side": 256},
    "image_seconds": 3000,  # a file that hangs must not count as a bad one meanwhile
    "manifest": {"max_failed_fraction": 0.5},
}
# Enough for the small films (430 MB with Snakemake, the command and its worker), too little for two large ones at once.
MEMORY_MB = 580
LARGE = (13400, 10012)  # nearly the most that is read (layout.MAX_PIXELS)
WORKER_MB = 420  # so much the worker's two threads hold with two large films, up to 600; with the rest 200 more


@dataclass
class Drill:
    """The archive, the workflow on the cluster, and for each fault the shard that meets it."""

    workflow: ClusterWorkflow
    cluster: Cluster
    shards: list[str]

    @property
    def root(self) -> Path:
        return self.workflow.directory / "data/cmmd"

    def copy(self, directory: Path) -> "Drill":
        """The same, to be damaged. File times are kept: by them Snakemake judges what is up to date."""
        shutil.copytree(self.workflow.directory, directory)
        return replace(self, workflow=ClusterWorkflow(directory, directory / self.workflow.config.name))

    def images(self, fault: int) -> pd.DataFrame:
        """The shard's images in the order in which its job takes them."""
        table = tables.read(self.workflow.directory / f"results/cmmd/shards/{self.shards[fault]}.csv", "images")
        return table.sort_values(["path", "image_id"], kind="stable").reset_index(drop=True)

    def last_file(self, fault: int) -> Path:
        return self.root / self.images(fault)["path"].iloc[-1]

    def pictures(self, fault: int) -> list[Path]:
        """Where the pictures of a shard lie or will lie, in the same order."""
        recipe = settings.convert_recipe("cmmd", settings.parse_section("convert", json.dumps(SECTIONS["convert"])))
        return [
            self.workflow.directory / "store" / store.relative_path("cmmd", recipe, row.patient_id, row.image_id)
            for row in self.images(fault).itertuples()
        ]

    def ledger(self, fault: int) -> Path:
        return self.workflow.directory / f"results/cmmd/convert/{self.shards[fault]}.parquet"

    def log(self, fault: int) -> str:
        return (self.workflow.directory / f"results/logs/convert/cmmd/{self.shards[fault]}.log").read_text()

    def jobs(self, fault: int) -> list[Job]:
        """The shard's jobs, oldest first."""
        return self.cluster.jobs(f"rule_convert_shard_wildcards_cmmd_{self.shards[fault]}")

    def states(self, fault: int) -> list[str]:
        return [job.state for job in self.jobs(fault)]

    def is_held(self, fault: int) -> bool:
        """Has the shard's job made all pictures but the last, before which it hangs?"""
        made = [path.is_file() for path in self.pictures(fault)]
        return all(made[:-1]) and self.states(fault)[-1:] == ["RUNNING"]

    def waits_or_was_retried(self, fault: int) -> bool:
        """Will Snakemake submit nothing for the shard as long as all nodes are taken?"""
        states = self.states(fault)
        return states[-1:] == ["PENDING"] or len(states) == 2


@pytest.fixture(scope="module")
def listed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    """An archive of seventeen women, listed and dealt; no pixel converted."""
    directory = tmp_path_factory.mktemp("listed")
    arguments = ("phantom", "cmmd", str(directory / "data/cmmd"), "--patients", "17", "--seed", "0")
    done = mammoflow(*arguments, directory=directory)
    assert done.returncode == 0, done.stderr
    local = make_workflow(directory, **SECTIONS)
    local.run(f"results/cmmd/shards/{NAMES[0]}.csv")
    drill = Drill(ClusterWorkflow(directory, local.config), cluster, NAMES)
    # The largest first: of the shard that fails, some patients must have been converted.
    drill.shards = [NAMES[number] for number in sorted(range(SHARDS), key=lambda number: -len(drill.images(number)))]
    assert len(drill.images(SHARDS - 1)) >= 2, "of one image nothing can be reused"
    return drill


@pytest.fixture(scope="module")
def drill(listed: Drill, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    """The one that meets all faults but the last."""
    return listed.copy(tmp_path_factory.mktemp("drill") / "copy")


def hold(path: Path) -> None:
    """Make looking for the picture at ``path`` hang, as on a dead filesystem. A job looks before it converts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def let_go(path: Path) -> None:
    """Tell the job that hangs on ``path`` that no picture is there."""

    def opened_and_closed() -> bool:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody looks yet
                raise
            return False
        return True

    wait_until(opened_and_closed, f"somebody looks at {path}")


@contextmanager
def seen_over_its_memory(drill: Drill, run: Run) -> Iterator[None]:
    """While Snakemake runs, stop the worker of the shard's first job when it has two large films in its hands.

    SLURM looks at a job's memory every two seconds and the films are converted in less: it would be missed.
    """
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(
            wait_until,
            lambda: stop_worker(drill.shards[MEMORY]) or run.process.poll() is not None,
            "the worker has two large films in its hands",
            900,
        )
        yield
        watch.result()


def stop_worker(shard: str) -> bool:
    """Stop the worker of the shard's job while it takes more memory than its job has."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "convert" not in words or not any(word.endswith(f"/{shard}.csv") for word in words):
            continue
        try:
            for worker in process.children():
                if takes_too_much(worker):
                    worker.suspend()
                    if takes_too_much(worker):
                        return True
                    worker.resume()  # it had just ended with one of them
        except psutil.NoSuchProcess:  # between two looks
            continue
    return False


def takes_too_much(worker: psutil.Process) -> bool:
    return worker.memory_info().rss > WORKER_MB * 1e6


def enlarge(path: Path) -> None:
    """Make the film so large that converting it takes a quarter of a gigabyte more."""
    ds = pydicom.dcmread(path)
    rows, columns = LARGE
    factors = -(-rows // ds.Rows), -(-columns // ds.Columns)
    pixels = np.kron(ds.pixel_array, np.ones(factors, ds.pixel_array.dtype))[:rows, :columns]
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.tobytes()
    ds.save_as(path)


@dataclass(frozen=True)
class Story:
    """What was seen in the run with seven faults."""

    status: int
    said: str
    running: dict[str, Any]  # `status --json` while four jobs waited
    victim: str  # the node whose power was cut
    before_restart: dict[int, int]  # fault -> number of its job before slurmctld was killed
    damaged: dict[Path, bytes]  # the files of the corrupt study, as they were
    blocked: Path
    last_job: int


@pytest.fixture(scope="module")
def story(drill: Drill) -> Story:
    """All faults in one run."""
    blocked = drill.pictures(EXITS)[-1].parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("not a directory")
    for name in drill.images(MEMORY)["path"][:6]:
        enlarge(drill.root / name)
    images = drill.images(CORRUPT)
    study = images.loc[images["study_id"] == images["study_id"].iloc[-1], "path"]
    damaged = {drill.root / path: (drill.root / path).read_bytes() for path in study}
    for path, whole in damaged.items():
        path.write_bytes(whole[: len(whole) // 2])
    for fault in HELD:
        hold(drill.pictures(fault)[-1])

    # One job per node, so that a node's death ends one of them.
    run = drill.workflow.start(
        "convert", "--retries", "1",
        "--set-resources", f"convert_shard:mem_mb={MEMORY_MB}*attempt", "convert_shard:slurm_extra='--exclusive'",
    )  # fmt: skip
    with seen_over_its_memory(drill, run):
        run.wait_until(lambda: all(drill.is_held(fault) for fault in HELD), "four jobs hang before their last picture")
        # A job submitted in the second before slurmctld is killed would be lost with it.
        run.wait_until(
            lambda: all(drill.waits_or_was_retried(fault) for fault in (EXITS, MEMORY)), "nothing is to be submitted"
        )
        before = {fault: drill.jobs(fault)[0].number for fault in HELD}
        running = json.loads(drill.workflow.mammoflow("status", "--json"))["cmmd"]

        drill.cluster.playground("restart")
        drill.cluster.command("scontrol", "update", f"JobId={before[TIME]}", "TimeLimit=1")
        victim = drill.jobs(NODE)[0].nodes[0]
        drill.cluster.playground("power-off", victim)
        drill.cluster.command("scancel", str(before[CANCELLED]))
        let_go(drill.pictures(SPARED)[-1])
        for fault in (TIME, NODE, CANCELLED):
            drill.pictures(fault)[-1].unlink()  # for those who come; who hangs on it hangs on
        status = run.finish()
    drill.cluster.playground("node", victim)
    return Story(status, run.said(), running, victim, before, damaged, blocked, drill.cluster.last_number())


def test_status_shows_what_runs_and_where(drill: Drill, story: Story) -> None:
    jobs = {job["shard"]: job for job in story.running["jobs"] if job["state"] == "running"}
    for fault in HELD:
        job = jobs[drill.shards[fault]]
        assert job["slurm_job"] == str(story.before_restart[fault])
        assert job["node"] == drill.jobs(fault)[0].nodes[0]
        assert job["total"] == len(drill.images(fault))
    assert story.running["shards_running"] >= len(HELD)


def test_a_shard_that_fails_is_named_with_its_log_and_stops_no_other(drill: Drill, story: Story) -> None:
    assert story.status == 1
    assert drill.states(EXITS) == ["FAILED", "FAILED"]
    shard = drill.shards[EXITS]
    blocks = [
        block for block in story.said.split("Error in rule ")[1:] if f"results/cmmd/convert/{shard}.parquet" in block
    ]
    assert blocks
    assert f"results/logs/convert/cmmd/{shard}.log" in blocks[0]
    assert str(story.blocked.relative_to(drill.workflow.directory)) in drill.log(EXITS)
    assert not drill.ledger(EXITS).exists()
    for fault in range(SHARDS):
        assert drill.ledger(fault).exists() == (fault != EXITS)


def test_too_little_memory_is_doubled(drill: Drill, story: Story) -> None:
    first, second = drill.jobs(MEMORY)
    assert (first.state, second.state) == ("FAILED", "COMPLETED")
    assert (first.memory, second.memory) == (f"{MEMORY_MB}M", f"{2 * MEMORY_MB}M")
    again = counts(drill, MEMORY)
    assert again["done"] >= 1
    assert again["done"] + again["reused"] == len(drill.images(MEMORY))
    assert again["failed"] == 0


def test_over_its_time_a_shard_is_tried_again(drill: Drill, story: Story) -> None:
    assert drill.states(TIME) == ["TIMEOUT", "COMPLETED"]
    assert counts(drill, TIME) == {"done": 1, "reused": len(drill.images(TIME)) - 1, "failed": 0}


def test_with_its_node_dead_a_shard_goes_on_elsewhere(drill: Drill, story: Story) -> None:
    first, second = drill.jobs(NODE)
    assert (first.state, second.state) == ("NODE_FAIL", "COMPLETED")
    assert first.nodes == (story.victim,)
    assert story.victim not in second.nodes
    assert counts(drill, NODE) == {"done": 1, "reused": len(drill.images(NODE)) - 1, "failed": 0}


def test_a_cancelled_job_is_submitted_again(drill: Drill, story: Story) -> None:
    assert drill.states(CANCELLED) == ["CANCELLED", "COMPLETED"]
    assert counts(drill, CANCELLED) == {"done": 1, "reused": len(drill.images(CANCELLED)) - 1, "failed": 0}


def test_a_restart_of_slurmctld_costs_nothing(drill: Drill, story: Story) -> None:
    (only,) = drill.jobs(SPARED)
    assert (only.number, only.state) == (story.before_restart[SPARED], "COMPLETED")
    assert counts(drill, SPARED) == {"done": len(drill.images(SPARED)), "reused": 0, "failed": 0}


def test_a_corrupt_study_is_rows_of_the_ledger(drill: Drill, story: Story) -> None:
    assert drill.states(CORRUPT) == ["COMPLETED"]
    rows = tables.read(drill.ledger(CORRUPT), "convert_ledger")
    assert (rows["status"] == "failed").sum() == len(story.damaged)
    assert counts(drill, CORRUPT)["failed"] == len(story.damaged)


@dataclass(frozen=True)
class Repair:
    """The rerun after the repairs."""

    said: str
    stopped: dict[str, Any]  # `status --json` before it
    ledgers: list[str]  # what `failed-shards` named
    kept: dict[Path, int]  # picture -> time of change before it
    missing: int  # pictures of the shard that failed


@pytest.fixture(scope="module")
def repair(drill: Drill, story: Story) -> Repair:
    """Mend the store and the study, and call Snakemake again."""
    stopped = json.loads(drill.workflow.mammoflow("status", "--json"))["cmmd"]
    ledgers = drill.workflow.mammoflow("failed-shards", "cmmd").split()
    story.blocked.unlink()
    for path, whole in story.damaged.items():
        path.write_bytes(whole)
    kept = {path: path.stat().st_mtime_ns for path in (drill.workflow.directory / "store").rglob("[!.]*.png")}
    missing = sum(path not in kept for path in drill.pictures(EXITS))
    said = drill.workflow.run("cmmd", "--forcerun", *ledgers)
    return Repair(said, stopped, ledgers, kept, missing)


def test_status_tells_the_reasons(drill: Drill, story: Story, repair: Repair) -> None:
    assert (repair.stopped["shards_done"], repair.stopped["shards_stopped"]) == (SHARDS - 1, 1)
    (job,) = repair.stopped["jobs"]
    assert job["shard"] == drill.shards[EXITS]
    assert job["state"] == "failed"
    assert str(story.blocked.relative_to(drill.workflow.directory)) in job["reason"]
    assert repair.stopped["failed"] == len(story.damaged)
    assert list(repair.stopped["reasons"]) == ["TruncatedPixelData"]


def test_a_rerun_does_exactly_what_is_missing(drill: Drill, story: Story, repair: Repair) -> None:
    assert repair.ledgers == [str(drill.ledger(CORRUPT).relative_to(drill.workflow.directory))]
    submitted = {job.comment for number, job in drill.cluster.look().items() if number > story.last_job}
    converted = {f"rule_convert_shard_wildcards_cmmd_{drill.shards[fault]}" for fault in (EXITS, CORRUPT)}
    assert submitted == {*converted, "rule_write_manifest_wildcards_cmmd"}
    assert counts(drill, CORRUPT) == {
        "done": len(story.damaged), "reused": len(drill.images(CORRUPT)) - len(story.damaged), "failed": 0,
    }  # fmt: skip
    images = len(drill.images(EXITS))
    assert 0 < repair.missing < images
    assert counts(drill, EXITS) == {"done": repair.missing, "reused": images - repair.missing, "failed": 0}
    assert all(path.stat().st_mtime_ns == time for path, time in repair.kept.items())


def test_nothing_is_lost_or_twice_and_the_pictures_are_those_of_an_undisturbed_conversion(
    drill: Drill, repair: Repair, tmp_path: Path
) -> None:
    rows = pd.concat([tables.read(drill.ledger(fault), "convert_ledger") for fault in range(SHARDS)])
    listed = tables.read(drill.workflow.directory / "results/cmmd/inventory/images.parquet", "images")
    assert sorted(rows["image_id"]) == sorted(listed["image_id"])
    assert (rows["status"] == "ok").all()
    assert len(pd.read_csv(drill.workflow.directory / "results/cmmd/quarantine.csv")) == 0
    assert len(tables.read(drill.workflow.directory / "results/cmmd/manifest.parquet", "manifest")) == len(listed)

    section = settings.parse_section("convert", json.dumps(SECTIONS["convert"]))
    undisturbed = convert_images("cmmd", from_frame(listed), drill.root, tmp_path, section, threads=2)
    found = (drill.workflow.directory / "store").rglob("[!.]*.png")
    assert sorted(str(path.relative_to(drill.workflow.directory / "store")) for path in found) == sorted(
        row["path"] for row in undisturbed
    )
    for row in undisturbed:
        here, there = drill.workflow.directory / "store" / row["path"], tmp_path / row["path"]
        assert here.read_bytes() == there.read_bytes()


def test_after_the_death_of_snakemake_itself_the_jobs_go_on_and_a_restart_adds_the_rest(
    listed: Drill, tmp_path: Path
) -> None:
    """One orphan ends while nobody watches, the other still works when its shard is submitted anew."""
    ends, works = SPARED, TIME
    drill = listed.copy(tmp_path / "copy")
    targets = [str(drill.ledger(fault).relative_to(drill.workflow.directory)) for fault in (ends, works)]
    last = {fault: drill.pictures(fault)[-1] for fault in (ends, works)}
    for picture in last.values():
        hold(picture)
    orphan_hangs_on = tmp_path / "fifo"
    os.link(last[works], orphan_hangs_on)

    first = drill.workflow.start(*targets)
    first.wait_until(lambda: all(drill.is_held(fault) for fault in last), "both jobs hang")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    orphans = {fault: drill.jobs(fault)[-1].number for fault in last}
    let_go(last[ends])
    wait_until(lambda: drill.states(ends)[-1] == "COMPLETED", "the orphan ends by itself")
    last[works].unlink()

    assert "--unlock" in drill.workflow.run(*targets, expect=1)
    drill.workflow.run("--unlock")
    drill.workflow.run(*targets)
    assert [job.number for job in drill.jobs(ends)][-1] == orphans[ends], "a finished shard was submitted again"
    assert counts(drill, ends) == {"done": len(drill.images(ends)), "reused": 0, "failed": 0}
    assert drill.states(works)[-2:] == ["RUNNING", "COMPLETED"]
    assert counts(drill, works) == {"done": 1, "reused": len(drill.images(works)) - 1, "failed": 0}

    # The late orphan writes the same picture and the same ledger once more, whole, over the whole ones.
    rows = tables.read(drill.ledger(works), "convert_ledger")
    picture = last[works].read_bytes()
    let_go(orphan_hangs_on)
    wait_until(lambda: drill.states(works)[-2:] == ["COMPLETED", "COMPLETED"], "the late orphan ends")
    late = tables.read(drill.ledger(works), "convert_ledger")
    assert late.drop(columns="seconds").equals(rows.drop(columns="seconds"))
    assert last[works].read_bytes() == picture
    assert not list((drill.workflow.directory / "store").rglob(".*.tmp"))


def counts(drill: Drill, fault: int) -> dict[str, int]:
    """What the last job of a shard says it did: images done, reused and failed."""
    words = re.findall(r"convert cmmd \S+: done=(\d+) reused=(\d+) failed=(\d+) \(", drill.log(fault))
    return dict(zip(("done", "reused", "failed"), map(int, words[-1]), strict=True))
