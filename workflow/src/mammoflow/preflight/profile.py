"""What a Snakemake profile asks of the cluster."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mammoflow.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[4]
FILES = ("profile.yaml", "profile.v9+.yaml", "config.v9+.yaml", "config.v8+.yaml", "config.yaml")


@dataclass(frozen=True)
class Profile:
    """``settings``: the whole file. ``jobs``: resources of each rule it names, over the defaults, which are ``""``."""

    path: Path
    settings: dict[str, Any]
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def executor(self) -> str | None:
        return self.settings.get("executor")

    @property
    def status_command(self) -> str:
        """What the executor asks for the state of jobs; it takes sacct wherever the program exists."""
        return self.settings.get("slurm-status-command") or "sacct"

    def values(self, resource: str) -> set[str]:
        """All values of one resource, over all jobs."""
        return {str(job[resource]) for job in self.jobs.values() if job.get(resource)}

    def overrides(self, rule: str) -> dict[str, Any]:
        """What ``set-resources`` says of one rule, which stands over the rule's own; the defaults stand below it."""
        return _by_rule(self.settings.get("set-resources")).get(rule, {})

    def gpus_by_partition(self) -> dict[str, dict[str, int]]:
        """partition -> {GPU type, or "" for any: GPUs per node}."""
        wanted: dict[str, dict[str, int]] = {}
        for job in self.jobs.values():
            for kind, count in gpus(str(job.get("gres") or "")).items():
                partition = wanted.setdefault(str(job.get("slurm_partition") or ""), {})
                partition[kind] = max(count, partition.get(kind, 0))
        return wanted


def gpus(gres: str) -> dict[str, int]:
    """GPUs in a ``gres``: ``gpu:a100:4(S:0-1),tmp:10G`` is {"a100": 4}; type "" where none is named.

    A type may begin with a digit (``gpu:3090:8``, ``gpu:1g.10gb:7``), so only digits alone are a count.
    """
    found: dict[str, int] = {}
    # In brackets: sockets or indices, as sinfo prints them; they hold commas of their own.
    for item in re.sub(r"\([^)]*\)", "", gres).replace("'", "").split(","):
        name, *parts = [part for part in item.strip().split(":") if part != "no_consume"]
        if name != "gpu":
            continue
        count = int(parts.pop()) if parts and parts[-1].isdecimal() else 1
        kind = parts[0] if parts else ""
        found[kind] = found.get(kind, 0) + count
    return found


def find_profile(name: str) -> Path:
    """The profile's file, sought as Snakemake does, then below ``profiles/``. Raises UserError."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "snakemake"
    places = [Path(name), home / name, Path("/etc/xdg/snakemake") / name]
    places += [Path("profiles") / name, REPOSITORY / "profiles" / name]
    for place in places:
        if place.is_file():
            return place
        for file in FILES:
            if (place / file).is_file():
                return place / file
    raise UserError(f"no profile {name!r} at {', '.join(map(str, places))}: name its directory with --profile")


def read_profile(name: str) -> Profile:
    """Read a profile with its YTE expressions and environment variables resolved. Raises UserError for a broken one."""
    path = find_profile(name)
    try:
        import yte  # Snakemake's own template language for profiles; comes with Snakemake
    except ImportError:
        raise UserError("Snakemake is not in this Python: pip install -r requirements/workflow.txt") from None
    try:
        settings = yte.process_yaml(path.read_text(encoding="utf-8"), require_use_yte=True)
    except (OSError, yaml.YAMLError, yte.exceptions.YteError) as error:
        raise UserError(f"{path} cannot be read ({error}): correct it") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} is not a profile: it must hold `key: value` lines")
    settings = _expand(settings)
    default = _mapping(settings.get("default-resources"), "=")
    jobs = {"": default}
    for rule, resources in _by_rule(settings.get("set-resources")).items():
        jobs[rule] = {**default, **resources}
    return Profile(path, settings, jobs)


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    # A resource is a Python expression to Snakemake, so that text may carry quotes of its own.
    return os.path.expandvars(value).strip("'\"") if isinstance(value, str) else value


def _mapping(value: Any, separator: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return dict(value)
    return dict(item.split(separator, 1) for item in value or [])


def _by_rule(value: Any) -> dict[str, dict[str, Any]]:
    """``set-resources`` in either spelling: a mapping of mappings, or ``rule:resource=value`` lines."""
    if isinstance(value, dict):
        return {rule: dict(resources or {}) for rule, resources in value.items()}
    rules: dict[str, dict[str, Any]] = {}
    for item in value or []:
        rule, setting = item.split(":", 1)
        key, text = setting.split("=", 1)
        rules.setdefault(rule, {})[key] = text.strip("'\"")
    return rules
