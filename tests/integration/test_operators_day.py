"""An operator's day at the page: start, watch from a phone, veto one, edit one, pause, go on, blank, release, report.

PTYCHOPILOT_SCREENSHOTS names a folder for pictures of the page, in both themes and at three widths.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_browser import Browser, chromium, page
from served_small_world import PROCESSING, Server, config, ledger

from agent import resume_campaign, run_campaign
from agent.campaign.steering import Steering
from agent.campaign.stop import Control
from agent.errors import StoppedError
from agent.report import write_report
from agent.status.commands import CommandDesk
from agent.status.local import listening
from agent.status.record_file import recording
from agent.storage.journal import load_campaign, load_history
from instrument import InstrumentClient

pytestmark = pytest.mark.usefixtures("world")
PICTURES = os.environ.get("PTYCHOPILOT_SCREENSHOTS")
if not (os.environ.get("PTYCHOPILOT_DAY") or PICTURES):
    pytest.skip("takes half a minute: make test-day", allow_module_level=True)
GOLDEN = Path(__file__).parent / "golden_campaigns" / "finished"


def pictures(browser: Browser, name: str) -> None:
    """As the page looks now, where somebody wants to know."""
    if PICTURES is not None:
        for theme in ("dark", "light"):
            for width, height in ((390, 1500), (1280, 1100), (1920, 1080)):
                browser.look(Path(PICTURES) / f"{name}-{theme}-{width}.png", width, height, theme)
        browser.look(Path(PICTURES) / "last.png", 1280, 1000)


def from_a_phone(browser: Browser) -> None:
    browser.enter("viewer-password")
    browser.find(".now .said", "trial 1 waits for approval")
    assert browser.width(390) == 390, "a phone does not scroll sideways"
    browser.find(".act.approve").click()
    browser.find(".q-notification", "you are a viewer here and cannot approve")
    pictures(browser, "phone")


def approves_one_and_vetoes_one(browser: Browser) -> None:
    browser.enter("operator-password")
    browser.width(1280)
    browser.find(".now .said", "trial 1 waits for approval")
    browser.press("a")
    browser.find(".now .said", "trial 2 waits for approval")
    browser.press("v")
    browser.find("tr.vetoed", "vetoed by an operator on the dashboard")


def edits_one(browser: Browser) -> None:
    browser.find(".now .said", "trial 3 waits for approval")
    browser.press("e")
    browser.find(".form .big", "Instead of trial 3")
    browser.write("dose", "1e6")
    browser.find(".act.send").click()
    browser.find(".q-notification", "must be 50 … 1000 e/Å²")
    browser.write("scan step", "1.25")
    browser.write("dose", "100")
    browser.write("why", "less dose")
    pictures(browser, "edit")
    browser.find(".act.send").click()
    browser.find("tr.abandoned", "edited by an operator on the dashboard: 1.25 Å")
    browser.find("tr.exploration", "1.25")


def pauses_and_goes_on(browser: Browser) -> None:
    browser.find(".now .said", "trial 5 waits for approval")
    browser.press("p")
    browser.find(".act.pause", "GO ON")
    browser.find(".now .said", "paused")
    pictures(browser, "paused")
    browser.press("p")
    browser.find(".act.pause", "PAUSE")


def blanks(browser: Browser) -> None:
    browser.press("B")
    browser.find(".q-notification", "beam off, the instrument is in SAFE")
    browser.press("a")
    browser.find("[data-life=ended]", "stopped")


def finds_it_in_the_list(browser: Browser) -> None:
    browser.find("[data-life=ended]", "done")
    pictures(browser, "done")
    browser.go("/campaigns")
    browser.find("tr", "small microscope")
    pictures(browser, "list")
    for box in range(2):
        browser.all("input[type=checkbox]")[box].click()
    browser.find(".plainbutton").click()
    browser.find(".verdict", "2 sd")
    pictures(browser, "compare")


async def test_an_operators_day(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "campaigns" / "today"
    folder.parent.mkdir()
    with page(folder.parent, tmp_path) as url, chromium(url) as browser:

        async def does(step: Callable[[Browser], Any]) -> None:
            await asyncio.to_thread(step, browser)

        control = Control()
        steering = Steering(control, "confirm")
        async with recording(folder) as recorder, listening(folder, CommandDesk(steering.act)) as door:
            campaign = asyncio.ensure_future(
                run_campaign(
                    config(name="today"),
                    server.endpoint,
                    folder,
                    observers=[recorder, door],
                    processing=PROCESSING,
                    control=control,
                    steering=steering,
                )
            )
            for step in (from_a_phone, approves_one_and_vetoes_one, edits_one, pauses_and_goes_on, blanks):
                await does(step)
            with pytest.raises(StoppedError, match="SAFE"):
                await campaign
        async with InstrumentClient(server.endpoint, timeout=5) as client:
            assert (await client.status()).phase == "safe", "the page does not release it"

        async with recording(folder) as recorder:
            record = await resume_campaign(folder, observers=[recorder])  # the operator, at the agent's own door
        other = folder.with_name("yesterday")
        shutil.copytree(GOLDEN, other)
        await does(finds_it_in_the_list)
        assert browser.complaints() == []
    assert write_report(record, folder).exists()
    assert [str(t.state) for t in record.trials[:4]] == ["done", "vetoed", "abandoned", "done"]
    assert (record.trials[3].settings.step, record.trials[3].suggestion.origin) == (1.25, "edited")
    exposed = [t for t in record.trials if t.electrons]
    booked = await ledger(server.endpoint)
    assert len([line for line in booked if line.dose > 0 and "today" in line.id]) == len(exposed)
    kinds = [entry.kind for entry in load_history(folder)]
    assert [kind for kind in ("veto", "edited", "paused", "resumed", "released from SAFE") if kind not in kinds] == []
    assert load_campaign(folder).state == "done"
