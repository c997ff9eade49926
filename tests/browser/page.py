"""The page as a person uses it: widgets are found by the keys the page gives them, waits are for what is shown."""

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PASSING = (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
PATIENCE_S = 120


class Page:
    """One address in one browser."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, address=None):
        self.browser.get(address or self.address)

    def wait(self, what, seconds=PATIENCE_S):
        """What ``what(browser)`` gives once it is true. What Streamlit redraws meanwhile is looked up again."""
        try:
            return WebDriverWait(self.browser, seconds, 0.1, ignored_exceptions=PASSING).until(what)
        except TimeoutException:
            raise AssertionError(f"it did not come within {seconds} s; the page shows:\n{self.body()}") from None

    def at(self, key, inner=""):
        """The element with the page's ``key``, or what the CSS selector ``inner`` finds in it."""
        return self.browser.find_element(By.CSS_SELECTOR, f".st-key-{key} {inner}".strip())

    def has(self, key):
        return bool(self.browser.find_elements(By.CSS_SELECTOR, f".st-key-{key}"))

    def text(self, key):
        return self.at(key).text

    def body(self):
        return self.browser.find_element(By.CSS_SELECTOR, "[data-testid=stMain]").text

    def click(self, key, inner="button"):
        def press(_):
            element = self.at(key, inner)
            if not element.is_enabled():
                return False
            self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(press)

    def tick(self, key):
        self.click(key, "label")

    def unfold(self, title, within=""):
        """Open the part of the page (of the element with the key ``within``) that has this title."""
        place = f".st-key-{within} summary" if within else "summary"

        def press(_):
            for summary in self.browser.find_elements(By.CSS_SELECTOR, place):
                if title in summary.text:
                    if summary.find_element(By.XPATH, "..").get_attribute("open") is None:
                        summary.click()
                        return False
                    return True
            return False

        self.wait(press)

    def write(self, key, text):
        """Replace what a field holds and leave it, so that the page takes it over."""

        def fill(_):
            field = self.at(key, "input")
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(text)
            field.send_keys(Keys.TAB)
            return True

        self.wait(fill)

    def go(self, page):
        """Choose a page by its key."""
        self.click(f"page-{page}")

    def heading(self, text):
        self.wait(lambda _: text in self.browser.find_element(By.TAG_NAME, "h1").text)

    def wait_text(self, key, part, seconds=PATIENCE_S):
        self.wait(lambda _: part in self.text(key), seconds)
