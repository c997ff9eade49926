"""Archives behind an account: PhysioNet by the real wget, Kaggle by its client's interface; and where secrets are
not."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from collect.archives import draw
from collect.stub_server import Faults, StubServer
from mammoflow import cli, collect
from mammoflow.errors import UserError
from mammoflow.inventory import take_inventory

pytestmark = pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")


@pytest.fixture(scope="module")
def vindr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw("vindr_mammo", tmp_path_factory.mktemp("vindr"), 2)


@pytest.fixture(scope="module")
def kaggle_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw("rsna", tmp_path_factory.mktemp("rsna"), 3)


def _nowhere_but_memory(secret: str, *roots: Path) -> None:
    for root in roots:
        for path in root.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("way", ["environment", "netrc"])
def test_physionet_by_wget(way: str, vindr: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with StubServer(
        [], Faults(script={".dicom": ["cut", "empty", "wrong_md5", "500"], "SUMS": ["cut"]}), physionet=vindr
    ) as server:
        if way == "environment":
            server.account = ("reader", "s3cret: #1 of the environment")
            monkeypatch.setenv("PHYSIONET_USERNAME", server.account[0])
            monkeypatch.setenv("PHYSIONET_PASSWORD", server.account[1])
        else:
            server.account = ("reader", "s3cret_of_netrc")
            (home / ".netrc").write_text(f"machine 127.0.0.1 login reader password {server.account[1]}\n")
            (home / ".netrc").chmod(0o600)
        commands: list[str] = []
        watch = server.faults.of

        def look(address: str) -> str | None:
            commands.extend(_command_lines())
            return watch(address)

        server.faults.of = look
        settings = server.settings("physionet") | {"jobs": 1}
        last = collect.collect("vindr_mammo", out, settings)
        assert last.status == "done", last.message
        ranges = [one.headers["Range"] for one in server.seen if "Range" in one.headers]
    assert ranges  # a cut file went on inside
    for name in ("breast-level_annotations.csv", "finding_annotations.csv"):
        assert (out / name).read_bytes() == (vindr / name).read_bytes()
    originals = {path.name: path.read_bytes() for path in vindr.rglob("*.dicom")}
    assert {path.name: path.read_bytes() for path in out.rglob("*.dicom")} == originals
    assert len(take_inventory("vindr_mammo", out, []).images) == len(originals)
    assert any("wget" in command for command in commands)
    assert not any("s3cret" in command for command in commands)
    _nowhere_but_memory("s3cret", out)


def _command_lines() -> list[str]:
    """Command lines of all processes, as any user of the machine sees them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_physionet_without_credentials_says_how_to_sign_in(
    vindr: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PHYSIONET_USERNAME", raising=False)
    with (
        StubServer([], physionet=vindr) as server,
        pytest.raises(UserError, match=r"HTTP 401: sign in .*~/\.netrc.*data use"),
    ):
        collect.estimate("vindr_mammo", out, server.settings("physionet"))


CLIENT = """#!{python}
# Speaks as Kaggle's client 2.2 does (kaggle competitions download COMPETITION -f FILE -p DIR -q): credentials from the
# environment, a file as it is or zipped, its words and status 1 on failure.
import os, pathlib, sys, zipfile
arguments = dict(zip(sys.argv[4::2], sys.argv[5::2]))
name, folder, source = arguments["-f"], pathlib.Path(arguments["-p"]), pathlib.Path({source!r})
assert sys.argv[1:4] == ["competitions", "download", "rsna-breast-cancer-detection"]
if os.environ.get("KAGGLE_KEY") != "kaggle-s3cret":
    sys.exit("Authentication required to call the Kaggle API.")
count = pathlib.Path({count!r})
number = int(count.read_text() or 0) + 1
count.write_text(str(number))
if number == 3:
    sys.exit("429 Client Error: Too Many Requests")
if number == 4:
    sys.exit("Connection reset")
content = (source / name).read_bytes()
if number == 5:
    content = b""
target = folder / pathlib.Path(name).name
if number % 2:
    target.write_bytes(content)
else:
    with zipfile.ZipFile(str(target) + ".zip", "w") as archive:
        archive.writestr(target.name, content)
"""


def test_rsna_by_kaggles_client(kaggle_files: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, count = tmp_path / "bin" / "kaggle", tmp_path / "count"
    program.parent.mkdir()
    count.write_text("")
    program.write_text(CLIENT.format(python=sys.executable, source=str(kaggle_files), count=str(count)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    settings = {"interval_s": 0, "backoff_s": 0.01, "jobs": 1, "timeout_s": 10}
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    with pytest.raises(UserError, match="Kaggle does not let us in: accept the rules"):
        collect.estimate("rsna", out, settings)
    monkeypatch.setenv("KAGGLE_KEY", "kaggle-s3cret")
    first = collect.estimate("rsna", out, settings)
    assert (first.patients, first.estimated) == (3, True)
    last = collect.collect("rsna", out, settings)
    assert last.status == "done", last.message
    originals = {path.name: path.read_bytes() for path in (kaggle_files / "train_images").rglob("*.dcm")}
    assert {path.name: path.read_bytes() for path in out.rglob("*.dcm")} == originals
    images = take_inventory("rsna", out, []).images
    assert images["path"].notna().all()
    assert len(images) == len(originals)
    _nowhere_but_memory("s3cret", out)


def test_without_kaggles_client_it_says_what_to_install(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert cli.main(["collect", "rsna", "--out", str(out), "--dry-run"]) == 2
    assert "Kaggle's client is not installed: pip install kaggle" in capsys.readouterr().err
