"""The page in a real browser: an evening at a campaign, watched by a viewer and steered by an operator."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from examples import description

from agent.config import parse_config
from agent.events import BudgetChanged, CampaignStarted, PhaseChanged, SteeringChanged
from agent.status.commands import CommandDesk
from agent.status.contract import Command
from agent.status.local import listening
from agent.status.record_file import STATUS, StatusRecorder
from agent.storage.journal import JOURNAL

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (make env)")
pytest.importorskip("nicegui", reason="needs the extra [dashboard] (make env)")
if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    pytest.skip("needs Debian's chromium and chromium-driver", allow_module_level=True)

GOLDEN = Path(__file__).parent / "golden_campaigns" / "finished"
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

    def press(self, key: str) -> None:
        self._driver.find_element("css selector", "body").send_keys(key)

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


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[StatusRecorder, list[str]]]:
    """What an agent leaves in its folder, and the door where it takes commands; yields the verbs that came."""
    recorder, verbs = StatusRecorder(folder), []
    raw = {
        "name": "tonight",
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
    }
    started = CampaignStarted(
        campaign="tonight-1",
        folder=str(folder),
        config=parse_config(raw, "test"),
        description=description(),
        trials_planned=10,
    )

    async def act(verb: str, command: Command, way: str) -> str:
        verbs.append(verb)
        recorder.on_event(SteeringChanged(autonomy="auto", paused=verb == "pause", code="PAUSED", text="paused by us"))
        return f"{verb} done"

    async with listening(folder, CommandDesk(act)) as door:
        for observer in (recorder, door):
            observer.on_event(started)
        recorder.on_event(PhaseChanged(phase="acquiring", trial=4, role="exploration"))
        recorder.on_event(BudgetChanged(spent=2.5e5, budget=1e6))
        yield recorder, verbs
    recorder.close()


def a_viewer_looks(browser: Browser) -> None:
    browser.enter("viewer-password")
    browser.find(".now .big", "acquiring")
    browser.find(".now", "trial 4 of 10")
    browser.find("[data-beam=on]", "BEAM ON")
    browser.find(".top .dose", "250 × 10³ of 1 × 10⁶ e⁻")
    browser.find(".act.pause").click()
    browser.find(".q-notification", "you are a viewer here and cannot pause")
    assert browser.width(390) == 390, "a phone does not scroll sideways"


def the_past_is_shown(browser: Browser, host: str) -> None:
    browser.show("finished")
    browser.find("[data-life=ended]", "done")
    browser.find("tr.final", "1.79 ± 0.08")
    assert browser.find(".phase image").get_attribute("href").startswith("data:image/png")
    browser.find(".model svg image")
    assert browser.addresses() <= {host}, "everything comes from this machine"


async def test_a_viewer_watches_and_an_operator_pauses(tmp_path: Path) -> None:
    campaigns = tmp_path / "campaigns"
    shutil.copytree(GOLDEN, campaigns / "finished")
    live = campaigns / "live"
    live.mkdir()
    shutil.copy(GOLDEN / JOURNAL, live)
    status = live / STATUS
    async with running(live) as (recorder, verbs):
        alive = asyncio.create_task(recorder.keep_alive())
        try:
            with page(live, tmp_path) as url, chromium(url) as browser:
                await asyncio.to_thread(a_viewer_looks, browser)
                assert verbs == []

                await asyncio.to_thread(browser.enter, "operator-password")
                await asyncio.to_thread(browser.find, "[data-life=live]")
                await asyncio.to_thread(browser.press, "p")
                await asyncio.to_thread(browser.find, ".q-notification", "pause done")
                await asyncio.to_thread(browser.find, ".act.pause", "GO ON")
                assert verbs == ["pause"]

                alive.cancel()  # the agent dies
                long_ago = time.time() - 60
                os.utime(status, (long_ago, long_ago))
                await asyncio.to_thread(browser.find, ".banner", "no sign of life")
                await asyncio.to_thread(browser.find, ".top", "beam: not known")
                recorder.on_event(PhaseChanged(phase="suggesting", trial=5, role="exploration"))  # and comes back
                await asyncio.to_thread(browser.find, "[data-life=live]")
                await asyncio.to_thread(browser.find, ".now .big", "choosing settings")

                await asyncio.to_thread(the_past_is_shown, browser, url.removeprefix("http://").rstrip("/"))
                assert browser.complaints() == []
        finally:
            alive.cancel()
            await asyncio.wait([alive])
