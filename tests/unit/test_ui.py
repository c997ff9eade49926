"""What stands behind the page: fields, configuration and command, the detached job, what the views show."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.imaging import png
from mammoflow.report.collect import read_cohort
from mammoflow.ui import command, fields, plan, quality, splits
from mammoflow.ui.job import Job, environment
from mammoflow.ui.project import WORKFLOW, Project
from mammoflow.ui.steps import begin, next_step
from waiting import wait_until

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}
EVIL = [
    "; rm -rf /", "$(reboot)", "`id`", "a b", "../..", "..", "/etc", "a/../b", "<b>x</b>", "--flag", "-x", "a\nb",
    "a\0b", "'", '"', "a|b", "a&b", "%2e%2e", "~root",
]  # fmt: skip


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, tmp_path / "config" / "page.yaml")


@pytest.fixture(scope="module")
def tree(two_runs):
    """A project over a finished results tree."""
    root = two_runs["config"][0].parents[1]
    path = root / "page.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"cbis_ddsm": {}, "mias": {}}}))
    return Project(root, path)


# --- fields -----------------------------------------------------------------------------------------------------------


def test_patients_are_ids():
    assert fields.patients("D1-0001, P_00001\nD1-0001") == ["D1-0001", "P_00001"]
    assert fields.patients("  ") == []


@pytest.mark.parametrize("text", [word for word in EVIL if word not in ("a b", "a\nb")])
def test_patients_that_are_no_ids_are_refused(text):
    with pytest.raises(UserError, match="no PatientID"):
        fields.patients(text)


@pytest.mark.parametrize("text", [*EVIL, "", "Upper", "x" * 65])
def test_names_that_are_no_names_are_refused(text):
    with pytest.raises(UserError, match="no name"):
        fields.name(text, "Run")


@pytest.mark.parametrize("text", [word for word in EVIL if word not in ("a b",)] + ["", "/", "a//b", "a/..", "a/b..c"])
def test_folders_outside_are_refused(text, tmp_path):
    with pytest.raises(UserError, match="no folder below"):
        fields.folder(text, tmp_path)


def test_folders_below_are_taken(tmp_path):
    assert fields.folder("all MIAS/v1.0", tmp_path) == "all MIAS/v1.0"


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "file:///etc/passwd", "http://", "//x", "http://a b", "http://a/`id`", "http://[x",
             "http://h:99999", "ftp://h/x", "s3://bucket", "http://a/<script>", *EVIL],
)  # fmt: skip
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="no address"):
        fields.address(text, "Address")


def test_addresses_hold_no_account():
    with pytest.raises(UserError, match="account"):
        fields.address("https://me:secret@host.org/x", "Address")
    assert (
        fields.address(" https://host.org:8443/nbia-api/services/v4 ", "A")
        == "https://host.org:8443/nbia-api/services/v4"
    )
    assert fields.address("", "Address") is None


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40))
def test_plain_text_shows_just_its_characters(text):
    """By CommonMark's own parser: one paragraph of text, no link, picture, HTML or emphasis."""
    from markdown_it import MarkdownIt

    shown = fields.plain(f"x{text}x")
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(shown)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    kinds = {child.type for child in tokens[1].children}
    assert kinds <= {"text", "text_special", "softbreak", "hardbreak"}, (shown, kinds)


# --- configuration and command ----------------------------------------------------------------------------------------


def test_configuration_is_validated_before_it_is_written(project):
    with pytest.raises(UserError, match=r"page\.yaml\.runs\.a\.epochs"):
        project.save({"datasets": {"mias": {}}, "runs": {"a": {"cohort": "a", "epochs": 0}}})
    with pytest.raises(UserError, match="not in cohorts"):
        project.save({"runs": {"a": {"cohort": "nowhere"}}})
    assert not project.config_path.exists()


def test_what_the_page_does_not_know_is_kept(project):
    project.config_path.parent.mkdir()
    project.config_path.write_text("labels: {birads3: benign}\ndatasets: {cmmd: {shards: 5, exclude: [a]}}\n")
    config = plan.with_archive(project.written(), "cmmd", 5202)
    config = plan.with_run(config, "first", ["cmmd"], 3, SPLITS, 512, plan.PRESETS["quick"].run)
    project.save(config)
    assert project.written()["labels"] == {"birads3": "benign"}
    entry = project.config()["datasets"]["cmmd"]
    assert (entry["shards"], entry["exclude"], entry["collect"]) == (5, ["a"], None)
    assert project.config()["runs"]["first"]["epochs"] == 8
    assert project.config()["cohorts"]["first"]["folds"] == 3


@pytest.mark.parametrize(("images", "shards"), [(0, 1), (300, 1), (301, 2), (54706, 183)])
def test_shards_follow_the_number_of_images(images, shards):
    assert plan.with_archive({}, "rsna", images)["datasets"]["rsna"]["shards"] == shards


def test_a_run_needs_an_archive():
    with pytest.raises(UserError, match="at least one archive"):
        plan.with_run({}, "first", [], 2, SPLITS, 384, {})
    assert plan.supervised(["cmmd", "tcga_brca"]) == ["cmmd"]


def test_broken_configuration_is_told(project):
    project.config_path.parent.mkdir()
    for text in ("a: [", "- 1"):
        project.config_path.write_text(text)
        with pytest.raises(UserError, match="mend or delete it"):
            project.config()


def test_command_is_a_list_that_snakemake_understands(project):
    project.save(plan.with_archive({}, "cmmd", 10))
    words = plan.command(project, "manifests", 2)
    assert words[:3] == [sys.executable, "-m", "snakemake"]
    assert words[-1] == "manifests"
    assert shlex.split(shlex.join(words)) == words
    assert "--profile" in plan.command(project, "all", 2, "slurm")
    for target, profile in (("all; reboot", None), ("all", "../x"), ("--unlock", None)):
        with pytest.raises(UserError):
            plan.command(project, target, 2, profile)


def test_new_files_make_the_inventory_run_again(project):
    project.save(plan.with_archive({}, "cmmd", 10))
    listed = project.results / "cmmd" / "inventory" / "images.parquet"
    collected = project.archive_root("cmmd") / "collected.json"
    for path, seconds in ((listed, 1000), (collected, 2000)):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    words = plan.command(project, "manifests", 1)
    assert words[words.index("--forcerun") + 1] == "results/cmmd/inventory/images.parquet"
    os.utime(listed, (3000, 3000))
    assert "--forcerun" not in plan.command(project, "manifests", 1)


@pytest.mark.workflow
def test_dry_run_lists_the_jobs(project):
    project.save(plan.with_archive({}, "cmmd", 10))
    words = plan.command(project, "manifests", 1)
    assert "convert_shard" in plan.dry_run(words, project)
    assert not project.results.exists()


# --- the job ----------------------------------------------------------------------------------------------------------


def script(text):
    return [sys.executable, "-c", text]


def test_job_writes_its_log_and_end(tmp_path):
    job = Job(tmp_path / "job")
    assert job.state().status == "new"
    job.start(script("print('Job 3: Convert mias'); print('3 of 12 steps (25%) done')"), tmp_path)
    wait_until(lambda: job.state().status == "done")
    state = job.state()
    assert (state.steps_done, state.steps, state.now, state.exit_status) == (3, 12, "Convert mias", 0)
    assert job.last_lines(1) == "3 of 12 steps (25%) done"


def test_failed_job_says_so(tmp_path):
    job = Job(tmp_path / "job")
    job.start(script("raise SystemExit(3)"), tmp_path)
    wait_until(lambda: job.state().status == "failed")
    assert job.state().exit_status == 3


def test_job_outlives_who_started_it_and_keeps_others_out(tmp_path):
    gate = tmp_path / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\nprint('through')"
    starter = (
        "import sys; from pathlib import Path; from mammoflow.ui.job import Job;"
        f"Job(Path({str(tmp_path / 'job')!r})).start([sys.executable, '-c', {waiting!r}], Path({str(tmp_path)!r}))"
    )
    source = str(WORKFLOW / "workflow" / "src")
    subprocess.run(script(starter), check=True, env={**os.environ, "PYTHONPATH": source})
    job = Job(tmp_path / "job")  # as a page that was opened anew
    assert job.state().status == "running"
    with pytest.raises(UserError, match="is running"):
        job.start(script("pass"), tmp_path)
    gate.touch()
    wait_until(lambda: job.state().status == "done")
    assert job.last_lines() == "through"


def test_job_is_stopped_as_by_ctrl_c(tmp_path):
    job = Job(tmp_path / "job")
    lines = [
        "import time",
        "try:",
        " print('up', flush=True)",
        " time.sleep(600)",
        "except KeyboardInterrupt: print('bye')",
    ]
    job.start(script("\n".join(lines)), tmp_path)
    wait_until(lambda: "up" in job.last_lines())
    job.stop()
    wait_until(lambda: job.state().status == "stopped")
    assert "bye" in job.last_lines()
    job.start(script("pass"), tmp_path)  # an old wish to stop is forgotten
    wait_until(lambda: job.state().status == "done")


def test_killed_job_is_broken_only_when_its_command_is_gone(tmp_path):
    """The supervisor is killed; the command lives on and keeps the lock; then it is killed too."""
    job = Job(tmp_path / "job")
    job.start(script("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"), tmp_path)
    wait_until(lambda: job.last_lines())
    child, supervisor = map(int, job.last_lines().split())
    os.kill(supervisor, signal.SIGKILL)
    assert job.busy()
    assert job.state().status == "running"
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: job.state().status == "broken")


def test_nothing_typed_reaches_a_shell(tmp_path):
    job = Job(tmp_path / "job")
    job.start([*script("import sys; print(sys.argv[1:])"), "; touch pwned", "$(touch pwned)"], tmp_path)
    wait_until(lambda: job.state().status == "done")
    assert job.last_lines() == "['; touch pwned', '$(touch pwned)']"
    assert not (tmp_path / "pwned").exists()


def test_the_page_s_key_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("MAMMOFLOW_PAGE_KEY", "secret")
    assert "secret" not in environment().values()


# --- what the views show ----------------------------------------------------------------------------------------------


def test_quality_counts_against_expected(tree):
    found = quality.quality(tree.results, "mias", tree.archive_root("mias"))
    summary = json.loads((tree.results / "mias" / "summary.json").read_text())
    assert ("patients", 161, summary["patients"]) in found.counts
    assert found.errors == {"DecodeError": 3}
    assert found.left_out == summary["exclude_reasons"]
    assert found.labels["malignant"] == summary["labels"]["1"]
    assert found.checked
    assert not found.good


def test_published_counts_are_no_measure_of_a_part(tree, tmp_path):
    (tmp_path / "collected.json").write_text(json.dumps({"request": {"max_gb": 1.0}, "file_count": 7}))
    found = quality.quality(tree.results, "mias", tmp_path)
    assert found.part
    assert ("files collected", None, 7) in found.counts
    assert all(expected is None for what, expected, _ in found.counts if what == "patients")


def test_reasons_in_words():
    assert "file is not there" in quality.reason_in_words("missing_file")
    assert quality.reason_in_words("no_label:birads3").endswith("(birads3)")
    assert quality.reason_in_words("something_new") == "something_new"


def test_pictures_carry_their_boxes(tree, tmp_path):
    cohort = read_cohort(tree.results / "cohorts" / "pooled")
    for name, table in (("manifest", cohort.manifest), ("findings", cohort.findings)):
        tables.write(table[table["dataset"] == "mias"], tmp_path / "mias" / f"{name}.parquet")
    shown = quality.pictures(tmp_path, "mias", tree.store, 3)
    assert len(shown) == 3
    for picture, caption in shown:
        assert (picture == quality.BOX_RGB).all(axis=2).any()
        assert "1 marked" in caption
    assert len({caption.split()[0] for _, caption in shown}) == 3  # one image a patient
    assert quality.pictures(tmp_path, "cmmd", tree.store) == []


def test_thumbnail_draws_the_box_where_it_is(tmp_path):
    path = tmp_path / "image.png"
    png.write(path, np.full((640, 480), 20000, np.uint16))
    picture = quality.thumbnail(path, np.array([[100.0, 200.0, 300.0, 400.0]]))
    assert picture.shape == (320, 240, 3)
    coloured = np.argwhere((picture == quality.BOX_RGB).all(axis=2))
    assert np.abs(coloured.min(axis=0) - [100, 50]).max() <= 1  # (y, x), half of the working pixels
    assert np.abs(coloured.max(axis=0) - [200, 150]).max() <= 1
    assert picture[10, 10].tolist() == [78, 78, 78]  # 20000 >> 8
    assert quality.thumbnail(tmp_path / "absent.png", np.empty((0, 4))) is None


def test_sizes_and_audit_of_a_split(tree):
    cohort = read_cohort(tree.results / "cohorts" / "pooled")
    table = splits.sizes(cohort.manifest).set_index("split")
    part = cohort.manifest[cohort.manifest["exclude_reason"].isna()]
    assert table["images"].sum() == len(part)
    assert table.loc["test", "patients"] == part.loc[part["split"] == "test", "group_id"].nunique()
    assert splits.verdict(cohort.audit) == "no patient, file or picture stands on two sides"
    assert splits.verdict({**cohort.audit, "ok": False, "checks": [{"leaks": 2}]}).startswith("2 leaks")
    assert splits.verdict({}) == "not audited"
    assert len(splits.audit_table(cohort.audit)) == len(cohort.audit["checks"])
    assert [one.name for one in splits.cohorts(tree.results)] == ["pooled"]


def test_balance_shows_the_worst_first():
    rows = [("a", 5.0, 4.9), ("b", 9.0, 1.0), ("c", 2.0, 0.0)]
    balance = pd.DataFrame([
        {"attribute": "x", "value": value, "total": 9, "share_train": 0.7, "share_val": 0.1, "share_test": 0.2,
         "deviation_points": points, "attainable_points": best} for value, points, best in rows
    ])  # fmt: skip
    assert splits.worst_balance(balance, 2)["value"].tolist() == ["b", "c"]


def test_next_step_leads_through(project):
    assert next_step(project)[0] == "collect"
    project.save(plan.with_archive({}, "cmmd", 10))
    assert next_step(project)[0] == "check"
    hidden = project.archive_root("cmmd") / ".collect"
    hidden.mkdir(parents=True)
    (hidden / "state.json").write_text(json.dumps({"status": "paused", "dataset": "cmmd"}))
    assert next_step(project) == ("collect", "Collecting cmmd stopped before its end (paused). Resume it.")
    (hidden / "state.json").write_text(json.dumps({"status": "done", "dataset": "cmmd"}))
    for name, page in (
        ("cmmd/manifest.parquet", "train"),
        ("runs/first/evaluate/metrics.json", "train"),
        ("report/index.html", "results"),
    ):
        path = project.results / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert next_step(project)[0] == page
    Job(project.state / "run").start(script("raise SystemExit(1)"), project.root)
    wait_until(lambda: next_step(project)[1].startswith("The last run stopped with an error"))


def test_collect_that_ends_before_it_begins_says_why(tmp_path):
    (tmp_path / ".collect" / "lock").mkdir(parents=True)
    with pytest.raises(UserError, match="IsADirectoryError"):
        begin("cmmd", tmp_path, {})


# --- the command ------------------------------------------------------------------------------------------------------


def test_missing_streamlit_is_told_in_one_sentence(monkeypatch, capsys):
    from mammoflow.cli import main

    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["ui"]) == 2
    assert "pip install -c requirements/constraints.txt -r requirements/ui.txt" in capsys.readouterr().err


def test_only_loopback_unless_asked():
    words = command.server_command("127.0.0.1", 8501)
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--server.address"] == "127.0.0.1"
    assert options["--server.enableXsrfProtection"] == "true"
    assert options["--browser.gatherUsageStats"] == "false"
    assert command.is_loopback("::1")
    assert not command.is_loopback("192.0.2.7")
    with pytest.raises(UserError, match="every address"):
        command.is_loopback("0.0.0.0")
    with pytest.raises(UserError, match="IP address"):
        command.is_loopback("example.org; reboot")


def test_taken_port_is_told():
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(UserError, match="--port 0"):
            command.free_port("127.0.0.1", held.getsockname()[1])


def test_start_leaves_no_key_in_the_process_list():
    assert not any("KEY" in word or "key=" in word for word in command.server_command("127.0.0.1", 1))


def test_profiles_are_those_of_the_workflow():
    assert plan.profiles() == ["slurm"]
    assert Path(WORKFLOW / "Snakefile").is_file()
