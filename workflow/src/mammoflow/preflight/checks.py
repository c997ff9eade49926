"""The single checks; each returns findings and changes nothing."""

import getpass
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mammoflow.preflight import filesystem, slurm
from mammoflow.preflight.findings import Finding, fail, ok, warn
from mammoflow.preflight.profile import REPOSITORY, Profile
from mammoflow.preflight.runtimes import read_rules

OWN_MEMORY_MB = 350  # two Snakemake processes live inside each job
PACKAGES = ("snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep")


def packages() -> list[Finding]:
    """Snakemake and its executor plugin, in the Python that runs this."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        cure = f"{sys.executable} -m pip install -r requirements/workflow.txt"
        return [fail(f"not installed: {', '.join(missing)}", cure)]
    return [ok(", ".join(found))]


def profile_sense(profile: Profile) -> list[Finding]:
    """What SLURM would not complain of, but the run would suffer from."""
    findings = []
    if not profile.settings.get("slurm-no-requeue"):
        cure = "set `slurm-no-requeue: true`; Snakemake then submits the job of a dead node again"
        findings.append(warn("SLURM may requeue jobs behind the executor's back", cure))
    rules = {rule.name for rule in read_rules()}
    for rule, resources in profile.jobs.items():
        where = f"set-resources.{rule}" if rule else "default-resources"
        if rule and rule not in rules and not rule.startswith("deal_"):
            findings.append(warn(f"{where}: the workflow has no such rule", "correct the name"))
        memory = str(resources.get("mem_mb", ""))
        if memory.isdigit() and int(memory) < OWN_MEMORY_MB:
            cure = f"ask for {OWN_MEMORY_MB} MB or more: Snakemake itself needs that inside each job"
            findings.append(fail(f"{where}.mem_mb is {memory}", cure))
        findings += [
            fail(f"{where}.{trap} never reaches sbatch", "write `gres: \"'gpu:1'\"` instead")
            for trap in ("gpus", "nvidia_gpu")
            if trap in resources
        ]
    return findings


def ask(profile: Profile) -> dict[str, slurm.Answer]:
    """All questions to SLURM at once."""
    user = getpass.getuser()
    answers = slurm.ask_all(
        {
            "sinfo": slurm.SINFO,
            "squeue": ["squeue", "--noheader", "--user", user],
            "sacct": ["sacct", "--noheader", "--allocations", "--parsable2", "--starttime=now"],
            "config": ["scontrol", "show", "config"],
            "associations": ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,partition,qos"],
            "qos": ["sacctmgr", "-nP", "show", "qos", "format=name"],
        }
    )
    there = shutil.which("sbatch") is not None
    return {**answers, "sbatch": slurm.Answer(there, "", "" if there else "sbatch is not installed")}


def programs(answers: dict[str, slurm.Answer]) -> list[Finding]:
    """The clients are there and the controller answers them."""
    absent = [name for name in ("sbatch", "squeue", "sinfo") if "is not installed" in answers[name].error]
    if absent:
        return [fail(f"not on PATH: {', '.join(absent)}", "log in to the cluster, or `module load slurm`")]
    findings = []
    for name in ("sinfo", "squeue"):
        if not answers[name].good:
            cure = "run this on a login node; ask your administrators whether slurmctld is up"
            findings.append(fail(f"{name} does not answer ({answers[name].error})", cure))
    if findings:
        return findings[:1]  # one controller, one reason
    settings = slurm.read_config(answers["config"].text)
    return [ok(f"SLURM {settings.get('SLURM_VERSION', '')} of cluster {settings.get('ClusterName', '?')} answers")]


def partitions(answers: dict[str, slurm.Answer], profile: Profile) -> list[Finding]:
    """The partitions that the profile names exist, are up, hold usable nodes and the GPUs."""
    known = slurm.read_partitions(answers["sinfo"].text)
    listed = ", ".join(sorted(known))
    wanted = profile.values("slurm_partition")
    gpus = profile.gpus_by_partition()
    findings = []
    if not wanted and not any(partition.default for partition in known.values()):
        findings.append(fail("no partition is named and the cluster has no default", f"choose one of {listed}"))
    for name in sorted(wanted):
        if name not in known:
            findings.append(fail(f"partition {name} does not exist", f"edit {profile.path}: the cluster has {listed}"))
            continue
        partition = known[name]
        nodes = f"partition {name}: {partition.usable} of {partition.nodes} nodes usable"
        if not partition.up or not partition.usable:
            findings.append(fail(f"{nodes}{'' if partition.up else ', partition down'}", f"wait, or choose: {listed}"))
            continue
        lacking = _lacking(gpus.get(name, {}), partition.gpus)
        if lacking:
            has = ", ".join(f"gpu:{kind + ':' if kind else ''}{n}" for kind, n in partition.gpus.items()) or "none"
            findings.append(fail(f"partition {name} has no node with {lacking} (it has {has})", f"edit {profile.path}"))
        else:
            asked = ", ".join(f"gpu:{kind + ':' if kind else ''}{n}" for kind, n in gpus.get(name, {}).items())
            findings.append(ok(nodes + (f", with {asked}" if asked else "")))
    return findings


def _lacking(asked: dict[str, int], there: dict[str, int]) -> str:
    for kind, count in asked.items():
        if (there.get(kind, 0) if kind else max([0, *there.values()])) < count:
            return f"{count} {kind or 'GPU'}{'s' if count > 1 else ''}"
    return ""


def accounting(answers: dict[str, slurm.Answer], profile: Profile) -> list[Finding]:
    """Whether the executor can learn the state of its jobs: with sacct and no accounting it waits for ever."""
    if profile.status_command == "sacct":
        if answers["sacct"].good:
            return [ok("sacct answers: job states come from accounting")]
        # The shipped profile takes its value from the environment; one of a user's own has it in the file.
        cure = (
            "`export MAMMOFLOW_SLURM_STATUS=squeue`, or set `slurm-status-command: squeue` in a profile of your own: "
            "else Snakemake waits for ever"
        )
        return [fail(f"sacct does not answer ({answers['sacct'].error})", cure)]
    settings = slurm.read_config(answers["config"].text)
    age = re.match(r"\d+", settings.get("MinJobAge", ""))
    initial = int(profile.settings.get("slurm-init-seconds-before-status-checks", 40))
    if age and int(age[0]) < 3 * initial and not answers["sacct"].good:
        cure = f"set `slurm-init-seconds-before-status-checks: {max(1, int(age[0]) // 3)}`"
        text = f"squeue forgets finished jobs after {age[0]} s, less than three status checks of {initial} s"
        return [fail(text, cure)]
    return [ok(f"job states come from squeue; sacct {'answers too' if answers['sacct'].good else 'is not needed'}")]


def account(answers: dict[str, slurm.Answer], profile: Profile) -> list[Finding]:
    """Account and quality of service, as far as accounting tells."""
    named = profile.values("slurm_account")
    enforced = slurm.read_config(answers["config"].text).get("AccountingStorageEnforce", "")
    if not answers["associations"].good:
        if named:
            return [warn(f"account {', '.join(sorted(named))} cannot be checked", "accounting does not answer")]
        return [ok("no account is named, and accounting knows none")] if "assoc" not in enforced else []
    mine = sorted({row[0] for row in slurm.read_rows(answers["associations"].text) if row[0]})
    findings = []
    for name in sorted(named):
        if mine and name not in mine:
            findings.append(fail(f"account {name} is not yours", f"edit {profile.path}: {', '.join(mine)}"))
        else:
            findings.append(ok(f"account {name}"))
    if not named and "associations" in enforced and len(mine) > 1:
        cure = f"name one in {profile.path}: {', '.join(mine)}"
        findings.append(warn("no account is named: your default one pays", cure))
    if not mine and "associations" in enforced:
        findings.append(fail("you have no account on this cluster", "ask your administrators for one"))
    known = {row[0] for row in slurm.read_rows(answers["qos"].text)} if answers["qos"].good else set()
    findings += [
        fail(f"qos {name} does not exist", f"edit {profile.path}: {', '.join(sorted(known))}")
        for name in sorted(profile.values("qos") | profile.values("slurm_qos"))
        if known and name not in known
    ]
    return findings


def directories(config: dict[str, Any], proven: dict[str, bool]) -> list[Finding]:
    """Whether other nodes can see the store, the results, the archives and the workflow itself.

    ``proven``: name of a directory -> whether jobs on nodes saw it; without those that no job looked at.
    """
    places = {"store": config["store"], "results": config["results"], "data": config["data"], "workflow": REPOSITORY}
    grouped: dict[tuple[filesystem.Mount, bool | None], list[str]] = {}
    for name, place in places.items():
        key = filesystem.mount_of(Path(place)), proven.get(name)
        grouped.setdefault(key, []).append(f"{name} ({place})")
    findings = []
    for (mount, seen), names in grouped.items():
        where = f"on {mount.kind} at {mount.point}: {', '.join(names)}"
        if mount.shared or seen:
            findings.append(ok(f"{where}; nodes see it" if seen else where))
        elif mount.kind in filesystem.PRIVATE and seen is None:
            findings.append(fail(f"{where}; no other node sees that", "use your cluster's shared filesystem"))
        else:
            cure = "where nodes do not see it, use a shared filesystem; --node-test tells"
            findings.append(warn(f"{where}; that is usually one machine's own", cure))
    return findings
