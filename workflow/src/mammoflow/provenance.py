"""The reproduction record: which settings, data, code, seed, packages and machine gave a result file.

It holds no time and no path: the same configuration, data and seed on the same machine give the same bytes.
"""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mammoflow import __version__, settings
from mammoflow.errors import UserError
from mammoflow.files import file_digest

PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "lightgbm")
TRAINING_PACKAGES = ("numpy", "pandas", "torch", "timm", "lightning", "safetensors")
PACKAGE_DIR = Path(__file__).resolve().parent


def record(
    stage: str,
    section: dict[str, Any],
    seed: int | None = None,
    cohort: Path | None = None,
    inputs: dict[str, Path] | None = None,
    packages: tuple[str, ...] = PACKAGES,
) -> dict[str, Any]:
    """Record for the result files of ``stage``.

    ``section``: its resolved settings.  ``seed``: None for a stage without chance.  ``cohort``: the cohort's directory,
    whose digest.json names the data; None for the stages before it.  ``inputs``: name -> file, recorded by SHA-256.
    ``packages``: whose versions matter here.  Raises UserError where digest.json is missing.
    """
    return {
        "stage": stage,
        "config_digest": settings.recipe(stage, section),
        "cohort_digest": None if cohort is None else _cohort_digest(cohort / "digest.json"),
        "inputs": {name: file_digest(path) for name, path in (inputs or {}).items()},
        "code_version": __version__,
        **code_commit(),
        "seed": seed,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "hardware": hardware(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # each stage's environment holds what that stage needs


def code_commit() -> dict[str, Any]:
    """``code_commit`` and whether tracked code was changed since; None where the code is no checkout of ours."""
    unknown = {"code_commit": None, "code_changed": None}
    top = _git("rev-parse", "--show-toplevel")
    # Installed below somebody else's repository, its commit would say nothing about this code.
    if top is None or Path(top) not in PACKAGE_DIR.parents or not _git("ls-files", "__init__.py"):
        return unknown
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE_DIR))
    return unknown if commit is None else {"code_commit": commit, "code_changed": bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE_DIR), *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine: the record then says so by its None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory (GB) and operating system of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cohort_digest(path: Path) -> dict[str, Any]:
    """SHA-256 of the cohort's digest file, and its content."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the cohort step first")
    return {"sha256": file_digest(path), "content": json.loads(path.read_text(encoding="utf-8"))}
