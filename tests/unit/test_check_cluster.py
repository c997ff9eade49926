"""The check before a cluster run: answers of real SLURM commands, profiles, mounts; the command without a cluster."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mammoflow.cli import main
from mammoflow.errors import UserError
from mammoflow.preflight import checks, filesystem, node, slurm
from mammoflow.preflight.profile import Profile, find_profile, gpus, read_profile
from mammoflow.preflight.slurm import Answer
from mammoflow.settings import read_config

# As printed by SLURM 22.05.8: four nodes with two GPUs each, one of them drained.
SINFO = """\
cpu*|up|1|drained|infinite|gpu:2
cpu*|up|3|idle|infinite|gpu:2
gpu|up|1|drained|infinite|gpu:2
gpu|up|3|idle|infinite|gpu:2
"""
CONFIG = """\
Configuration data as of 2026-11-21T15:55:00
AccountingStorageEnforce = none
ClusterName             = playground
MinJobAge               = 300 sec
SLURM_VERSION           = 22.05.8
"""
NO_ACCOUNTING = Answer(False, "", "Slurm accounting storage is disabled")
NO_SACCTMGR = Answer(False, "", "Only 'accounting_storage/slurmdbd' is supported.")


def answers(**changed):
    good = {
        "sinfo": Answer(True, SINFO), "squeue": Answer(True, ""), "config": Answer(True, CONFIG),
        "sbatch": Answer(True, ""), "sacct": NO_ACCOUNTING, "associations": NO_SACCTMGR, "qos": NO_SACCTMGR,
    }  # fmt: skip
    return {**good, **changed}


def profile(jobs=None, **sections):
    return Profile(Path("p.yaml"), {"executor": "slurm", "slurm-no-requeue": True, **sections}, jobs or {"": {}})


def levels(findings):
    return [found.level for found in findings]


# --- what SLURM says --------------------------------------------------------------------------------------------------


def test_partitions_are_read_with_their_usable_nodes_and_gpus():
    found = slurm.read_partitions(SINFO)
    assert (found["cpu"].nodes, found["cpu"].usable, found["cpu"].default) == (4, 3, True)
    assert (found["gpu"].gpus, found["gpu"].minutes, found["gpu"].default) == ({"": 2}, None, False)


def test_states_with_a_suffix_and_typed_gpus():
    text = (
        "a100|up|8|mixed-|2-00:00:00|gpu:a100:4(S:0-1)\n"
        "a100|up|2|down*|2-00:00:00|(null)\n"
        "old|down|1|idle~|30:00|(null)"
    )
    found = slurm.read_partitions(text)
    assert (found["a100"].usable, found["a100"].gpus, found["a100"].minutes) == (8, {"a100": 4}, 2880)
    assert (found["old"].up, found["old"].usable, found["old"].minutes) == (False, 1, 30)


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:2", {"": 2}), ("gpu:a100:4", {"a100": 4}), ("gpu", {"": 1}), ("(null)", {}), ("", {}),
        ("gpu:a100:4(S:0-1),tmp:10G", {"a100": 4}), ("gpu:a100:2,gpu:v100:1", {"a100": 2, "v100": 1}), ("tmp:1G", {}),
        ("gpu:3090:8", {"3090": 8}), ("gpu:2080ti:4(S:0-1)", {"2080ti": 4}), ("gpu:1g.10gb:7", {"1g.10gb": 7}),
        ("gpu:8(S:0,1),tmp:1G", {"": 8}), ("gpu:1g.10gb", {"1g.10gb": 1}), ("gpu:a100:4(IDX:0,2-3)", {"a100": 4}),
        ("gpu:tesla:no_consume:2", {"tesla": 2}), ("gpumem:80G,'gpu:2'", {"": 2}),
    ],
)  # fmt: skip
def test_gres(gres, expected):
    assert gpus(gres) == expected


@pytest.mark.parametrize(
    ("limit", "minutes"), [("infinite", None), ("2:00:00", 120), ("1-00:30:00", 1470), ("45:00", 45), ("n/a", None)]
)
def test_time_limits(limit, minutes):
    assert slurm.read_minutes(limit) == minutes


# --- findings ---------------------------------------------------------------------------------------------------------


def test_a_partition_or_gpu_that_does_not_exist_is_a_failure_that_names_what_does():
    asks = {"": {"slurm_partition": "cpu"}, "train_fold": {"slurm_partition": "gpu", "gres": "gpu:4"}}
    cpu, gpu = checks.partitions(answers(), profile(asks))
    assert (cpu.level, cpu.text) == ("ok", "partition cpu: 3 of 4 nodes usable")
    assert (gpu.level, gpu.text) == ("fail", "partition gpu has no node with 4 GPUs (it has gpu:2)")
    (typed,) = checks.partitions(answers(), profile({"": {"slurm_partition": "gpu", "gres": "gpu:a100:1"}}))
    assert "no node with 1 a100" in typed.text
    (absent,) = checks.partitions(answers(), profile({"": {"slurm_partition": "long"}}))
    assert (absent.level, absent.cure) == ("fail", "edit p.yaml: the cluster has cpu, gpu")


def test_without_a_named_partition_the_cluster_needs_a_default():
    assert checks.partitions(answers(), profile()) == []
    none = answers(sinfo=Answer(True, SINFO.replace("*", "")))
    assert levels(checks.partitions(none, profile())) == ["fail"]


def test_sacct_without_accounting_would_hang_and_squeue_is_the_cure():
    (hangs,) = checks.accounting(answers(), profile())
    assert hangs.level == "fail"
    assert "`slurm-status-command: squeue`" in hangs.cure
    by_squeue = profile(**{"slurm-status-command": "squeue"})
    assert levels(checks.accounting(answers(), by_squeue)) == ["ok"]
    assert levels(checks.accounting(answers(sacct=Answer(True, "")), profile())) == ["ok"]
    forgets = answers(config=Answer(True, CONFIG.replace("300 sec", "60 sec")))
    (early,) = checks.accounting(forgets, by_squeue)
    assert early.cure == "set `slurm-init-seconds-before-status-checks: 20`"


def test_accounts_are_checked_where_accounting_tells():
    asks = profile({"": {"slurm_account": "mammo", "qos": "fast"}})
    assert levels(checks.account(answers(), asks)) == ["warn"]
    told = {
        "associations": Answer(True, "mammo||normal\nother|gpu|normal,long\n"), "qos": Answer(True, "normal\nlong\n"),
        "config": Answer(True, CONFIG.replace("= none", "= associations,limits")),
    }  # fmt: skip
    account, qos = checks.account(answers(**told), asks)
    assert (account.level, qos.level, qos.text) == ("ok", "fail", "qos fast does not exist")
    (wrong,) = checks.account(answers(**told), profile({"": {"slurm_account": "mine"}}))
    assert wrong.cure == "edit p.yaml: mammo, other"
    assert levels(checks.account(answers(**told), profile())) == ["warn"]
    assert levels(checks.account(answers(**{**told, "associations": Answer(True, "")}), profile())) == ["fail"]


def test_one_reason_for_a_controller_that_is_down():
    down = Answer(False, "", "Unable to contact slurm controller (connect failure)")
    (found,) = checks.programs(answers(sinfo=down, squeue=down))
    assert found.level == "fail"
    absent = Answer(False, "", "sbatch is not installed")
    (found,) = checks.programs(answers(sbatch=absent))
    assert found.text == "not on PATH: sbatch"
    assert levels(checks.programs(answers())) == ["ok"]


def test_a_profile_is_warned_about_what_slurm_would_not_say():
    asks = {"": {"mem_mb": 200}, "train_fld": {}, "train_fold": {"gpus": 1}, "pack_unlabelled": {}, "deal_mias": {}}
    texts = [found.text for found in checks.profile_sense(replace(profile(asks), settings={}))]
    assert texts == [
        "SLURM may requeue jobs behind the executor's back",
        "default-resources.mem_mb is 200",
        "set-resources.train_fld: the workflow has no such rule",
        "set-resources.train_fold.gpus never reaches sbatch",
    ]


def test_the_shipped_profile_makes_sense():
    shipped = read_profile("slurm")
    assert shipped.executor == "slurm"
    assert checks.profile_sense(shipped) == []
    assert shipped.jobs["train_fold"]["mem_mb"] == shipped.jobs[""]["mem_mb"]
    assert sum(shipped.gpus_by_partition()[shipped.jobs["train_fold"]["slurm_partition"]].values()) == 1


def test_profiles_in_either_spelling_with_expressions_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PARTITION", "night")
    (tmp_path / "profile.yaml").write_text(
        "__use_yte__: true\nexecutor: slurm\ndefault-resources: [slurm_partition=$MY_PARTITION, mem_mb=900]\n"
        "set-resources:\n  - \"train_fold:gres='gpu:2'\"\njobs: ?2 * 3\n"
    )
    found = read_profile(str(tmp_path))
    assert found.settings["jobs"] == 6
    assert found.values("slurm_partition") == {"night"}
    assert found.gpus_by_partition() == {"night": {"": 2}}


def test_a_profile_that_is_not_there_or_broken_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no profile 'nowhere'"):
        find_profile("nowhere")
    (tmp_path / "profile.yaml").write_text("executor: [slurm")
    with pytest.raises(UserError, match="cannot be read"):
        read_profile(str(tmp_path))


# --- filesystems ------------------------------------------------------------------------------------------------------


def test_the_deepest_mount_holds_a_directory(tmp_path):
    (tmp_path / "store here").mkdir()
    table = tmp_path / "mountinfo"
    point = str(tmp_path / "store here").replace(" ", "\\040")
    table.write_text(
        "24 1 0:22 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"36 24 0:30 / {point} rw,relatime shared:2 - lustre 10.0.0.1@tcp:/fs rw\n"
        f"37 24 0:31 / {point}d rw - tmpfs tmpfs rw\n"
    )
    mount = filesystem.mount_of(tmp_path / "store here" / "not" / "yet", table)
    assert (mount.kind, mount.shared) == ("lustre", True)
    assert filesystem.mount_of(tmp_path, table).kind == "ext4"


def test_this_machines_own_mounts_are_read():
    assert filesystem.mount_of(Path("/proc")).kind == "proc"


def test_directories_are_judged_by_their_filesystem_or_by_a_node(tmp_path, monkeypatch):
    config = dict.fromkeys(["store", "results", "data"], str(tmp_path))
    seen = dict.fromkeys(["store", "results", "data", "workflow"], True)
    for kind, proven, expected in (
        ("nfs4", {}, "ok"), ("ext4", {}, "warn"), ("ext4", seen, "ok"), ("tmpfs", {}, "fail"),
        ("tmpfs", seen, "ok"),
    ):  # fmt: skip
        monkeypatch.setattr(filesystem, "mount_of", lambda path, kind=kind: filesystem.Mount("/scratch", kind))
        (found,) = checks.directories(config, proven)
        assert found.level == expected


def test_a_job_that_looked_at_the_store_proves_nothing_of_the_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "mount_of", lambda path: filesystem.Mount("/scratch", "tmpfs"))
    config = dict.fromkeys(["store", "results", "data"], str(tmp_path))
    seen, unproven = checks.directories(config, {"store": True, "results": True, "workflow": True})
    assert (seen.level, "data" in seen.text) == ("ok", False)
    assert (unproven.level, "data (" in unproven.text, "store" in unproven.text) == ("fail", True, False)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """This machine as the node: an ``srun`` that starts what it is told to."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "srun"
    path.write_text('#!/bin/sh\nwhile [ "$1" != env ]; do shift; done\nexec "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def node_test(config_path):
    return node.test(profile({"": {"slurm_partition": "cpu"}}), read_config(config_path), wait=5)


def test_a_job_on_a_node_looks_at_store_results_and_archives(config, srun, tmp_path):
    (tmp_path / "data" / "mias").mkdir(parents=True)
    findings, proven = node_test(config)
    assert levels(findings) == ["ok"]
    assert "read and wrote store and results, saw 1 archive" in findings[0].text
    assert proven == {"store": True, "results": True, "workflow": True, "data": True}
    assert not list(tmp_path.rglob(".mammoflow-check*"))


def test_an_archive_that_a_node_does_not_see_is_a_failure(config, srun, tmp_path):
    findings, proven = node_test(config)
    assert levels(findings) == ["fail"]
    assert str(tmp_path / "data" / "mias") in findings[0].text
    assert (proven["store"], proven["data"]) == (True, False)
    text = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**text, "datasets": {"cmmd": {"collect": {}}}}))  # fetched by the run itself
    findings, proven = node_test(config)
    assert levels(findings) == ["ok"]
    assert "data" not in proven


def test_a_store_that_cannot_be_written_is_a_failure_with_its_reason(config, srun, tmp_path):
    (tmp_path / "store").write_text("a file where a directory should be")
    findings, proven = node_test(config)
    assert levels(findings) == ["fail"]
    assert findings[0].text.startswith(f"{tmp_path / 'store'} cannot be written")
    assert proven == {"store": False}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    sections = {name: str(tmp_path / name) for name in ("store", "results", "data")}
    path.write_text(yaml.safe_dump({**sections, "datasets": {"mias": {}}}))
    return path


def test_a_machine_without_slurm_fails_with_the_cure(config, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["check-cluster", "--config", str(config)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok   snakemake ") for line in lines)
    assert "fail not on PATH: sbatch, squeue, sinfo: log in to the cluster, or `module load slurm`" in lines


@pytest.mark.skipif(shutil.which("sinfo") is None, reason="needs SLURM's client programs")
def test_a_controller_that_does_not_answer_fails_with_its_own_words(config, monkeypatch, tmp_path, capsys):
    """Real clients, and a configuration that names a port where nothing listens."""
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nMessageTimeout=2\n"
        "NodeName=n1 CPUs=1\nPartitionName=cpu Nodes=n1\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert main(["check-cluster", "--config", str(config), "--node-test"]) == 1
    output = capsys.readouterr().out
    assert "fail sinfo does not answer" in output
    assert "fail no job was tried on a node" in output


def test_a_profile_of_another_executor_is_a_failure(config, capsys):
    assert main(["check-cluster", "--config", str(config), "--profile", "local"]) == 1
    assert "uses executor local" in capsys.readouterr().out


def test_the_answer_of_a_node(tmp_path, capsys):
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    seen.mkdir()
    (seen / f"{node.NAME}-abc").write_text("abc")
    arguments = ["--on-node", "abc", str(seen), str(unseen), "--archives", str(seen), str(tmp_path / "gone")]
    assert main(["check-cluster", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["unseen"], told["no_directory"]) == ([str(unseen)], [str(tmp_path / "gone")])
    assert "pydicom" in told["versions"]
    assert (seen / f"{node.NAME}-abc").with_suffix(".reply").read_text() == "cba"
