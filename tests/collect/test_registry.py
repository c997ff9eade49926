"""The registry: written, verified, in DVC's own words, and never where git would take the data."""

import subprocess
from pathlib import Path

import pytest
import yaml

from mammoflow import cli, registry
from mammoflow.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "repository" / "data" / "cmmd"
    for name, text in {"a/1.dcm": "one", "a/2.dcm": "two", "a b.csv": "x", "a-b": "", "ä/é.dcm": "three"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".collect").mkdir()
    (root / ".collect" / "state.json").write_text("{}")
    return root


@pytest.mark.parametrize("dvc", [False, True])
def test_verify_names_changed_missing_and_extra_files(data: Path, dvc: bool, capsys: pytest.CaptureFixture) -> None:
    options = ["--dvc"] if dvc else []
    assert cli.main(["registry", "write", str(data), *options]) == 0
    assert cli.main(["registry", "verify", str(data), *options]) == 0
    assert "no differences" in capsys.readouterr().out
    (data / "a/1.dcm").write_text("eno")
    (data / "a/2.dcm").unlink()
    (data / "new.dcm").write_text("new")
    (data / ".collect" / "state.json").write_text("changed")
    assert registry.verify(data, dvc) == {"changed": ["a/1.dcm"], "missing": ["a/2.dcm"], "extra": ["new.dcm"]}
    assert cli.main(["registry", "verify", str(data), *options]) == 1
    assert "changed: a/1.dcm\nmissing: a/2.dcm\nextra: new.dcm\n" in capsys.readouterr().out


def test_sha256sum_reads_the_list(data: Path) -> None:
    registry.write(data)
    done = subprocess.run(["sha256sum", "--check", "cmmd.sha256"], cwd=data.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 5


def test_the_pointer_is_the_one_that_dvc_would_write(data: Path) -> None:
    """dvc-data is what ``dvc add`` calls to hash a directory."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    registry.write(data, dvc=True)
    (data / ".collect" / "state.json").unlink()  # dvc would take it; the registry leaves the tools' own files out
    files = LocalFileSystem()
    _, meta, tree = build(HashFileDB(files, str(data.parent / "cache")), str(data), files, "md5")
    pointer = yaml.safe_load((data.parent / "cmmd.dvc").read_text())
    assert pointer == {"outs": [{"md5": tree.hash_info.value, "size": meta.size, "nfiles": meta.nfiles,
                                 "hash": "md5", "path": "cmmd"}]}  # fmt: skip


def test_data_that_git_would_take_is_refused(data: Path) -> None:
    top = data.parents[1]
    subprocess.run(["git", "init", "--quiet", str(top)], check=True)
    with pytest.raises(UserError, match=r"git would take .*\.gitignore, data must not be committed"):
        registry.write(data)
    (top / ".gitignore").write_text("*.dcm\n")
    with pytest.raises(UserError, match=r"a b\.csv|a-b"):
        registry.write(data)
    (top / ".gitignore").write_text("/data/*\n!/data/*.sha256\n")
    registry.write(data)
    subprocess.run(["git", "-C", str(top), "add", "--force", "data/cmmd/a/1.dcm"], check=True)
    with pytest.raises(UserError, match=r"a/1\.dcm is tracked by git: `git rm --cached` it"):
        registry.write(data)


def test_what_is_wrong_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cmmd\.sha256 does not exist: run `mammoflow registry write"):
        registry.verify(data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        registry.write(tmp_path / "empty")
    registry.write(data, dvc=True)
    pointer = data.parent / "cmmd.dvc"
    pointer.write_text(pointer.read_text().replace(".dir", "0.dir"))
    with pytest.raises(UserError, match="do not belong together"):
        registry.verify(data, dvc=True)
    registry.write(data)
    (data.parent / "cmmd.sha256").write_text("nonsense\n")
    with pytest.raises(UserError, match=r"line 1: not a digest"):
        registry.verify(data)


def test_this_repository_takes_no_data_but_what_registers_it(repository: Path) -> None:
    data = [
        "data/cmmd/D1-0001/1-1.dcm",
        "data/cmmd/collected.json",
        "data/rsna/train.csv",
        "data/all.zip",
        "store/x.png",
    ]
    names = [*data, "data/cmmd.dvc", "data/cmmd.md5", "data/cmmd.sha256"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=repository, capture_output=True, text=True)
    assert done.stdout.splitlines() == data
