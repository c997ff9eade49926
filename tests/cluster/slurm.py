"""What the tests ask the cluster, and Snakemake runs on it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from waiting import Value, wait_until
from workflow.harness import REPOSITORY, Workflow

PLAYGROUND = Path(__file__).with_name("playground.sh")
# No accounting database here, and a polling that suits jobs of seconds.
ON_THE_PLAYGROUND = [
    "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "5",
    "--max-status-checks-per-second", "1",
    "--latency-wait", "15",
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A row of squeue, as last seen. memory and limit in SLURM's spelling."""

    number: int
    state: str
    nodes: tuple[str, ...]
    memory: str
    limit: str
    comment: str  # rule_NAME_wildcards_...: what the executor writes


@dataclass
class Cluster:
    """The playground, and every job that was ever seen on it (SLURM itself forgets them after some minutes)."""

    seen: dict[int, Job] = field(default_factory=dict)

    def playground(self, *arguments: str) -> None:
        done = subprocess.run(["bash", str(PLAYGROUND), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self, *words: str) -> str:
        """One of SLURM's commands, that must go well."""
        done = _run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def look(self) -> dict[int, Job]:
        """All jobs so far. A controller that does not answer shows nothing new."""
        answer = _run("squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%m|%l|%k")
        for line in answer.stdout.splitlines():
            number, state, nodes, memory, limit, comment = line.split("|")
            names = host_names(nodes)
            job = Job(int(number), state, names, memory, limit, comment)
            # A requeued or finished job may lose its nodes: keep where it ran.
            before = self.seen.get(job.number)
            self.seen[job.number] = job if names or before is None else replace(job, nodes=before.nodes)
        return self.seen

    def jobs(self, words: str) -> list[Job]:
        """Jobs whose comment ends with ``words``, oldest first."""
        return [job for _, job in sorted(self.look().items()) if job.comment.endswith(words)]

    def last_number(self) -> int:
        return max(self.look(), default=0)


@dataclass(frozen=True)
class ClusterWorkflow(Workflow):
    """`snakemake --profile slurm` from the repository's root, as a person types it."""

    extra: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("snakemake")), "--profile", "slurm", *arguments,
            *ON_THE_PLAYGROUND, *self.extra,
            "--slurm-logdir", str(self.directory / "logs/slurm"),
            "--directory", str(self.directory),
            "--configfile", str(self.config),
        ]  # fmt: skip

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> "Run":
        log = self.directory / f"snakemake-{len(list(self.directory.glob('snakemake-*.log')))}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=REPOSITORY,
                env=os.environ | (environment or {}),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        return Run(process, log)

    def run(self, *arguments: str, expect: int = 0, environment: dict[str, str] | None = None) -> str:
        run = self.start(*arguments, environment=environment)
        status = run.finish()
        assert status == expect, f"exit status {status}\n{run.said()[-6000:]}"
        return run.said()


@dataclass(frozen=True)
class Run:
    """A Snakemake that runs."""

    process: subprocess.Popen
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, condition: Callable[[], Value], what: str, seconds: float = 300) -> Value:
        """The first true value of ``condition``. Fails when Snakemake ends before, or the time is up."""

        def watched() -> Value:
            value = condition()
            assert value or self.process.poll() is None, f"Snakemake ended before {what}\n{self.said()[-4000:]}"
            return value

        try:
            return wait_until(watched, what, seconds)
        except AssertionError:
            self.process.kill()
            raise

    def finish(self, seconds: float = 600) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"Snakemake did not end within {seconds} s\n{self.said()[-4000:]}") from None


def host_names(nodes: str) -> tuple[str, ...]:
    """n[1-2] as n1 and n2."""
    if not re.search(r"[\[,]", nodes):
        return (nodes,) if nodes else ()
    return tuple(_run("scontrol", "show", "hostnames", nodes).stdout.split())


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
