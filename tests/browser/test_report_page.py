"""The pages in a real browser: quiet console, no request, every picture drawn, readable wide and narrow."""

import json
import os
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.browser

SIZES = {"desk": (1200, 900), "phone": (400, 800)}


@pytest.fixture(params=["report", "compare"])
def page(request, pages):
    return pages[request.param]


def show(browser, page, size="desk", scheme="light"):
    """Open a page at a window size and colour scheme; what earlier pages logged is dropped."""
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def test_console_is_quiet_and_nothing_is_requested(browser, page):
    show(browser, page)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert asked, "the log of requests is empty: the browser did not record"
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def test_every_picture_is_decoded_and_has_a_size(browser, pages):
    show(browser, pages["report"])
    shown = browser.execute_async_script("""
        const done = arguments[arguments.length - 1];
        const images = [...document.querySelectorAll('svg image')];
        Promise.all(images.map(async element => {
            const picture = new Image();
            picture.src = element.getAttribute('href');
            await picture.decode();
            return [picture.naturalWidth, picture.naturalHeight];
        })).then(done, error => done(String(error)));
    """)
    assert isinstance(shown, list), shown
    assert len(shown) > 20
    assert all(width > 20 and height > 20 for width, height in shown)
    boxes = browser.execute_script("return document.querySelectorAll('.picture rect').length")
    assert boxes > 5


def test_curves_are_drawn_with_text(browser, page):
    show(browser, page)
    sizes = browser.execute_script("""
        return [...document.querySelectorAll('figure svg')].map(svg => {
            const box = svg.getBoundingClientRect();
            return [box.width, box.height, svg.querySelectorAll('text').length];
        });
    """)
    assert len(sizes) >= 2
    assert all(width > 200 and height > 100 and texts > 3 for width, height, texts in sizes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page_fits_its_window(browser, page, size, scheme):
    show(browser, page, size, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]
    # Only tables, and the configuration, may be wider than the window: they scroll by themselves.
    outside = browser.execute_script("""
        const width = document.documentElement.clientWidth;
        return [...document.querySelectorAll('h1, h2, h3, p, figure, .card, .flow, .picture')]
            .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80));
    """)
    assert outside == []
    keep = os.environ.get("MAMMOFLOW_SCREENSHOTS")
    if keep:
        save(browser, Path(keep) / f"{page.stem}-{size}-{scheme}.png")


def save(browser, path):
    """Screenshot of the whole page."""
    width = browser.execute_script("return window.innerWidth")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    path.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(path))


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_its_ground(browser, page, scheme):
    """At least 4.5 to 1 (WCAG 2.2, AA), for the words and for the curves' labels."""
    show(browser, page, scheme=scheme)
    pairs = browser.execute_script("""
        const ground = e => {
            for (; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (colour !== 'rgba(0, 0, 0, 0)') return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        const found = [...document.querySelectorAll('p, td, th, summary, figcaption, h2, h3, .ci, code')]
            .filter(e => e.checkVisibility())
            .map(e => [getComputedStyle(e).color, ground(e), e.textContent.slice(0, 40)]);
        const labels = [...document.querySelectorAll('figure svg text')]
            .map(e => [getComputedStyle(e).fill, ground(e), e.textContent]);
        return [...found, ...labels];
    """)
    assert len(pairs) > 50
    for colour, behind, words in pairs:
        light, dark = sorted([luminance(colour), luminance(behind)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, colour, behind)


def test_dark_page_is_dark(browser, page):
    grounds = []
    for scheme in ("light", "dark"):
        show(browser, page, scheme=scheme)
        grounds.append(luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor")))
    assert grounds[0] > 0.9
    assert grounds[1] < 0.05


def test_heat_maps_of_the_examples_can_be_switched_on(browser, pages):
    show(browser, pages["report"])
    heat = browser.find_elements(By.CSS_SELECTOR, ".kinds image.heat")
    assert heat
    assert not any(element.is_displayed() for element in heat)
    for switch in browser.find_elements(By.CSS_SELECTOR, ".heat-switch"):
        browser.execute_script("arguments[0].click()", switch)
    assert all(element.is_displayed() for element in heat)


def test_links_of_the_navigation_lead_to_what_they_name(browser, pages):
    show(browser, pages["report"])
    for link in browser.find_elements(By.CSS_SELECTOR, "nav a"):
        target = browser.find_element(By.ID, link.get_attribute("href").split("#")[1])
        assert target.find_element(By.TAG_NAME, "h2").text
