"""A headless Chromium, and the pages it looks at: written by the real stages from the small results tree."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from mammoflow.cli import main
from results_tree import write_tree


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium that records its console and every address it asks for."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on PATH: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as running:
        yield running


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """name -> HTML file: the report of two runs, and their comparison."""
    root = tmp_path_factory.mktemp("tree")
    tree = write_tree(root, patients=120, runs=("baseline", "second"))
    report, comparison = root / "report.html", root / "compare.html"
    words = ["report", "--store", *map(str, tree["store"]), "--config", *map(str, tree["config"]), "--out", str(report)]
    for kind in ("datasets", "cohorts", "runs"):
        words += [f"--{kind}", *map(str, tree[kind])]
    assert main(words) == 0
    assert main(["compare", *map(str, tree["runs"]), "--bootstrap", "100", "--out", str(comparison)]) == 0
    return {"report": report, "compare": comparison}
