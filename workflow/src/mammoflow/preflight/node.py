"""The test on a node: a job reads what this machine wrote, writes back, and imports what the stages need."""

import json
import os
import secrets
import socket
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mammoflow.files import write_text
from mammoflow.preflight import slurm
from mammoflow.preflight.findings import Finding, fail, ok
from mammoflow.preflight.profile import REPOSITORY, Profile

MODULES = {"numpy": "numpy", "pandas": "pandas", "pydicom": "pydicom", "imagecodecs": "imagecodecs", "cv2": ""}
NAME, REPLY = ".mammoflow-check", ".reply"


def test(profile: Profile, config: dict[str, Any], wait: int) -> tuple[list[Finding], dict[str, bool]]:
    """One job on each partition that the profile names. Leaves nothing behind.

    Returns the findings, and of ``store``, ``results``, ``workflow`` and ``data`` whether all jobs saw them, without
    those that no job looked at. ``wait``: seconds that a job may stay queued.
    """
    folders = {name: Path(config[name]).absolute() for name in ("store", "results")}
    archives = [root.absolute() for root in archive_roots(config)]
    findings: list[Finding] = []
    proven: dict[str, bool] = {}
    for resources in {str(job.get("slurm_partition")): job for job in profile.jobs.values()}.values():
        token = secrets.token_hex(8)
        asked = {name: folder / f"{NAME}-{token}" for name, folder in folders.items()}
        try:
            unwritable = {name: reason for name, path in asked.items() if (reason := _written(path, token))}
            if unwritable:
                cure = "mend that, or name another directory in the configuration"
                findings += [
                    fail(f"{folders[name]} cannot be written: {why}", cure) for name, why in unwritable.items()
                ]
                return findings, {**proven, **dict.fromkeys(unwritable, False)}
            found, seen = _one(resources, token, asked, archives, wait)
            findings.append(found)
            proven = {name: proven.get(name, True) and good for name, good in seen.items()}
        finally:
            for path in asked.values():
                for left in (path, path.with_suffix(REPLY)):
                    with suppress(OSError):
                        left.unlink()
    return findings, proven


def archive_roots(config: dict[str, Any]) -> list[Path]:
    """Directories of the raw archives that must be there: those that the run itself will collect need not."""
    roots = {name: Path(config["data"]) / (row["root"] or name) for name, row in config["datasets"].items()}
    return [root for name, root in roots.items() if root.is_dir() or config["datasets"][name]["collect"] is None]


def _written(path: Path, token: str) -> str | None:
    """Write the token. The reason where that fails."""
    try:
        write_text(path, token)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _one(
    resources: dict[str, Any], token: str, asked: dict[str, Path], archives: list[Path], wait: int
) -> tuple[Finding, dict[str, bool]]:
    """Finding of one job, and what it saw; a job that did not run says nothing of any directory."""
    partition = str(resources.get("slurm_partition") or "")
    options = {"--partition": partition, "--account": resources.get("slurm_account"), "--qos": resources.get("qos")}
    command = [
        "srun", "--quiet", "--ntasks=1", "--mem=500", "--time=2", f"--immediate={wait}", f"--chdir={REPOSITORY}",
        *(f"{key}={value}" for key, value in options.items() if value),
        # PYTHONPATH as the rules export it; this Python must exist on the node too.
        "env", f"PYTHONPATH={REPOSITORY / 'workflow' / 'src'}", sys.executable, "-m", "mammoflow", "check-cluster",
        "--on-node", token, *(str(path.parent) for path in asked.values()), "--archives", *map(str, archives),
    ]  # fmt: skip
    answer = slurm.ask(command, timeout=wait + 120)
    name = f"a job on partition {partition or '(default)'}"
    if not answer.good:
        cure = "look at `sinfo -R`; a node needs the same paths as this machine: Python, workflow, store, results"
        return fail(f"{name} failed ({answer.error or answer.text.strip()})", cure), dict.fromkeys(asked, False)
    told = json.loads(answer.text.splitlines()[-1])
    seen = {
        place: str(path.parent) not in told["unseen"] and _replied(path.with_suffix(REPLY), token)
        for place, path in asked.items()
    }
    lost = [str(asked[place].parent) for place, good in seen.items() if not good]
    seen["workflow"] = True
    if archives:
        seen["data"] = not told["no_directory"]
    problems = [f"shares no files in {', '.join(sorted(lost))}"] if lost else []
    problems += [f"sees no directory {', '.join(told['no_directory'])}"] if told["no_directory"] else []
    if problems:
        cure = "each must lie on a filesystem that all nodes see; store and results where you may write"
        return fail(f"{name}, {told['node']}, {' and '.join(problems)}", cure), seen
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    saw = f"saw {len(archives)} archive{'s' if len(archives) > 1 else ''}, " if archives else ""
    done = f"ran on {told['node']}, read and wrote store and results, {saw}imported mammoflow"
    return ok(f"{name} {done} ({versions})"), seen


def _replied(reply: Path, token: str) -> bool:
    return reply.is_file() and reply.read_text(encoding="utf-8") == token[::-1]


def answer(token: str, folders: list[str], archives: list[str]) -> int:
    """Run on the node: read the token in each folder, write it back reversed, print one line of JSON."""
    unseen = [folder for folder in folders if not _answered(Path(folder) / f"{NAME}-{token}", token)]
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, package in MODULES.items():
        imported = import_module(module)
        versions[module] = version(package) if package else imported.__version__
    # Several nodes may share a host name on a playground; SLURM knows them apart.
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    absent = [folder for folder in archives if not os.path.isdir(folder)]
    print(json.dumps({"node": node, "unseen": unseen, "no_directory": absent, "versions": versions}))
    return 0


def _answered(asked: Path, token: str) -> bool:
    try:
        if asked.read_text(encoding="utf-8") != token:
            return False
        write_text(asked.with_suffix(REPLY), token[::-1])
    except OSError:  # not there, or not ours to write
        return False
    return True
