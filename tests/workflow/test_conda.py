"""The way of ``snakemake --sdm conda``, with the real environment files, against a local channel of stand-in packages.

It proves what is ours: the files parse and name exact versions, a pin file is taken, the post-deploy script runs, jobs
run in their environment and still find the package. Whether conda-forge carries those versions is solved by the
``envs`` job of .github/workflows/ci.yaml, where conda-forge can be reached.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from mammoflow import phantom
from workflow.harness import REPOSITORY

pytest.importorskip("rattler", reason="needs py-rattler: pip install -r requirements/dev.txt")
pytestmark = pytest.mark.workflow


def specs(stage: str) -> list[tuple[str, str]]:
    """(package, version) of each line of an environment file."""
    lines = yaml.safe_load((REPOSITORY / "envs" / f"{stage}.yaml").read_text())["dependencies"]
    return [tuple(part.strip() for part in (line + "=").split("=")[:2]) for line in lines]


def add_package(channel: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A noarch package of the old .tar.bz2 kind, which needs no further library."""
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    listed = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(text.encode()).hexdigest(),
         "size_in_bytes": len(text.encode())}
        for path, text in files.items()
    ]  # fmt: skip
    content = {
        "info/index.json": json.dumps({**index, "noarch": "generic"}),
        "info/paths.json": json.dumps({"paths": listed, "paths_version": 1}),
        "info/files": "\n".join(files),
        **files,
    }
    path = channel / "noarch" / f"{name}-{version}-0.tar.bz2"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:bz2") as archive:
        for member, text in content.items():
            entry = tarfile.TarInfo(member)
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package of the environments in its exact version, empty, but for a ``python`` that notes who called it."""
    from rattler.index import index_fs

    folder = tmp_path_factory.mktemp("channel")
    wrapper = f'#!/bin/sh\necho "$PYTHONPATH" >> "$CONDA_PREFIX/python-calls"\nexec {sys.executable} "$@"\n'
    for name, version in {pair for stage in ("convert", "tabular", "train") for pair in specs(stage)}:
        full = f"{version}.0" if name == "python" else version or "1.0"
        add_package(folder, name, full, {"bin/python": wrapper} if name == "python" else {f"share/{name}": full})
    import asyncio

    asyncio.run(index_fs(folder))
    return folder


@pytest.fixture
def checkout(tmp_path: Path, channel: Path) -> Path:
    """A copy of the workflow whose post-deploy script leaves a mark instead of asking PyPI, and a pin file."""
    copy = tmp_path / "checkout"
    for name in ("workflow", "envs"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "Snakefile", copy)
    (copy / "envs" / "convert.post-deploy.sh").write_text(
        '#!/usr/bin/env bash\nset -euo pipefail\ncommand -v python > "$CONDA_PREFIX/deployed"\n'
    )
    lines = [
        f"file://{path}#{hashlib.md5(path.read_bytes()).hexdigest()}"
        for name in ("python", "pydicom")
        for path in channel.glob(f"noarch/{name}-3*.tar.bz2")
    ]
    (copy / "envs" / "convert.linux-64.pin.txt").write_text("\n".join(["@EXPLICIT", *lines]) + "\n")
    return copy


def conda_environment(tmp_path: Path, channel: Path) -> dict[str, str]:
    """A machine with our ``conda`` and its ``activate``, and a PYTHONPATH that must not reach the jobs."""
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    command = home / "bin" / "conda"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("conda_command.py")} "$@"\n')
    command.chmod(0o755)
    (home / "bin" / "activate").write_text('export CONDA_PREFIX="$1"\nexport PATH="$1/bin:$PATH"\n')
    return {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "not-for-jobs"),
        "MAMMOFLOW_TEST_CHANNEL": f"file://{channel}",
        "MAMMOFLOW_TEST_CHANNEL_LOG": str(tmp_path / "created.jsonl"),
        "MAMMOFLOW_TEST_CONDA": str(home),
    }


def test_a_dataset_is_made_in_its_conda_environments(checkout: Path, channel: Path, tmp_path: Path) -> None:
    phantom.write("mias", tmp_path / "mias", patients=3, seed=1)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data": str(tmp_path), "datasets": {"mias": {"shards": 1}}}))
    done = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "mias", "--sdm", "conda", "--cores", "2", "--configfile", str(config),
            "--snakefile", str(checkout / "Snakefile"), "--directory", str(tmp_path),
        ],
        env=conda_environment(tmp_path, channel), capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]

    created = dict(json.loads(line) for line in (tmp_path / "created.jsonl").read_text().splitlines())
    assert len(created) == 2  # one from the pin file, one solved from the yaml
    pinned, solved = sorted(created.items(), key=lambda item: item[0].endswith(".yaml"))
    assert "Using pinnings from" in output
    assert pinned[1] == ["pydicom-3.0.2-0.tar.bz2", "python-3.12.0-0.tar.bz2"]
    assert {name.rsplit("-", 2)[0] for name in solved[1]} == {name for name, _ in specs("tabular")}

    convert = tmp_path / ".snakemake" / "conda" / pinned[0].removesuffix(".pin.txt")
    tabular = tmp_path / ".snakemake" / "conda" / solved[0].removesuffix(".yaml")
    assert (convert / "deployed").read_text().strip() == str(convert / "bin" / "python")
    # Jobs ran with the python of their environment, and saw the package alone: Snakemake clears PYTHONPATH, and the
    # prefix of the Snakefile sets it again.
    for folder, jobs in ((convert, 4), (tabular, 1)):
        calls = (folder / "python-calls").read_text().splitlines()
        assert calls == [str(checkout / "workflow" / "src")] * jobs
    assert (tmp_path / "results" / "mias" / "manifest.csv").is_file()


def test_every_environment_names_exact_versions_and_no_default_channel() -> None:
    for path in sorted((REPOSITORY / "envs").glob("*.yaml")):
        environment = yaml.safe_load(path.read_text())
        assert environment["channels"][0] == "conda-forge"
        assert environment["channels"][-1] == "nodefaults"
        for line in environment["dependencies"]:
            assert "=" in line or line in {"pip", "pygments"}, f"{path.name}: {line} has no version"
