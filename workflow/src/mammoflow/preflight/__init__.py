"""``check-cluster``: will this configuration run with this profile on this SLURM cluster? Says so in about a second.

One line per finding, ``ok``, ``warn`` or ``fail``, each with its cure. Nothing is submitted, unless ``--node-test``
asks for one tiny job per partition, which writes and reads the shared directories, looks for the archives and imports
the package there.
"""

import argparse
import sys
from pathlib import Path

from mammoflow import settings
from mammoflow.preflight import checks, node, runtimes
from mammoflow.preflight.findings import Finding, fail, ok
from mammoflow.preflight.profile import read_profile


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--profile", default="slurm", metavar="NAME", help="as for snakemake (default %(default)s)")
    parser.add_argument(
        "--config", type=Path, default=settings.DEFAULT, metavar="YAML", help="configuration (default %(default)s)"
    )
    parser.add_argument("--node-test", action="store_true", help="also run one tiny job on each partition")
    parser.add_argument("--wait", type=int, default=60, metavar="S", help="seconds that such a job may stay queued")
    parser.add_argument("--on-node", nargs="+", metavar="ARG", help=argparse.SUPPRESS)
    parser.add_argument("--archives", nargs="*", default=[], metavar="DIR", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is a failure."""
    if args.on_node:
        return node.answer(args.on_node[0], args.on_node[1:], args.archives)
    findings = check(args.profile, args.config, args.wait if args.node_test else None)
    colours = {"ok": "32", "warn": "33", "fail": "31"}
    for found in findings:
        word = f"\033[{colours[found.level]}m{found.level:<4}\033[0m" if sys.stdout.isatty() else f"{found.level:<4}"
        print(f"{word} {found.text}" + (f": {found.cure}" if found.cure else ""))
    return int(any(found.level == "fail" for found in findings))


def check(profile_name: str, config_path: Path, wait: int | None = None) -> list[Finding]:
    """All findings. ``wait``: seconds a node test may stay queued; None runs none.

    Raises UserError where the configuration or the profile cannot be read.
    """
    config = settings.read_config(config_path)
    profile = read_profile(profile_name)
    findings = checks.packages()
    if profile.executor != "slurm":
        cure = "choose another with --profile, or set `executor: slurm`"
        return [*findings, fail(f"profile {profile.path} uses executor {profile.executor or 'local'}", cure)]
    findings.append(ok(f"profile {profile.path}"))
    findings += checks.profile_sense(profile)
    answers = checks.ask(profile)
    findings += checks.programs(answers)
    reached = answers["sinfo"].good
    if reached:
        findings += checks.partitions(answers, profile)
        findings += runtimes.runtimes(answers, profile, config)
        findings += checks.accounting(answers, profile)
        findings += checks.account(answers, profile)
    proven: dict[str, bool] = {}
    if wait is not None:
        if reached:
            tested, proven = node.test(profile, config, wait)
            findings += tested
        else:
            findings.append(fail("no job was tried on a node", "let the controller answer first"))
    return findings + checks.directories(config, proven)
