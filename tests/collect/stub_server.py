"""A real HTTP server that speaks for NBIA, an S3 bucket, TCIA's site and PhysioNet, with faults on command.

In tests: ``with StubServer([Catalogue("cmmd", root)]) as server: ...``. By hand, to try the page or the command::

    PYTHONPATH=workflow/src:tests python -m collect.stub_server cmmd PHANTOM_DIR --port 8765 --faults 0.3

It prints the options to give to ``mammoflow collect``. Standard library's ``http.server``, one thread a connection.
"""

import argparse
import base64
import json
import random
import shlex
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from collect.catalogue import BUCKET, Catalogue, index_csv, physionet_files
from mammoflow.collect.sources.nbia import COLLECTIONS

KINDS = ("cut", "drip", "truncated", "wrong_md5", "429", "503", "500", "empty", "html")
NBIA = "/nbia-api/services/"
PAGE = b"<!DOCTYPE html><html><body>Scheduled maintenance</body></html>"


@dataclass
class Faults:
    """Which requests go wrong. ``rate``: share of the addresses whose first ``times`` answers do, chosen by ``seed``
    and address, so that threads cannot change it; ``script``: part of an address -> faults to serve, one after
    another."""

    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    times: int = 1
    script: dict[str, list[str]] = field(default_factory=dict)
    retry_after: str = "1"
    served: dict[str, int] = field(default_factory=dict)

    def of(self, address: str) -> str | None:
        """The fault of this request, None for an honest answer."""
        for part, queue in self.script.items():
            if part in address and queue:
                return queue.pop(0)
        chance = random.Random(f"{self.seed} {address}")
        if chance.random() >= self.rate or self.served.get(address, 0) >= self.times:
            return None
        self.served[address] = self.served.get(address, 0) + 1
        return chance.choice(self.kinds)


@dataclass(frozen=True)
class Seen:
    """One request that came: when (monotonic seconds), what, and how it was answered."""

    time: float
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    fault: str | None


class StubServer(ThreadingHTTPServer):
    """See the module. ``seen`` records every request; ``on_image`` is called with the running number of each request
    for an image or a zip, half of whose body has been sent."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, catalogues: list[Catalogue], faults: Faults | None = None, port: int = 0,
                 physionet: Path | None = None, page_size: int = 1000) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", port), _Handler)
        self.catalogues = {one.dataset: one for one in catalogues}
        self.faults = faults or Faults()
        self.index = index_csv(catalogues)
        self.tables = {name: data for one in catalogues for name, data in one.tables.items()}
        self.files = physionet_files(physionet) if physionet else {}
        self.account = ("reader", "secret")
        self.page_size = page_size
        self.hashes_in_zip = True  # False: an older service, which refuses to be asked for them
        self.bytes_per_second: float | None = None
        self.on_image = lambda number: None
        self.seen: list[Seen] = []
        self.images_asked = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def settings(self, source: str) -> dict[str, object]:
        """The ``collect`` section that takes everything from here, without waiting."""
        base = {
            "nbia": f"{self.url}{NBIA}v4",
            "idc": f"{self.url}/s3",
            "physionet": f"{self.url}/files/vindr-mammo/1.0.0",
        }
        return {
            "source": source, "base_url": base[source], "tables_url": f"{self.url}/tables",
            "idc_index": f"{self.url}/idc_index.csv.gz", "interval_s": 0, "backoff_s": 0.01,
            "timeout_s": 0.5, "tries": 6,
        }  # fmt: skip

    def __enter__(self) -> "StubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def log_message(self, *_: object) -> None:
        """Requests are recorded in ``seen``."""

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        self._answer("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, method: str, body: bytes) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {key: value[0] for key, value in parse_qs(parts.query).items()}
        if path == "/__faults":  # by hand: POST {"rate": 0.3, "kinds": ["cut"]}
            self.server.faults = Faults(**json.loads(body))
            return self._send(b"{}")
        refusal = self._sign_in() if path.startswith("/files/") else None
        with self.server.lock:
            fault = None if refusal else self.server.faults.of(self.path)
            self.server.seen.append(Seen(time.monotonic(), method, path, query, dict(self.headers), fault))
        if refusal:
            return self._send(b"sign in", *refusal)
        if fault in ("429", "503"):
            return self._send(b"slow down", int(fault), {"Retry-After": self.server.faults.retry_after})
        if fault == "500":
            return self._send(b"Server was not able to process your request", 500)
        if fault == "empty":
            return self._send(b"")
        if fault == "html":
            return self._send(PAGE, headers={"Content-Type": "text/html"})
        if path.startswith(NBIA):
            return self._nbia(method, path.rsplit("/", 1)[1], query, body, fault)
        if path.startswith("/s3/"):
            return self._s3(path.removeprefix("/s3/"), query, fault)
        if path == "/idc_index.csv.gz":
            return self._body(self.server.index, fault)
        if path.startswith("/tables/") and path.removeprefix("/tables/") in self.server.tables:
            return self._body(self.server.tables[path.removeprefix("/tables/")], fault)
        if path.startswith("/files/vindr-mammo/1.0.0/"):
            return self._physionet(path.removeprefix("/files/vindr-mammo/1.0.0/"), fault)
        return self._send(b"not found", 404)

    # --- the services ------------------------------------------------------------------------------------------------

    def _nbia(self, method: str, endpoint: str, query: dict[str, str], body: bytes, fault: str | None) -> None:
        form = {key: value[0] for key, value in parse_qs(body.decode()).items()}
        uid = {**query, **form}.get("SeriesInstanceUID", "")
        catalogue = next((one for one in self.server.catalogues.values() if uid in one.series), None)
        if endpoint == "getSeries":
            names = {COLLECTIONS[name]: one for name, one in self.server.catalogues.items()}
            chosen = names.get(query.get("Collection", ""))
            # Nothing found is 200 with an empty body, not an empty list.
            return self._body(json.dumps(chosen.nbia_rows()).encode() if chosen else b"", fault)
        if catalogue is None:
            return self._send(b"series is not in public domain", 400)
        if endpoint == "getMD5Hierarchy" and method == "POST":
            return self._body(catalogue.hierarchy(uid).encode(), fault)
        if endpoint not in ("getImage", "getImageWithMD5Hash"):
            return self._send(b"not found", 404)
        wanted = endpoint == "getImageWithMD5Hash" or query.get("IncludeMD5") == "Yes"
        if "IncludeMD5" in query and not self.server.hashes_in_zip:
            return self._send(b"Invalid query parameter: 'IncludeMD5'", 400)
        hashes = self.server.hashes_in_zip and wanted
        zipped = catalogue.zip_of(uid, query.get("NewFileNames") == "Yes", hashes, damage=fault == "wrong_md5")
        # The service streams: no length, and a failure on its side ends the stream as if all were well.
        return self._chunked(zipped[: len(zipped) // 2] if fault == "truncated" else zipped, fault)

    def _s3(self, path: str, query: dict[str, str], fault: str | None) -> None:
        bucket, _, key = path.partition("/")
        if bucket != BUCKET:
            return self._send(b"<Error><Code>NoSuchBucket</Code></Error>", 404)
        if query.get("list-type") == "2":
            return self._body(self._listing(query), fault)
        objects = {k: v for one in self.server.catalogues.values() for k, v in one.objects(key).items()}
        if key not in objects:
            return self._send(b"<Error><Code>NoSuchKey</Code></Error>", 404)
        content = objects[key].read_bytes()
        return self._file(content, f'"{_md5(content)}"', fault)

    def _listing(self, query: dict[str, str]) -> bytes:
        found = {}
        for one in self.server.catalogues.values():
            found |= one.objects(query["prefix"])
        first = int(query.get("continuation-token", 0))
        keys = sorted(found)[first : first + self.server.page_size]
        rest = len(found) > first + len(keys)
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{_md5(found[key].read_bytes())}&quot;</ETag><Size>{found[key].stat().st_size}</Size></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{first + len(keys)}</NextContinuationToken>" if rest else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(rest).lower()}</IsTruncated>{items}{token}</ListBucketResult>"
        ).encode()

    def _sign_in(self) -> tuple[int, dict[str, str]] | None:
        """What stands in the way of this reader of PhysioNet. As physionet-build does: wget alone may sign in."""
        if not self.headers.get("User-Agent", "").startswith(("Wget/", "libwfdb/")):
            return 403, {}
        due = base64.b64encode(":".join(self.server.account).encode()).decode()
        if self.headers.get("Authorization") != f"Basic {due}":
            return 401, {"WWW-Authenticate": 'Basic realm="PhysioNet"'}
        return None

    def _physionet(self, name: str, fault: str | None) -> None:
        if name not in self.server.files:
            return self._send(b"not found", 404)
        return self._file(self.server.files[name], "", fault)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _file(self, content: bytes, etag: str, fault: str | None) -> None:
        """A file with ranges."""
        if fault == "wrong_md5":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, status, headers = (
            0,
            200,
            {"ETag": etag, "Accept-Ranges": "bytes"} if etag else {"Accept-Ranges": "bytes"},
        )
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self._send(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._body(content[start:], fault, status, headers)

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._body(content, None, status, headers, image=False)

    def _body(
        self,
        content: bytes,
        fault: str | None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        image: bool = True,
    ) -> None:
        if fault == "truncated":
            content = content[: len(content) // 2]
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self._write(content, fault, lambda block: self.wfile.write(block), image and self.path.startswith("/s3/"))

    def _chunked(self, content: bytes, fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._write(content, fault, lambda block: self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block)), True)
        self.wfile.write(b"0\r\n\r\n")

    def _write(self, content: bytes, fault: str | None, send, image: bool) -> None:
        half = len(content) // 2
        if content[:half]:
            send(content[:half])
            self.wfile.flush()
        if image:
            with self.server.lock:
                self.server.images_asked += 1
                number = self.server.images_asked
            self.server.on_image(number)
        if fault == "cut":
            self.close_connection = True
            self.connection.shutdown(2)
            raise ConnectionAbortedError
        if fault == "drip":
            for byte in content[half:]:  # for ever, as far as any client cares: it goes away, and this ends
                send(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
            return
        if self.server.bytes_per_second:
            time.sleep(len(content) / self.server.bytes_per_second)
        if content[half:]:
            send(content[half:])


def _md5(content: bytes) -> str:
    import hashlib

    return hashlib.md5(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(COLLECTIONS))
    parser.add_argument("root", type=Path, help="a phantom archive: python -m mammoflow phantom DATASET DIR")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--faults", type=float, default=0.0, help="share of the addresses that fail at first")
    parser.add_argument("--bytes-per-second", type=float, help="slow down, to have something to look at")
    args = parser.parse_args()
    server = StubServer([Catalogue(args.dataset, args.root)], Faults(rate=args.faults), args.port)
    server.bytes_per_second = args.bytes_per_second
    for source in ("nbia", "idc"):
        section = shlex.quote(json.dumps(server.settings(source)))
        print(f"python -m mammoflow collect {args.dataset} --out DIR --settings {section}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
