"""HTTP for archives: one polite session, answers checked, files into ``.part`` and on from where they broke off."""

import io
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from mammoflow import __version__
from mammoflow.collect.model import BusyError, PausedError, RefusedError, TransferError, disk_full
from mammoflow.collect.pace import LONGEST_WAIT, Pace
from mammoflow.files import file_digest

CHUNK = 1 << 16
NETWORK_ERRORS = (requests.RequestException, HTTPError, HTTPException, OSError)
PASSING = {408, 425, 500, 502, 504, 509, 522, 524}  # besides 429 and 503, which may carry a Retry-After


class Client:
    """Requests to one server, from any thread.

    pace: when to ask.  timeout: seconds without a byte before a connection is given up.  min_rate: bytes per second
    below which, over a whole ``timeout``, a dripping connection is given up too.
    """

    def __init__(self, pace: Pace, timeout: float, min_rate: float = 1024.0) -> None:
        self.pace, self.timeout, self.min_rate = pace, timeout, min_rate
        self._local = threading.local()
        self._open: set[requests.Response] = set()

    def get(self, url: str, params: dict[str, str] | None = None) -> bytes:
        """The whole answer. Raises TransferError, BusyError, RefusedError or PausedError."""
        return self._read(lambda session, **how: session.get(url, params=params, **how))

    def post(self, url: str, form: dict[str, str]) -> bytes:
        """The answer to a form. Raises as :meth:`get`."""
        return self._read(lambda session, **how: session.post(url, data=form, **how))

    def download(
        self,
        url: str,
        part: Path,
        arrived: Callable[[int], None],
        params: dict[str, str] | None = None,
        size: int | None = None,
        etag: str | None = None,
        resume: bool = True,
    ) -> None:
        """Write what ``url`` holds to ``part``, going on after what is there already when the server can.

        size: bytes it must have in the end.  etag: the version it must be; a changed file is fetched from its start.
        resume: False where the server makes the content anew each time (NBIA's zips). Raises TransferError where less
        came than announced, or nothing.
        """
        done = part.stat().st_size if resume and part.is_file() else 0
        if size is not None and done == size and done:
            return
        headers = {}
        if done and (size is None or done < size):
            headers = {"Range": f"bytes={done}-"} | ({"If-Range": etag} if etag else {})
        else:
            done = 0
        part.parent.mkdir(parents=True, exist_ok=True)

        try:
            answer = self._checked(lambda session, **how: session.get(url, params=params, headers=headers, **how))
        except RefusedError:
            if headers:  # 416: what lies here is no beginning of that file
                part.unlink(missing_ok=True)
                raise TransferError("the server refuses to go on from the part here; it is fetched anew") from None
            raise
        with answer:
            if answer.status_code != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                done = 0
            with part.open("r+b" if done else "wb") as handle:
                handle.seek(done)
                self._copy(answer, handle, arrived)
        got = part.stat().st_size
        if got == 0 or (size is not None and got != size):
            if size is not None and got > size:
                part.unlink()
            wanted = f" of {size}" if size is not None else ""
            raise TransferError(f"the answer ended after {got}{wanted} bytes")

    def hang_up(self) -> None:
        """End the transfers of all threads: a thread that waits for a silent server would not hear of a pause."""
        for answer in list(self._open):
            with suppress(OSError, RuntimeError, ValueError):  # it has just ended by itself
                answer.raw.shutdown()

    def _read(self, ask: Callable[..., requests.Response]) -> bytes:
        with self._checked(ask) as answer, io.BytesIO() as whole:
            self._copy(answer, whole, lambda _: None)
            return whole.getvalue()

    def _copy(self, answer: requests.Response, handle: BinaryIO, arrived: Callable[[int], None]) -> None:
        announced = int(answer.headers.get("Content-Length", -1))
        copied, since, before = 0, time.monotonic(), 0
        self._open.add(answer)
        try:
            # read1, not iter_content: that waits for a full chunk, for hours where a server drips.
            while block := answer.raw.read1(CHUNK):
                handle.write(block)
                copied += len(block)
                arrived(len(block))
                if self.pace.stop.is_set():
                    break
                if (passed := time.monotonic() - since) > self.timeout:
                    if (copied - before) / passed < self.min_rate:
                        raise TransferError(
                            f"only {copied - before} bytes in {passed:.0f} s; the connection is given up"
                        )
                    since, before = time.monotonic(), copied
        except NETWORK_ERRORS as error:
            disk_full(error)
            if not self.pace.stop.is_set():
                raise TransferError(f"the connection broke after {copied} bytes ({describe(error)})") from None
        finally:
            self._open.discard(answer)
        if self.pace.stop.is_set():
            raise PausedError
        if announced >= 0 and copied < announced:
            raise TransferError(f"the connection ended after {copied} of {announced} bytes")

    def _checked(self, ask: Callable[..., requests.Response]) -> requests.Response:
        """The answer's head; whoever asks reads its body and closes it."""
        self.pace.wait()
        try:
            answer = ask(self._session(), timeout=(min(self.timeout, 15.0), self.timeout), stream=True)
        except NETWORK_ERRORS as error:
            raise TransferError(f"no answer ({describe(error)})") from None
        if answer.status_code in (429, 503):
            answer.close()
            raise BusyError(f"HTTP {answer.status_code}, the server is busy", _retry_after(answer))
        if answer.status_code in PASSING:
            answer.close()
            raise TransferError(f"HTTP {answer.status_code}")
        if answer.status_code >= 400:
            answer.close()
            raise RefusedError(f"HTTP {answer.status_code}")
        return answer

    def _session(self) -> requests.Session:
        """One session per thread: requests does not promise to share one."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.headers.update({"User-Agent": f"mammoflow/{__version__}", "Accept-Encoding": "identity"})
            # Else requests would send the netrc's `default` entry to servers that want no credentials.
            session.auth = _anonymous
            self._local.session = session
        return self._local.session


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes in hex: the digest that NBIA, S3 and DVC publish."""
    return file_digest(path, "md5")


def describe(error: BaseException) -> str:
    """The kind of a network failure. Never its text: that holds the address with whatever is in it."""
    return type(error).__name__


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _retry_after(answer: requests.Response) -> float | None:
    """Retry-After in seconds, given as such or as a date (RFC 9110, 10.2.3)."""
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError):
        return None
    if seconds > LONGEST_WAIT:
        raise RefusedError(f"HTTP {answer.status_code}: the server asks to come back in {seconds / 3600:.1f} h")
    return max(seconds, 0.0)
