"""``registry``: what exactly lies in a dataset directory, as a checksummed list or a DVC pointer, and whether it still
does.

``registry write DIR`` writes ``DIR.sha256`` beside the directory, a plain list that ``sha256sum --check`` reads too.
``registry write DIR --dvc`` writes ``DIR.dvc``, the pointer that ``dvc add DIR`` would write (MD5 of the sorted JSON
list of files and MD5s, DVC 3), and the list itself as ``DIR.md5`` since a pointer alone cannot name what changed.
Both are small and hold no image: commit them, never the data. ``write`` refuses where git would take the data.
"""

import argparse
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from mammoflow.errors import UserError
from mammoflow.files import file_digest, write_text

SKIPPED = {".collect", ".dvc", ".git"}  # of the directory: what tools keep for themselves
THREADS = 4


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=["write", "verify"])
    parser.add_argument("directory", metavar="DIR", type=Path, help="a dataset's directory, such as data/cmmd")
    parser.add_argument("--dvc", action="store_true", help="a DVC pointer (and MD5s) instead of a SHA-256 list")


def run(args: argparse.Namespace) -> int:
    """0: written, or all as registered. 1: ``verify`` found differences, which it prints one a line."""
    if args.action == "write":
        path, number = write(args.directory, args.dvc)
        print(f"{path}: {number} files")
        return 0
    differences = verify(args.directory, args.dvc)
    for kind, names in differences.items():
        for name in names:
            print(f"{kind}: {name}")
    total = sum(map(len, differences.values()))
    print(f"{args.directory}: {total or 'no'} difference{'s' if total != 1 else ''}")
    return 1 if total else 0


def write(directory: Path, dvc: bool = False) -> tuple[Path, int]:
    """Register the directory; returns the file written and the number of files listed.

    Raises UserError for an absent or empty directory, and where git does not ignore it.
    """
    directory = _directory(directory)
    check_ignored(directory)
    algorithm = "md5" if dvc else "sha256"
    digests = digest_tree(directory, algorithm)
    if not digests:
        raise UserError(f"{directory} holds no file: nothing to register")
    listing = _beside(directory, algorithm)
    write_text(listing, "".join(_line(digest, f"{directory.name}/{name}") for name, digest in digests.items()))
    if not dvc:
        return listing, len(digests)
    size = sum((directory / name).stat().st_size for name in digests)
    out = {"md5": dvc_digest(digests), "size": size, "nfiles": len(digests), "hash": "md5", "path": directory.name}
    pointer = _beside(directory, "dvc")
    write_text(pointer, yaml.safe_dump({"outs": [out]}, sort_keys=False))
    return pointer, len(digests)


def verify(directory: Path, dvc: bool = False) -> dict[str, list[str]]:
    """``changed``, ``missing`` and ``extra`` files against what was registered; relative names, sorted.

    With ``dvc`` the pointer's digest must also be the list's, else the list is another version's (UserError).
    """
    directory = _directory(directory)
    algorithm = "md5" if dvc else "sha256"
    listing = _beside(directory, algorithm)
    if not listing.is_file():
        option = " --dvc" if dvc else ""
        raise UserError(f"{listing} does not exist: run `mammoflow registry write {directory}{option}` first")
    due = _read_listing(listing, directory.name)
    pointer = _beside(directory, "dvc")
    if dvc and _pointer_digest(pointer) != dvc_digest(due):
        raise UserError(f"{pointer} and {listing.name} do not belong together: take both from one version")
    found = digest_tree(directory, algorithm)
    return {
        "changed": sorted(name for name in due.keys() & found.keys() if due[name] != found[name]),
        "missing": sorted(due.keys() - found.keys()),
        "extra": sorted(found.keys() - due.keys()),
    }


def digest_tree(directory: Path, algorithm: str) -> dict[str, str]:
    """Relative name with ``/`` -> hex digest of every file below ``directory``, sorted by name."""
    names = sorted(path.relative_to(directory).as_posix() for path in _files(directory))

    def digest(name: str) -> str:
        return file_digest(directory / name, algorithm)

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def dvc_digest(md5s: dict[str, str]) -> str:
    """DVC's digest of a directory: MD5 of the JSON list of its files, sorted by path, and ``.dir``."""
    text = json.dumps([{"md5": md5s[name], "relpath": name} for name in sorted(md5s)])
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def check_ignored(directory: Path) -> None:
    """Raise UserError where ``directory`` lies in a git repository that would take its files in a commit."""
    inside = _git(directory, "rev-parse", "--is-inside-work-tree")
    if inside is None or inside.returncode != 0 or inside.stdout.strip() != "true":
        return
    files = "\n".join(path.relative_to(directory).as_posix() for path in _files(directory))
    ignored = _git(directory, "check-ignore", "--stdin", input_text=files)
    lost = sorted(set(files.splitlines()) - set(ignored.stdout.splitlines()))
    tracked = _git(directory, "ls-files", "--", ".").stdout.split("\n")[0]
    if tracked:
        raise UserError(f"{directory / tracked} is tracked by git: `git rm --cached` it, data must not be committed")
    if lost:
        raise UserError(
            f"git would take {directory / lost[0]} in a commit (and {len(lost) - 1} more files): add "
            f"'/{directory.name}/' to the repository's .gitignore, data must not be committed"
        )


def _git(directory: Path, *arguments: str, input_text: str | None = None) -> subprocess.CompletedProcess[str] | None:
    command = ["git", "-C", str(directory), "-c", "core.quotePath=false", *arguments]
    try:
        return subprocess.run(command, input=input_text, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        return None  # no git: nothing can be committed


def _files(directory: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(directory):
        names[:] = [name for name in names if name not in SKIPPED]
        for name in files:
            if "\n" in name or "\\" in name:
                raise UserError(f"{folder}: the file name {name!r} cannot be listed; rename it")
            yield Path(folder, name)


def _directory(directory: Path) -> Path:
    directory = Path(directory).resolve()
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: name the one that holds the archive")
    return directory


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f"{directory.name}.{suffix}")


def _line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"


def _read_listing(path: Path, folder: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, separator, name = line.partition("  ")
        if not separator or not name.startswith(f"{folder}/"):
            raise UserError(f"{path}, line {number}: not a digest, two spaces and a file of {folder}/; write it anew")
        found[name.removeprefix(f"{folder}/")] = digest
    return found


def _pointer_digest(path: Path) -> str:
    try:
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError):
        raise UserError(f"{path} is no DVC pointer: write it anew with `registry write --dvc`") from None
