"""A command in a process of its own, which outlives the page. Its log, state and end are files that anyone may read.

Below the job's folder::

    command.json   argument list and working directory
    state.json     when it started and ended, and its exit status
    log.txt        everything it printed
    lock           held by the job's processes, freed by the system when they die
    stop           a wish to stop

``python -m mammoflow.ui.job FOLDER`` is the small process that runs the command and writes down how it ended.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mammoflow import locks, settings
from mammoflow.errors import UserError
from mammoflow.files import read_json, write_json

STEPS = re.compile(rb"(\d+) of (\d+) steps \(\d+%\) done")
NOW = re.compile(rb"^Job \d+: (.+)$", re.MULTILINE)
PATIENCE_S = 60.0
TAIL_BYTES = 200_000


@dataclass(frozen=True)
class State:
    """status: ``new``, ``running``, ``done``, ``failed``, ``stopped`` or ``broken`` (its processes were killed).
    steps_done, steps: of Snakemake's plan, 0 while unknown.  now: what its last job does."""

    status: str = "new"
    command: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    exit_status: int | None = None
    steps_done: int = 0
    steps: int = 0
    now: str = ""


class Job:
    """The job of a folder: at most one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.log = self.folder / "log.txt"

    def busy(self) -> bool:
        """Whether a process of the job lives."""
        return locks.is_held(self.folder / "lock")

    def start(self, command: list[str], directory: Path, wait_s: float = 30.0) -> None:
        """Start ``command`` (an argument list, never a shell's line) in ``directory``, detached from this process.

        Comes back once the job holds its lock or has ended. Raises UserError where one is running.
        """
        deadline = time.monotonic() + wait_s
        while self.busy():
            # A job says how it ended just before its process goes and frees the lock.
            ended = read_json(self.folder / "state.json").get("status", "running") != "running"
            if not ended or time.monotonic() > deadline:
                raise UserError("a workflow is running: wait for it, or stop it first")
            time.sleep(0.05)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stop").unlink(missing_ok=True)
        (self.folder / "state.json").unlink(missing_ok=True)
        write_json(self.folder / "command.json", {"command": command, "directory": str(directory)})
        source = Path(settings.__file__).resolve().parents[1]
        paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "mammoflow.ui.job", str(self.folder)],
            env=environment() | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not (self.folder / "state.json").is_file() and time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)

    def stop(self) -> None:
        """Ask the job to end in good order, as Ctrl-C does; without one, nothing happens."""
        if self.busy():
            (self.folder / "stop").touch()

    def state(self) -> State:
        """How far the job is, read from disk."""
        values = read_json(self.folder / "state.json")
        if not values:
            return State()
        if values["status"] == "running" and not self.busy():
            values = read_json(self.folder / "state.json")  # it may have ended between the two looks
            if values["status"] == "running":
                values["status"] = "broken"
        text = self.tail()
        steps, begun = STEPS.findall(text), NOW.findall(text)
        done, total = map(int, steps[-1]) if steps else (0, 0)
        return State(
            **{**values, "command": tuple(values["command"])},
            steps_done=done,
            steps=total,
            now=begun[-1].decode("utf-8", "replace") if begun else "",
        )

    def tail(self, size: int = TAIL_BYTES) -> bytes:
        """The last bytes of the log."""
        if not self.log.is_file():
            return b""
        with self.log.open("rb") as handle:
            handle.seek(max(0, self.log.stat().st_size - size))
            return handle.read()

    def last_lines(self, count: int = 40) -> str:
        """The last lines of the log, for a person."""
        return "\n".join(self.tail().decode("utf-8", "replace").splitlines()[-count:])

    def locked_directory(self) -> bool:
        """Whether Snakemake refused because an earlier run was killed and left its lock."""
        return b"Directory cannot be locked" in self.tail()


def environment() -> dict[str, str]:
    """The environment for what the page starts: all but the page's own secret and settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("STREAMLIT_", "MAMMOFLOW_PAGE_"))}


def supervise(folder: Path) -> int:
    """Run the folder's command to its end. Returns its exit status."""
    # A page started in the background of a script ignores Ctrl-C and would hand that on: nothing could be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = Job(folder)
    order = read_json(folder / "command.json")
    state = {"status": "running", "command": order["command"], "started": _now(), "ended": "", "exit_status": None}
    with (folder / "lock").open("a") as lock, job.log.open("wb") as log:
        locks.take(lock)
        # The child holds the lock too: while it lives, nobody starts a second one, whatever happens to this process.
        process = subprocess.Popen(
            order["command"],
            cwd=order["directory"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        write_json(folder / "state.json", state)
        stopped = _watch(process, folder / "stop")
        status = "stopped" if stopped else "done" if process.returncode == 0 else "failed"
        state |= {"status": status, "ended": _now(), "exit_status": process.returncode}
        write_json(folder / "state.json", state)
    return process.returncode


def _watch(process: subprocess.Popen, wish: Path) -> bool:
    """Wait for the end of ``process``. On the wish to stop, interrupt its group; kill it when that takes too long."""
    asked = 0.0
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        if not asked and wish.exists():
            asked = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
        if asked and time.monotonic() - asked > PATIENCE_S and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return bool(asked)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
