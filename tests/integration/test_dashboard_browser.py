"""The page in a real browser: an evening at a campaign, watched by a viewer and steered by an operator."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from examples import description
from page_browser import Browser, chromium, page

from agent.config import parse_config
from agent.events import BudgetChanged, CampaignStarted, LivePictureDrawn, PhaseChanged, SteeringChanged
from agent.report.thumbnails import png_of
from agent.status.commands import CommandDesk
from agent.status.contract import Command
from agent.status.local import listening
from agent.status.record_file import STATUS, StatusRecorder
from agent.storage.journal import JOURNAL

GOLDEN = Path(__file__).parent / "golden_campaigns" / "finished"


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
        recorder.on_event(scanning(folder))
        yield recorder, verbs
    recorder.close()


def scanning(folder: Path) -> LivePictureDrawn:
    """A quarter of trial 4, with the pictures where the live process leaves them."""
    (folder / "live").mkdir()
    png = png_of(np.zeros((8, 8, 4), np.uint8))
    files = ("live/004-phase.png", "live/004-spectrum.png")
    for file in files:
        (folder / file).write_bytes(png)
    return LivePictureDrawn(
        trial=4,
        role="exploration",
        received=100,
        total=400,
        extent=(9.0, 9.0),
        levels=(0.0, 1.0),
        k_edge=1.5,
        phase=png,
        spectrum=png,
        files=files,
    )


def a_viewer_looks(browser: Browser) -> None:
    browser.enter("viewer-password")
    browser.find(".now .big", "acquiring")
    browser.find(".now", "trial 4 of 10")
    browser.find("[data-beam=on]", "BEAM ON")
    browser.find(".phase figcaption", "phase of trial 4 (exploration), 25% of the scan")
    browser.find(".spectrum .ramp", "live, not scored yet")
    browser.find(".top .dose", "250 × 10³ of 1 × 10⁶ e⁻")
    browser.find(".act.pause").click()
    browser.find(".q-notification", "you are a viewer here and cannot pause")
    assert browser.width(390) == 390, "a phone does not scroll sideways"
    for colour in ("#ffffff", "#14181e"):  # light, and dark again
        browser.press("t")
        browser.find(f"meta[name=theme-color][content='{colour}']")


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
