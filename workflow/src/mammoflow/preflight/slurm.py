"""Ask SLURM, and read its answers. Formats as SLURM 22.05 prints them; the options are the same up to 24.11."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mammoflow.preflight.profile import gpus

TIMEOUT_S = 12  # a client gives up on a controller that is down after its MessageTimeout, 10 s


@dataclass(frozen=True)
class Answer:
    """What a command printed. ``good``: it exists, ended in time, and with status 0."""

    good: bool
    text: str
    error: str = ""


def ask_all(commands: dict[str, list[str]]) -> dict[str, Answer]:
    """Run all commands at once; name -> answer."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return dict(zip(commands, pool.map(ask, commands.values()), strict=True))


def ask(command: list[str], timeout: float = TIMEOUT_S) -> Answer:
    """Run one command; never raises for what it does."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        return Answer(False, "", f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]} gave no answer in {timeout:.0f} s")
    # Several lines when it fails: the last one is the reason.
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = re.sub(r"^\w+: (error|fatal): ", "", lines[-1]) if lines else f"exit status {done.returncode}"
    return Answer(done.returncode == 0, done.stdout, "" if done.returncode == 0 else reason)


@dataclass
class Partition:
    """``gpus``: GPU type (or "") -> the most on one node. ``minutes``: time limit, None unlimited."""

    name: str
    up: bool
    nodes: int = 0
    usable: int = 0
    gpus: dict[str, int] = field(default_factory=dict)
    minutes: int | None = None
    default: bool = False


# One line per partition, state and GRES.
SINFO = ["sinfo", "--noheader", "--format=%P|%a|%D|%T|%l|%G"]
_USABLE = ("idle", "mixed", "allocated", "completing", "reserved", "planned", "powered_down", "powering_up")


def read_partitions(text: str) -> dict[str, Partition]:
    """Partitions of ``sinfo --noheader --format=%P|%a|%D|%T|%l|%G``."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, available, nodes, state, limit, gres = line.split("|", 5)
        partition = found.setdefault(name.rstrip("*"), Partition(name.rstrip("*"), available == "up"))
        partition.default |= name.endswith("*")
        partition.nodes += int(nodes)
        # A suffix marks special conditions: `*` does not respond, `~` powered down and started on demand, ...
        if state.rstrip("~#!%$@^-+") in _USABLE:
            partition.usable += int(nodes)
        partition.minutes = read_minutes(limit)
        for kind, count in gpus(gres).items():
            partition.gpus[kind] = max(count, partition.gpus.get(kind, 0))
    return found


def read_minutes(limit: str) -> int | None:
    """SLURM's ``[days-]hours:minutes:seconds`` in whole minutes; None for ``infinite`` and ``n/a``."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not match:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes


def read_config(text: str) -> dict[str, str]:
    """``Key = value`` lines of ``scontrol show config``."""
    return dict(re.findall(r"^(\w+)\s*=\s(.*?)\s*$", text, re.MULTILINE))


def read_rows(text: str) -> list[list[str]]:
    """Rows of a ``--parsable2 --noheader`` listing of sacctmgr."""
    return [line.split("|") for line in text.splitlines() if line]
