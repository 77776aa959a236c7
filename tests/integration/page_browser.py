"""A headless Chromium on the dashboard's page, and the page in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (make env)")
pytest.importorskip("nicegui", reason="needs the extra [dashboard] (make env)")
if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)

LIMIT = 30.0
SERVE = "import sys; from agent.cli import main; main(sys.argv[1:])"
T = TypeVar("T")


class Browser:
    """A headless Chromium on the page."""

    def __init__(self, driver: Any, url: str) -> None:
        self._driver = driver
        self._url = url

    def enter(self, password: str) -> None:
        self._driver.delete_all_cookies()
        self._driver.get(self._url)
        self.find("input[type=password]").send_keys(password)
        self.find("form button").click()
        self.find("[data-life]")

    def show(self, campaign: str) -> None:
        self._driver.get(f"{self._url}?campaign={campaign}")

    def find(self, css: str, text: str = "") -> Any:
        """The first such element that holds the text, as soon as it is there."""
        return self._until(
            lambda: next((e for e in self._driver.find_elements("css selector", css) if text in e.text), None), css
        )

    def all(self, css: str) -> list[Any]:
        """All such elements that are there now."""
        return list(self._driver.find_elements("css selector", css))

    def press(self, key: str) -> None:
        self._driver.find_element("css selector", "body").send_keys(key)

    def go(self, path: str) -> None:
        self._driver.get(self._url.rstrip("/") + path)

    def write(self, label: str, text: str) -> None:
        """Into the field of a form, in place of what stands there."""
        field = self.find(f"input[aria-label^='{label}']")
        field.send_keys("\ue009a\ue000")  # select all
        field.send_keys(text)

    def look(self, path: Path, pixels: int, height: int = 900, theme: str = "dark") -> None:
        """Keep a picture of the page in a window of so many pixels."""
        size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self._driver.execute_script(f"setTheme('{theme}')")
        drawn = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self._driver.execute_async_script(drawn)
        time.sleep(0.3)  # the bar on top is a layer of its own, which is drawn later than the rest
        path.parent.mkdir(parents=True, exist_ok=True)
        self._driver.save_screenshot(str(path))

    def addresses(self) -> set[str]:
        """Hosts that the page has loaded anything from."""
        script = "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
        return set(self._driver.execute_script(script))

    def width(self, pixels: int) -> int:
        """How wide the page is in a window of so many pixels."""
        self._driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": True},
        )
        return int(self._driver.execute_script("return document.documentElement.scrollWidth"))

    def complaints(self) -> list[Any]:
        return [entry for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]

    def _until(self, look: Callable[[], T | None], what: str) -> T:
        from selenium.common.exceptions import StaleElementReferenceException

        give_up = time.monotonic() + LIMIT
        while time.monotonic() < give_up:
            try:
                found = look()
            except StaleElementReferenceException:
                continue
            if found is not None:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{what} is not there: {self._driver.find_element('css selector', 'body').text[:500]}")


@contextmanager
def page(folder: Path, passwords: Path) -> Iterator[str]:
    """The dashboard's process; yields its address."""
    command = [sys.executable, "-c", SERVE, "dashboard", "--campaign", str(folder), "--port", "0", "--no-browser"]
    for role in ("viewer", "operator"):
        (passwords / role).write_text(f"{role}-password\n")
        command += [f"--{role}-password", str(passwords / role)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().partition(": ")[2].strip()
        finally:
            process.terminate()


@contextmanager
def chromium(url: str) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(each)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver, url)
    finally:
        driver.quit()
