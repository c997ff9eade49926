"""The test on a node: a job reads what this machine wrote, writes back, and imports what the stages need."""

import json
import os
import secrets
import socket
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mammoflow.files import write_text
from mammoflow.preflight import slurm
from mammoflow.preflight.findings import Finding, fail, ok
from mammoflow.preflight.profile import REPOSITORY, Profile

MODULES = {"numpy": "numpy", "pandas": "pandas", "pydicom": "pydicom", "imagecodecs": "imagecodecs", "cv2": ""}
NAME = ".mammoflow-check"


def test(profile: Profile, config: dict[str, Any], wait: int) -> list[Finding]:
    """One job on each partition that the profile names. Leaves nothing behind."""
    folders = [Path(config["store"]).absolute(), Path(config["results"]).absolute()]
    findings = []
    for resources in {str(job.get("slurm_partition")): job for job in profile.jobs.values()}.values():
        token = secrets.token_hex(8)
        asked = [folder / f"{NAME}-{token}" for folder in folders]
        replies = [path.with_suffix(".reply") for path in asked]
        try:
            for path in asked:
                write_text(path, token)
            findings.append(_one(resources, token, folders, replies, wait))
        finally:
            for path in [*asked, *replies]:
                path.unlink(missing_ok=True)
    return findings


def _one(resources: dict[str, Any], token: str, folders: list[Path], replies: list[Path], wait: int) -> Finding:
    partition = str(resources.get("slurm_partition") or "")
    options = {"--partition": partition, "--account": resources.get("slurm_account"), "--qos": resources.get("qos")}
    command = [
        "srun", "--quiet", "--ntasks=1", "--mem=500", "--time=2", f"--immediate={wait}", f"--chdir={REPOSITORY}",
        *(f"{key}={value}" for key, value in options.items() if value),
        # PYTHONPATH as the rules export it; this Python must exist on the node too.
        "env", f"PYTHONPATH={REPOSITORY / 'workflow' / 'src'}", sys.executable, "-m", "mammoflow", "check-cluster",
        "--on-node", token, *map(str, folders),
    ]  # fmt: skip
    answer = slurm.ask(command, timeout=wait + 120)
    name = f"a job on partition {partition or '(default)'}"
    if not answer.good:
        cure = "look at `sinfo -R`; a node needs the same paths as this machine: Python, workflow, store, results"
        return fail(f"{name} failed ({answer.error or answer.text.strip()})", cure)
    told = json.loads(answer.text.splitlines()[-1])
    unseen = [str(reply.parent) for reply in replies if not reply.is_file() or reply.read_text() != token[::-1]]
    if told["unseen"] or unseen:
        lost = ", ".join(sorted({*told["unseen"], *unseen}))
        return fail(f"{name}, {told['node']}, shares no files in {lost}", "move it to a filesystem that all nodes see")
    versions = ", ".join(f"{key} {value}" for key, value in told["versions"].items())
    return ok(f"{name} ran on {told['node']}, read and wrote store and results, imported mammoflow ({versions})")


def answer(token: str, *folders: str) -> int:
    """Run on the node: read the token in each folder, write it back reversed, print one line of JSON."""
    unseen = []
    for folder in map(Path, folders):
        asked = folder / f"{NAME}-{token}"
        if asked.is_file() and asked.read_text(encoding="utf-8") == token:
            write_text(asked.with_suffix(".reply"), token[::-1])
        else:
            unseen.append(str(folder))
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, package in MODULES.items():
        imported = import_module(module)
        versions[module] = version(package) if package else imported.__version__
    # Several nodes may share a host name on a playground; SLURM knows them apart.
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    print(json.dumps({"node": node, "unseen": unseen, "versions": versions}))
    return 0
