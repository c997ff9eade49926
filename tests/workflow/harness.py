"""Run Snakemake and the command line for real, each configuration in its own working directory."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Workflow:
    """One configuration in one working directory."""

    directory: Path
    config: Path

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", *arguments,
            "--snakefile", str(REPOSITORY / "Snakefile"),
            "--directory", str(self.directory),
            "--configfile", str(self.config),
            "--cores", "2",
        ]  # fmt: skip

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run Snakemake; return everything it printed. Fails with that text on another exit status than expected."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == expect, f"exit status {done.returncode}\n{output[-6000:]}"
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs per rule that a dry run plans, without the target rules."""
        output = self.run(*arguments, "--dry-run")
        if "Nothing to be done" in output:
            return {}
        table = output.split("Job stats:", 1)[1].split("\n\n", 1)[0].splitlines()[3:]
        counts = {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}
        return {rule: n for rule, n in counts.items() if rule not in {"all", "total", *self.targets()}}

    def targets(self) -> set[str]:
        stages = {"inventory", "convert", "crop", "manifests", "cohorts", "train", "evaluate", "report", "export"}
        return stages | set(yaml.safe_load(self.config.read_text())["datasets"])

    def change(self, section: str, **values: object) -> None:
        """Set keys of one section of the configuration."""
        config = yaml.safe_load(self.config.read_text())
        config[section] = {**config.get(section, {}), **values}
        self.config.write_text(yaml.safe_dump(config))

    def mammoflow(self, *arguments: str, expect: int = 0) -> str:
        """Run ``python -m mammoflow`` in the working directory; return what it printed."""
        done = mammoflow(*arguments, directory=self.directory)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr


def mammoflow(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    source = REPOSITORY / "workflow" / "src"
    return subprocess.run(
        [sys.executable, "-m", "mammoflow", *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def make_workflow(directory: Path, **sections: object) -> Workflow:
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(sections))
    return Workflow(directory, config)
