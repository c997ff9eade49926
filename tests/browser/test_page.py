"""The page in a real browser: from an empty folder to a trained report, against a server that speaks for the archives.

The workflow is started twice for real, so this is the longest of the browser tests; all is as small as it can be.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from selenium.webdriver.common.by import By

from browser.page import Page
from collect.archives import draw
from collect.catalogue import Catalogue
from collect.stub_server import StubServer
from mammoflow.ui.project import WORKFLOW

pytestmark = pytest.mark.browser

PATIENTS = 16
STAGE_S = 1200  # a whole workflow, on a machine that has other things to do; on two idle cores a minute
EVIL = ["; rm -rf /", "../..", "<img src=x onerror=alert(1)>", "![x](http://192.0.2.1/x.png)", "$(touch pwned)"]


class Served:
    """``python -m mammoflow ui`` over a directory."""

    def __init__(self, project: Path):
        self.project = project
        environment = {**os.environ, "PYTHONPATH": str(WORKFLOW / "workflow" / "src")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mammoflow", "ui", "--project", str(project), "--port", "0", "--headless"],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.output = []
        for line in self.process.stdout:
            self.output.append(line)
            if found := re.search(r"Open (http\S+)", line):
                self.address = found[1]
                break
        else:
            pytest.fail(f"the page did not start: {''.join(self.output)}")

    def close(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The page over an empty directory."""
    served = Served(tmp_path_factory.mktemp("project"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def finished(pages):
    """The page over two made-up archives whose workflow is through."""
    root = pages["report"].parent
    report = root / "results" / "report" / "index.html"
    report.parent.mkdir(exist_ok=True)
    report.write_bytes(pages["report"].read_bytes())
    (root / "config").mkdir(exist_ok=True)
    (root / "config" / "page.yaml").write_text(yaml.safe_dump({"datasets": {"cbis_ddsm": {}, "mias": {}}}))
    served = Served(root)
    yield served
    served.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server that holds a small CMMD."""
    with StubServer([Catalogue("cmmd", draw("cmmd", tmp_path_factory.mktemp("cmmd"), PATIENTS))]) as server:
        yield server


@pytest.fixture
def browse(browser):
    """Open a served page; at the end the console must be quiet, and nothing may have left this machine."""
    resize(browser)
    for kind in ("browser", "performance"):
        browser.get_log(kind)

    def start(served):
        page = Page(browser, served.address)
        page.open()
        page.wait(lambda _: page.has("next"))
        return page

    yield start
    asked = requests(browser)
    assert asked, "the log of requests is empty: the browser did not record"
    assert {urlsplit(url).hostname for url in asked} == {"127.0.0.1"}
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def resize(browser, width=1200, height=900):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(browser):
    """Addresses the browser has asked for over the network since the last look, web sockets among them."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked += [e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"]
    return {url for url in asked if not url.startswith(("data:", "blob:", "about:"))}


def keep(page, name):
    """Screenshots to look at, wide and narrow, where MAMMOFLOW_SCREENSHOTS names a directory."""
    folder = os.environ.get("MAMMOFLOW_SCREENSHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for size, width in (("desk", 1200), ("phone", 400)):
        resize(page.browser, width)
        length = page.browser.execute_script("return document.querySelector('[data-testid=stMain]').scrollHeight")
        resize(page.browser, width, max(900, length))
        page.browser.save_screenshot(str(Path(folder) / f"page-{name}-{size}.png"))
    resize(page.browser)


def name_the_server(page, server):
    settings = server.settings("idc")
    page.unfold("Another source or mirror", "card-cmmd")
    page.write("base-cmmd", settings["base_url"])
    page.write("tables-cmmd", settings["tables_url"])
    page.write("index-cmmd", settings["idc_index"])


def test_from_an_empty_folder_to_a_trained_report(empty, archive, browse):
    page = browse(empty)
    page.wait_text("next", "Choose an archive")
    collect(page, empty.project, archive)
    check(page)
    train(page)
    read(page, empty.project)


def collect(page, project, server):
    """Estimate, start, pause, reload, resume, complete."""
    page.tick("take-cmmd")
    name_the_server(page, server)
    page.click("estimate-cmmd")
    page.wait_text("size-cmmd", f"{PATIENTS}\n")
    assert not (project / "config").exists(), "looking at the size must write nothing"
    keep(page, "estimate")
    # The server holds its eighth answer back until the wish to pause is on disk, so that there is something left to do.
    held = threading.Event()
    server.on_image = lambda number: number < 8 or held.wait(STAGE_S)
    page.click("start-cmmd")
    page.wait(lambda _: server.images_asked >= 8, STAGE_S)
    page.wait_text("progress-cmmd", f"of {PATIENTS} series")
    page.click("pause-cmmd")
    page.wait(lambda _: (project / "data" / "cmmd" / ".collect" / "pause").exists())
    held.set()
    page.wait_text("state-cmmd", "Paused")
    page.wait_text("next", "stopped before its end (paused)")
    before = json.loads((project / "data" / "cmmd" / ".collect" / "state.json").read_text())
    assert 0 <= before["series_done"] < PATIENTS
    page.browser.refresh()
    page.wait_text("state-cmmd", "Paused")
    page.wait_text("state-cmmd", f"{before['series_done']} of {PATIENTS} series")
    keep(page, "paused")
    page.click("resume-cmmd")
    page.wait_text("state-cmmd", f"Complete and verified: {PATIENTS} series")
    record = json.loads((project / "data" / "cmmd" / "collected.json").read_text())
    assert {one["md5"] for entry in record["series"] for one in entry["files"]} == server.catalogues["cmmd"].digests()


def check(page):
    """The workflow up to the manifest; the view of the data's quality."""
    page.click("go-next")
    page.heading("Check the data")
    page.click("check")
    page.wait(lambda _: page.has("job-progress"))
    page.wait_text("job-ended", "Ended well: Check the data", STAGE_S)
    page.wait_text("quality-cmmd", "Every listed file is there and could be read")
    page.wait(lambda _: re.search(r"images converted\s+50\s+50\s+yes", page.text("quality-cmmd")))
    page.wait(lambda _: [one.get_property("naturalWidth") > 0 for one in pictures(page)] == 8 * [True])
    keep(page, "check")


def pictures(page):
    return page.at("pictures-cmmd").find_elements(By.TAG_NAME, "img")


def train(page):
    """A tiny model; the exact command; a reload on the way."""
    page.click("go-next")
    page.heading("Train and evaluate")
    page.unfold("Details")
    for field, value in (("height", "64"), ("width", "32"), ("epochs", "1")):
        page.write(f"{field}-first", value)
    for word in ("-m snakemake", "--configfile", "page.yaml", "--rerun-incomplete", " all"):
        page.wait_text("command", word)
    page.click("start-run")
    page.wait_text("job-progress", "steps done", STAGE_S)
    page.browser.refresh()
    page.heading("Train and evaluate")
    page.wait(lambda _: page.has("job-progress"))
    keep(page, "running")
    page.wait_text("job-ended", "Ended well: Train and report", STAGE_S)


def read(page, project):
    """Splits, the numbers, the report in the page."""
    config = yaml.safe_load((project / "config" / "page.yaml").read_text())
    assert config["runs"]["first"]["image_size"] == [64, 32]
    page.go("splits")
    page.wait_text("cohort-first", "Audit: no patient, file or picture stands on two sides")
    page.wait_text("cohort-first", "malignant share")
    keep(page, "splits")
    page.click("go-next")
    page.heading("Results")
    page.wait_text("metrics-first", "metadata-only floor")
    frame = page.wait(lambda _: page.at("report", "iframe"))
    page.browser.switch_to.frame(frame)
    page.wait(lambda browser: "Main result" in browser.find_element(By.TAG_NAME, "body").text)
    page.browser.switch_to.default_content()
    keep(page, "results")


def test_bad_input_is_refused(finished, browse):
    page = browse(finished)
    before = sorted(finished.project.rglob("*"))
    page.tick("take-cmmd")
    for text in EVIL:
        page.write("patients-cmmd", text)
        page.click("estimate-cmmd")
        page.wait(lambda _, text=text: f"Patients: {text.split()[0]!r} is no PatientID" in page.body())
    page.write("patients-cmmd", " ")
    for text in ("javascript:alert(1)", "file:///etc/passwd", "http://h/$(reboot)`id`"):
        page.unfold("Another source or mirror", "card-cmmd")
        page.write("base-cmmd", text)
        page.click("estimate-cmmd")
        page.wait(lambda _, text=text: f"Its address: '{text}' is no address" in page.body())
    for text in ("../..", "/etc"):
        page.unfold("Already on this machine")
        page.write("look-folder", text)
        page.click("look")
        page.wait(lambda _, text=text: f"Folder: '{text}' is no folder below" in page.body())
    page.go("train")
    for text in EVIL:
        page.write("run-name", text)
        page.wait(lambda _, text=text: f"Name of the run: {text!r} is no name" in page.body())
        assert not page.has("start-run")
    assert sorted(finished.project.rglob("*")) == before, "a refused input must leave nothing behind"


def test_finished_work_is_shown(finished, browse):
    page = browse(finished)
    page.go("check")
    page.wait_text("quality-mias", "3 could not be read")
    page.wait(lambda _: "DecodeError" in page.body())
    page.go("splits")
    page.wait_text("cohort-pooled", "Audit: no patient, file or picture stands on two sides")
    page.go("results")
    page.wait_text("metrics-baseline", "image model alone")
    page.wait(lambda _: page.has("metrics-second"))
    resize(page.browser, 400)
    for name in ("collect", "check", "train", "splits", "results"):
        page.go(name)
        page.wait(lambda _, name=name: f"page={name}" in page.browser.current_url)
        wide = page.browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 400, name


def test_only_who_has_the_key_may_enter(finished, browser):
    parts = urlsplit(finished.address)
    page = Page(browser, f"http://{parts.netloc}/?key=wrong&page=train")
    page.open()
    page.wait(lambda _: "Open the whole address" in page.body())
    assert not page.has("next")


def test_page_listens_on_loopback_only(finished):
    tree = [psutil.Process(finished.process.pid), *psutil.Process(finished.process.pid).children(recursive=True)]
    listening = [one.laddr for process in tree for one in process.net_connections("tcp") if one.status == "LISTEN"]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {urlsplit(finished.address).port}


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 101),
        ("evil.example:{port}", "http://evil.example:{port}", 403),  # a name of theirs that points to us
        ("127.0.0.1:{port}", "http://evil.example", 403),  # a page of theirs in our browser
    ],
)
def test_strangers_cannot_speak_to_the_page(finished, host, origin, status):
    port = urlsplit(finished.address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/_stcore/stream", headers={
        "Host": host.format(port=port), "Origin": origin.format(port=port), "Upgrade": "websocket",
        "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    })  # fmt: skip
    assert connection.getresponse().status == status
    connection.close()
