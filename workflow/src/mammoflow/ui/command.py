"""``ui``: serve the page on this machine's loopback address, and print the address that opens it."""

import argparse
import importlib.util
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from contextlib import suppress
from pathlib import Path

from mammoflow import settings
from mammoflow.errors import UserError
from mammoflow.ui.project import Project

APP = Path(__file__).with_name("app.py")
LOOPBACK = "127.0.0.1"
READY_S = 60.0
INSTALL = "python -m pip install -c requirements/constraints.txt -r requirements/ui.txt"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--project", type=Path, default=Path(), metavar="DIR", help="where data and results go")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the page reads and writes it; default: config/page.yaml there"
    )
    parser.add_argument("--port", type=int, default=8501, help="0 takes a free one")
    parser.add_argument(
        "--host", default=LOOPBACK, metavar="ADDRESS", help="another address of this machine; others can then reach it"
    )
    parser.add_argument("--headless", action="store_true", help="do not open a browser here")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. What the page started goes on."""
    if importlib.util.find_spec("streamlit") is None:
        raise UserError(f"the page needs Streamlit, which is not installed: {INSTALL}")
    if not args.project.is_dir():
        raise UserError(f"{args.project} is not a directory: make it first, or name another with --project")
    root = args.project.resolve()
    project = Project(root, (args.config or root / "config" / "page.yaml").resolve())
    project.config()  # a broken file is told here, not in the browser
    port = free_port(args.host, args.port)
    if not is_loopback(args.host):
        print(
            f"WARNING: other machines can reach {args.host}, and the connection is not encrypted. Whoever learns the"
            " address below can start jobs as you. An ssh tunnel is safer: see docs/collecting.md.",
            file=sys.stderr,
        )
    key = secrets.token_urlsafe(24)
    environment = clean_environment() | {
        "MAMMOFLOW_PAGE_KEY": key,  # in the environment, which only its owner can read, and in no process list
        "MAMMOFLOW_PAGE_PROJECT": str(project.root),
        "MAMMOFLOW_PAGE_CONFIG": str(project.config_path),
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and the server with it
    process = subprocess.Popen(server_command(args.host, port), cwd=root, env=environment, stdin=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, args.host, port)
        address = f"http://{_in_url(args.host)}:{port}/?key={key}"
        print(f"Open {address}", flush=True)
        if not args.headless:
            _open(project, address)
        return process.wait()
    except KeyboardInterrupt:
        print("The page is closed. What it started goes on; the same command opens it again.")
        return 0
    finally:
        process.terminate()
        process.wait()


def server_command(host: str, port: int) -> list[str]:
    """The argument list that starts Streamlit: one address, strangers' hosts and origins refused, nothing sent out."""
    allowed = {LOOPBACK, "localhost", "::1"} if is_loopback(host) else {host}
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",  # no prompt, and we open the browser
        "server.enableCORS": "true",  # Streamlit's name for refusing other origins
        "server.enableXsrfProtection": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "browser.serverAddress": host,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "client.showErrorLinks": "false",
        "logger.hideWelcomeMessage": "true",
        "global.developmentMode": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for name in sorted(allowed):  # a name that a stranger's DNS points here is refused
        words += ["--server.allowedHosts", name]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *words]


def clean_environment() -> dict[str, str]:
    """This process's environment without what would change Streamlit's settings, and with our package on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STREAMLIT_")}
    source = str(Path(settings.__file__).resolve().parents[1])
    return kept | {"PYTHONPATH": os.pathsep.join([source, *filter(None, [kept.get("PYTHONPATH")])])}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``. Raises UserError where it is no single address."""
    try:
        address = ipaddress.ip_address(LOOPBACK if host == "localhost" else host)
    except ValueError:
        raise UserError(f"--host {host}: give an IP address of this machine, such as {LOOPBACK}") from None
    if address.is_unspecified:
        raise UserError(f"--host {host} means every address of this machine: name the one that you want")
    return address.is_loopback


def free_port(host: str, port: int) -> int:
    """``port``, or a free one for 0. Raises UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{host} port {port} cannot be used ({error}): try --port 0, which takes a free one"
            ) from None
        return probe.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen, host: str, port: int) -> None:
    health = f"http://{_in_url(host)}:{port}/_stcore/health"
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"the page's server ended at once (exit status {process.returncode}): see above")
        # No proxy: the address is this machine's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(urllib.error.URLError, OSError), opener.open(health, timeout=2) as answer:
            if answer.status == 200:
                return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    raise UserError(f"the page's server did not answer within {READY_S:.0f} s: the machine may be too busy, try again")


def _open(project: Project, address: str) -> None:
    """Open the browser by a small private file that leads to the address: a command line would show its key."""
    door = project.state / "open.html"
    door.parent.mkdir(parents=True, exist_ok=True)
    door.unlink(missing_ok=True)
    os.close(os.open(door, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    door.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    webbrowser.open(door.as_uri())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
