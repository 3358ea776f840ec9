"""A headless Chromium and what tests look at in it, and the embedded model for pages that are opened again and again.

Debian and Ubuntu: apt install chromium chromium-driver
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from safeguard_sdk import Bundle
from safeguard_sdk.engine import ImageEmbedding, Prefix, open_engine

pytest.importorskip("selenium", reason="tests of the page need selenium: pip install selenium")

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 60  # that a test waits for what should come soon
PHONE = (360, 740)
DESKTOP = (1280, 900)

# The ratio of every text that can be seen against what is behind it (WCAG 2.2, 1.4.3), the lowest for each look of it.
# Text that lies on a picture has a background of its own; of what is disabled nothing is asked.
CONTRASTS = """
const channel = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number); return [r, g, b, a]; };
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a] = parse(getComputedStyle(at).backgroundColor);
    if (a === 1) return [r, g, b];
    if (a > 0) throw new Error("half transparent: " + at.outerHTML.slice(0, 80));
  }
  return [255, 255, 255];
};
const found = {};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
  if (element.closest("template, script, style, option, :disabled, .unseen")) continue;
  const [one, other] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))].sort().reverse();
  const ratio = (one + 0.05) / (other + 0.05);
  const name = element.tagName.toLowerCase() + "." + element.className + ": " + walker.currentNode.textContent.trim();
  if (!(found[name] <= ratio)) found[name] = ratio;
}
return found;
"""


class RememberingEngine:
    """The embedded model; what it has been asked before it answers from memory, so a page costs a run once."""

    def __init__(self) -> None:
        self.bundle = Bundle.embedded()
        self._engine = open_engine(self.bundle)
        self.count_tokens = self._engine.count_tokens
        self._prefixes: dict[str, Prefix] = {}
        self._embeddings: dict[bytes, ImageEmbedding] = {}
        self._scores: dict[tuple[int, int], np.ndarray] = {}  # by the identity of both, which live as long as this

    def read(self, text: str) -> Prefix:
        if text not in self._prefixes:
            self._prefixes[text] = self._engine.read(text)
        return self._prefixes[text]

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageEmbedding]:
        for image in images:
            if image.tobytes() not in self._embeddings:
                self._embeddings[image.tobytes()], = self._engine.encode([image])
        return [self._embeddings[image.tobytes()] for image in images]

    def score(self, prefix: Prefix, images: Sequence[ImageEmbedding]) -> np.ndarray:
        for image in images:
            if (id(prefix), id(image)) not in self._scores:
                self._scores[id(prefix), id(image)] = self._engine.score(prefix, [image])[0]
        return np.array([self._scores[id(prefix), id(image)] for image in images])


@contextmanager
def open_browser(downloads: Path, logs_requests: bool = False) -> Iterator[WebDriver]:
    """Skips the test where there is no Chromium.

    logs_requests  for `hosts_asked`; it takes time
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("tests of the page need chromium and chromedriver: apt install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"} | ({"performance": "ALL"} if logs_requests else {}))
    browser = webdriver.Chrome(options, Service(driver))
    browser.set_script_timeout(SECONDS)
    try:
        yield browser
    finally:
        browser.quit()


def show_at(browser: WebDriver, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    width, height = size
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE})
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def wait_for(browser: WebDriver, true: Callable[[], object], what: str) -> None:
    """An element may be drawn anew while it is looked at; then it is looked at again."""
    waiting = WebDriverWait(browser, SECONDS, 0.05, ignored_exceptions=[StaleElementReferenceException])
    waiting.until(lambda _: true(), f"did not come: {what}")


def all_of(browser: WebDriver | WebElement, selector: str) -> list[WebElement]:
    return browser.find_elements("css selector", selector)


def one(browser: WebDriver | WebElement, selector: str) -> WebElement:
    return browser.find_element("css selector", selector)


def style_of(element: WebElement, name: str) -> str:
    return element.value_of_css_property(name)


def run_module(browser: WebDriver, module: str, body: str, *arguments: object) -> object:
    """What the JavaScript `body` returns, which has the exports of one of the page's modules as `module`."""
    return browser.execute_async_script(
        f"const [source, ...given] = arguments; const done = given.pop();"
        f"import(source).then((module) => {{ {body} }}).then(done, (error) => done('failed: ' + error));",
        f"/page/{module}", *arguments)


def low_contrasts(browser: WebDriver) -> dict[str, float]:
    """Texts of less than 4.5 : 1, and there were others."""
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 10
    return {text: ratio for text, ratio in found.items() if ratio < 4.5}


def overflows_sideways(browser: WebDriver) -> bool:
    return browser.execute_script("return document.documentElement.scrollWidth > innerWidth")


def nameless(browser: WebDriver) -> list[str]:
    """Controls that a screen reader could not name."""
    controls = all_of(browser, "button, input, select, textarea, a[href], summary")
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 3
    return [control.get_attribute("outerHTML")[:120] for control in shown if not control.accessible_name.strip()]


def tabbed_through(browser: WebDriver) -> Iterator[WebElement]:
    """What has the focus after each press of Tab, from the top of the page to its end."""
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    met: list[WebElement] = []
    while True:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        here = browser.switch_to.active_element
        if here.tag_name == "body" or here in met:
            return
        met.append(here)
        yield here


def hosts_asked(browser: WebDriver) -> set[str]:
    """Of all requests so far, also of refused ones; what the browser holds itself aside."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in urls if urlsplit(url).scheme not in ("blob", "data")}


def console(browser: WebDriver, but: Sequence[str] = ()) -> list[str]:
    """What the browser complained of since this was last asked, without those that a test means to happen."""
    messages = [entry["message"] for entry in browser.get_log("browser")]
    return [message for message in messages if not any(part in message for part in but)]
