"""The page of --report-html in a real browser. SCREENSHOTS=FOLDER keeps pictures of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.inspection import timeline
from sandbox.inspection.report import Report
from sandbox.inspection.wanted import Wanted

from ..helpers.marked_tests import MarkedTests

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its chromedriver"),
]

SCRIPT = b"<script>alert(1)</script><img/src=http://example.org/x>"
LONG = b"shop:1:" + b"%20a" * 60  # 247 bytes

# With all timelines unfolded and numbers that are large: how far to the right each kind of element
# goes.
RIGHT = """
for (const details of document.querySelectorAll("details")) details.open = true;
for (const cell of document.querySelectorAll("td[data-value]"))
  if (/^[1-9]/.test(cell.textContent.trim())) cell.textContent = "12,345,678,901";
for (const cell of document.querySelectorAll('td[data-label="expiry"]'))
  cell.textContent = "1 to 2,592,000 s, a date, never, unknown";
const right = { page: document.documentElement.scrollWidth };
for (const element of document.body.querySelectorAll("*")) {
  const name = element.tagName;
  right[name] = Math.max(right[name] || 0, element.getBoundingClientRect().right);
}
return right;
"""

# The colours of the page and of a row that the mouse is on; of texts; of marks and of bars.
COLOURS = """
const colour = (element, pseudo) => getComputedStyle(element, pseudo).color;
const image = (element) => getComputedStyle(element).backgroundImage;
const all = (selector) => [...document.querySelectorAll(selector)];
const texts = all("body *").filter((each) => each.innerText).map((each) => colour(each));
const markers = all("li").map((item) => colour(item, "::marker"));
const pages = ["var(--page)", "var(--shade)"].map((value) => {
  document.body.style.background = value;
  return getComputedStyle(document.body).backgroundColor;
});
return {
  pages,
  texts: [...new Set([...texts, ...markers])],
  marks: all(".legend i").map(image),
  bars: all(".bar").map(image),
};
"""

# WCAG 2.1: the least contrast of text, and of what else is looked at.
OF_TEXT, OF_GRAPHICS = 4.5, 3.0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the address of a page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    wanted = Wanted(report_html=str(path))
    with MarkedTests(wanted) as tests:
        tests.run(
            "shop.tests.BookTests.test_price",
            lambda client: client.get("shop:1:price:7"),
            lambda client: client.set("shop:1:price:7", b"x" * 1000, expire=60),
            lambda client: client.get("shop:1:price:7"),
            lambda client: client.get_many([f"shop:1:price:{number}" for number in range(100)]),
        )
        tests.run(
            "shop.tests.CartTests.test_total",
            lambda client: client.set(LONG, b"x", expire=0),
            lambda client: client.get(LONG),
            lambda client: client.get(SCRIPT),
        )
        tests.run("shop.tests.CartTests.test_nothing")
        report = Report(wanted)
        report.add(tests.inspector.finish())
    assert [*report.write()] == []
    return path.as_uri()


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost")  # where the driver is
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        yield driver
        driver.quit()


@pytest.fixture
def browser(started: Any, page: str) -> Any:
    """Returns a browser that shows the page, 1,200 pixels wide and in light colours."""
    started.get_log("browser")
    started.get_log("performance")
    show(started, page)
    return started


def show(browser: Any, page: str, width: int = 1200, theme: str = "light") -> None:
    metrics = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{theme}-{width}.png"))


def find(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def rows(browser: Any, table: int) -> list[str]:
    """Returns the first cells of a table."""
    body = find(browser, "tbody")[table]
    return [cell.text.strip() for cell in find(body, "td:first-child code:first-child")]


def expiries(browser: Any) -> list[str]:
    return [cell.text for cell in find(browser, 'td[data-label="expiry"]')]


def test_tables_sort_by_click_and_by_key(browser: Any) -> None:
    assert rows(browser, 0)[0] == "shop:1:price:#"
    by_bytes = next(button for button in find(browser, "th button") if button.text == "bytes")
    by_bytes.click()
    assert rows(browser, 0)[0] == "shop:1:price:#"
    by_bytes.send_keys("\n")
    assert rows(browser, 0)[-1] == "shop:1:price:#"
    (heading,) = find(find(browser, "table")[0], "th[aria-sort]")
    assert heading.get_attribute("aria-sort") == "ascending"
    find(browser, "th button")[5].click()
    assert expiries(browser) == ["never", "60 s", ""]
    find(browser, "th button")[5].click()
    assert expiries(browser) == ["", "60 s", "never"]
    find(browser, "th button")[8].click()  # the names of the tests
    names = ["BookTests.test_price", "CartTests.test_nothing", "CartTests.test_total"]
    assert rows(browser, 1) == names
    find(browser, "th button")[8].click()
    assert rows(browser, 1) == names[::-1]


def test_timeline_unfolds_without_scripts(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page)
        assert find(browser, "th button") == []
        first, *_ = find(browser, "details")
        step, *_ = find(first, "li")
        assert not step.is_displayed()
        find(first, "summary")[0].click()
        assert step.is_displayed()
        texts = [step.text for step in find(first, "li")]
        assert texts[:3] == [
            "get shop:1:price:7 miss",
            "set shop:1:price:7 60 s, 1,000 bytes",
            "get shop:1:price:7 hit",
        ]
        assert len(texts) == 103
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_keys_are_escaped_and_nothing_is_loaded(browser: Any) -> None:
    assert SCRIPT.decode() in rows(browser, 0)[-1].replace("#", "1")
    assert find(browser, "img") == []
    assert len(find(browser, "script")) == 1
    assert browser.get_log("browser") == []  # no error, and nothing that the policy had to refuse
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].partition(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data"}
    assert "file" in asked


def test_page_fits(browser: Any, page: str) -> None:
    for width in (320, 400, 720, 1000, 1150, 1400):
        show(browser, page, width)
        right = browser.execute_script(RIGHT)
        assert max(right.values()) <= width, (width, right)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_can_be_read(browser: Any, page: str, theme: str) -> None:
    show(browser, page, 400, theme)
    show(browser, page, 1200, theme)
    colours = browser.execute_script(COLOURS)
    pages = [colour for text in colours["pages"] for colour in colours_in(text)]
    assert all((luminance(colour) > 0.5) == (theme == "light") for colour in pages)
    for text in colours["texts"]:
        assert all(contrast(colours_in(text)[0], colour) >= OF_TEXT for colour in pages)
    marks = dict(
        zip(timeline.KINDS, (colours_in(image)[0] for image in colours["marks"]), strict=True)
    )
    for mark in marks.values():
        assert all(contrast(mark, colour) >= OF_GRAPHICS for colour in pages)
    assert len(set(map(str, marks.values()))) == len(timeline.KINDS)
    assert len(colours["bars"]) == 5
    for image in colours["bars"]:
        hits, *_, misses = colours_in(image)
        assert (hits, misses) == (marks[timeline.HIT], marks[timeline.MISS])


def colours_in(text: str) -> list[list[float]]:
    """Returns red, green and blue of each colour such as "rgb(255, 0, 0)", each up to 1."""
    colours = re.findall(r"rgba?\((\d+), (\d+), (\d+)", text)
    return [[int(part) / 255 for part in colour] for colour in colours]


def luminance(colour: list[float]) -> float:
    """Returns the relative luminance of WCAG 2.1."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: list[float], other: list[float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
