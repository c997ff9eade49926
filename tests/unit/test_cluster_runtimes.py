"""The check before a cluster run: what the rules ask for against the time limits of partitions, and the cap on it."""

import re

import pytest

from mammoflow.errors import UserError
from mammoflow.preflight import runtimes
from mammoflow.preflight.profile import read_profile
from mammoflow.preflight.slurm import Answer
from mammoflow.runtime import minutes_of
from mammoflow.settings import resolve


def timed(tmp_path, limit, overrides="", runs=("a",), retries=0):
    """Findings on run times where ``cpu`` has a limit and ``gpu`` has none, with a profile in a real file."""
    (tmp_path / "profile.yaml").write_text(
        f"executor: slurm\nretries: {retries}\ndefault-resources: {{slurm_partition: cpu, runtime: 60}}\n{overrides}"
    )
    cohorts = {"main": {"datasets": ["mias"]}}
    config = {"datasets": {"mias": {}}, "cohorts": cohorts, "runs": {name: {"cohort": "main"} for name in runs}}
    sinfo = f"cpu*|up|4|idle|{limit}|gpu:2\ngpu|up|4|idle|infinite|gpu:2\n"
    return runtimes.runtimes({"sinfo": Answer(True, sinfo)}, read_profile(str(tmp_path)), resolve(config))


def test_each_rule_is_held_against_the_limit_of_its_partition(tmp_path):
    (found,) = timed(tmp_path, "4:00:00")
    assert found.level == "fail"
    assert found.text == "partition cpu takes no job of more than 240 minutes: train_fold asks for 1440"
    assert timed(tmp_path, "4:00:00", runs=()) == []
    on_gpu = "set-resources: {train_fold: {slurm_partition: gpu}}\n"
    assert timed(tmp_path, "4:00:00", on_gpu) == []
    (found,) = timed(tmp_path, "20:00", runs=())
    for asks in ("convert_shard asks for 120", "deal_mias asks for 30", "freeze_cohort asks for 60"):
        assert asks in found.text


def test_the_advised_run_times_clear_the_finding_on_retries_too(tmp_path):
    (found,) = timed(tmp_path, "1:30:00")
    rules = re.search(r"set `runtime: 90` for ([\w, ]+) under", found.cure)[1].split(", ")
    assert {"convert_shard", "pack_cohort", "train_fold"} <= set(rules)
    overrides = "set-resources:\n" + "".join(f"  {rule}: {{runtime: 90}}\n" for rule in rules)
    assert timed(tmp_path, "1:30:00", overrides) == []
    retried = timed(tmp_path, "1:30:00", overrides, retries=2)
    assert not [rule for rule in rules if f"{rule} asks" in retried[0].text]
    as_words = overrides.replace("runtime: 90", "runtime: 1.5h")
    assert timed(tmp_path, "1:30:00", as_words) == []


def test_retries_that_would_wait_for_ever_are_warned_about_and_the_cap_clears_it(tmp_path, monkeypatch):
    (found,) = timed(tmp_path, "2-00:00:00", retries=2)
    assert (found.level, "at the last retry train_fold asks for 5760" in found.text) == ("warn", True)
    name, value = re.search(r"`export (\w+)=(\d+)`", found.cure).groups()
    monkeypatch.setenv(name, value)
    assert timed(tmp_path, "2-00:00:00", retries=2) == []
    monkeypatch.setenv(name, "two days")
    with pytest.raises(UserError, match="MAMMOFLOW_MAX_RUNTIME is 'two days': give whole minutes"):
        timed(tmp_path, "2-00:00:00")


def test_the_cap_of_the_shipped_profile_reaches_the_rules(tmp_path, repository, monkeypatch):
    monkeypatch.setenv("MAMMOFLOW_MAX_RUNTIME", "")
    monkeypatch.delenv("MAMMOFLOW_MAX_RUNTIME")
    text = (repository / "profiles/slurm/profile.yaml").read_text()
    (tmp_path / "profile.yaml").write_text(
        text.replace('"MAMMOFLOW_MAX_RUNTIME", ""', '"MAMMOFLOW_MAX_RUNTIME", "300"')
    )
    read_profile(str(tmp_path))
    assert [minutes_of(120, attempt) for attempt in (1, 2, 3)] == [120, 240, 300]


def test_every_rule_that_becomes_a_job_has_a_time(repository):
    rules = {rule.name: rule.minutes for rule in runtimes.read_rules()}
    assert None not in rules.values()
    written = "".join(path.read_text() for path in (repository / "workflow" / "rules").glob("*.smk"))
    assert written.count("runtime=runtime_minutes(") == len(rules) - 1  # pack_unlabelled has that of pack_cohort
    assert rules["pack_unlabelled"] == rules["pack_cohort"] == 120
