"""Does each rule's time fit into its partition's limit? SLURM refuses longer jobs, or lets them wait for ever."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mammoflow.preflight import slurm
from mammoflow.preflight.findings import Finding, fail, warn
from mammoflow.preflight.profile import REPOSITORY, Profile
from mammoflow.runtime import LONGEST, minutes_of

_HEADER = re.compile(r'(?:rule|checkpoint) (\w+):|use rule (\w+) as (\w+) with:|\s+f"(deal)_\{dataset_name\}"')
_RUNTIME = re.compile(r"\s+runtime=runtime_minutes\((\d+)\)")


@dataclass(frozen=True)
class Rule:
    """``stage``: its file. ``minutes``: what it asks for at the first attempt; None: the profile's default."""

    name: str
    stage: str
    minutes: int | None


def read_rules() -> list[Rule]:
    """The rules that become jobs, as workflow/rules/*.smk write them; ``deal`` stands for those of each dataset."""
    stages: dict[str, str] = {}
    minutes: dict[str, int] = {}
    bases: dict[str, str] = {}
    for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")):
        name = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if header := _HEADER.match(line):
                plain, base, derived, deal = header.groups()
                name = plain or derived or deal
                stages[name] = path.stem
                if base:
                    bases[name] = base
            elif asked := _RUNTIME.match(line):
                minutes[name] = int(asked[1])
    return [Rule(name, stage, minutes.get(name, minutes.get(bases.get(name, "")))) for name, stage in stages.items()]


def runtimes(answers: dict[str, slurm.Answer], profile: Profile, config: dict[str, Any]) -> list[Finding]:
    """Of each partition the rules that ask for more than it gives: at first a failure, at retries a warning."""
    known = slurm.read_partitions(answers["sinfo"].text)
    default = next((partition.name for partition in known.values() if partition.default), "")
    tries = 1 + int(profile.settings.get("retries") or 0)
    first: dict[str, dict[str, int]] = {}
    later: dict[str, dict[str, int]] = {}
    for rule in _used(read_rules(), config):
        where = str(profile.jobs.get(rule.name, profile.jobs[""]).get("slurm_partition") or default)
        limit = known[where].minutes if where in known else None
        asked = [_minutes(profile, rule, attempt) for attempt in range(1, tries + 1)]
        if limit is None or asked[0] is None:
            continue
        if asked[0] > limit:
            first.setdefault(where, {})[rule.name] = asked[0]
        elif asked[-1] > limit:
            later.setdefault(where, {})[rule.name] = asked[-1]
    findings = []
    for where, rules in first.items():
        limit = known[where].minutes
        cure = f"name a partition with more time, or in {profile.path} set `runtime: {limit}` for {', '.join(rules)} "
        cure += "under `set-resources`"
        cure += "; a training goes on from its last epoch, so raise `retries` too" if "train_fold" in rules else ""
        findings.append(fail(f"partition {where} takes no job of more than {limit} minutes: {_asks(rules)}", cure))
    for where, rules in later.items():
        limit = known[where].minutes
        cure = f"`export {LONGEST}={limit}`, or set it in the profile's block: else such a retry never starts"
        text = f"partition {where} takes no job of more than {limit} minutes: at the last retry {_asks(rules)}"
        findings.append(warn(text, cure))
    return findings


def _used(rules: Iterable[Rule], config: dict[str, Any]) -> list[Rule]:
    """Rules that the configuration needs, with one ``deal_<dataset>`` for each dataset."""
    runs = config["runs"]
    taught = [run for run in runs.values() if run["pseudo_labels"]]
    needs = {"cohort": config["cohorts"], "train": runs, "evaluate": runs, "export": runs, "pseudo": taught}
    wanted = [rule for rule in rules if needs.get(rule.stage, config["datasets"])]
    deals = [Rule(f"deal_{name}", rule.stage, rule.minutes) for rule in wanted if rule.name == "deal"
             for name in config["datasets"]]  # fmt: skip
    return [*(rule for rule in wanted if rule.name != "deal"), *deals]


def _minutes(profile: Profile, rule: Rule, attempt: int) -> int | None:
    """What a job asks for: the profile's word on the rule, else the rule's own, else the profile's default."""
    said = profile.overrides(rule.name).get("runtime")
    if said is None and rule.minutes is not None:
        return minutes_of(rule.minutes, attempt)
    text = str(profile.jobs[""].get("runtime", "") if said is None else said).strip()
    if text.isdecimal():
        return int(text)
    from humanfriendly import InvalidTimespan, parse_timespan  # as Snakemake, with which it comes

    try:
        return round(parse_timespan(text) / 60)
    except InvalidTimespan:
        return None  # a Python expression, which only Snakemake can evaluate


def _asks(rules: dict[str, int]) -> str:
    return ", ".join(f"{name} asks for {minutes}" for name, minutes in rules.items())
