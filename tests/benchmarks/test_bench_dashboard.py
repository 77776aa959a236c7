"""The page in Chromium: first paint, an event's way to the screen, idle processor time, memory over 10⁵ events."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from page_browser import Browser, chromium, page

from agent.status.record_file import STATUS

GOLDEN = Path(__file__).parents[1] / "integration" / "golden_campaigns" / "finished"
RECORDED = Path(__file__).parents[1] / "unit" / "agent" / "status" / "golden" / "status.jsonl"
EVENTS, MANY, IDLE_S = 20, 100_000, 20.0
WATCH = """
window.seen = {};
new MutationObserver(() => {
  for (const found of document.querySelector('.events').textContent.matchAll(/mark-(\\d+)!/g))
    window.seen[found[1]] ??= Date.now() / 1000;
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""


def line(number: int, text: str) -> str:
    payload = {
        "ts": "2026-11-30T12:00:00.000+00:00",
        "seq": 1000 + number,
        "severity": "info",
        "code": "X",
        "text": text,
        "trial": None,
    }
    return json.dumps({"topic": "event", "payload": payload}) + "\n"


def paints(browser: Browser, *, cleared: bool) -> dict[str, float]:
    """ms to the first paint, to the first text and to the first figures of a load."""
    driver = browser._driver
    if cleared:
        driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    driver.get(browser._url)
    browser.find("[data-life]")
    paint = "Object.fromEntries(performance.getEntriesByType('paint').map(e => [e.name, e.startTime]))"
    now = driver.execute_script("return performance.now()")
    told: dict[str, float] = {}
    while len(told) < 2:  # what is there need not have been painted yet
        told = driver.execute_script(f"return {paint}")
    return {"first-paint": told["first-paint"], "first text": told["first-contentful-paint"], "figures, at most": now}


def latencies(browser: Browser, status: Path) -> list[float]:
    """s from a line in the file to the text on the screen."""
    browser._driver.execute_script(WATCH)
    written = {}
    for number in range(EVENTS):
        with status.open("a") as file:
            written[str(number)] = time.time()
            file.write(line(number, f"mark-{number}!"))
        time.sleep(0.6 + 0.037 * number % 0.25)
    seen: dict[str, float] = browser._driver.execute_script("return window.seen")
    assert seen.keys() == written.keys()
    return [seen[number] - written[number] for number in written]


def busy(process: Any, seconds: float, status: Path) -> float:
    """Share of a core while an agent lives and tells nothing."""
    before, until = sum(process.cpu_times()[:2]), time.monotonic() + seconds
    while time.monotonic() < until:
        os.utime(status)
        time.sleep(2)
    return (sum(process.cpu_times()[:2]) - before) / seconds


def after_many(process: Any, browser: Browser, status: Path) -> list[float]:
    """MB of the page's process: before, after a tenth, after all of many events."""
    held = [process.memory_info().rss / 1e6]
    done = 0
    for upto in (MANY // 10, MANY):
        while done < upto:
            with status.open("a") as file:
                file.writelines(line(n, f"event {n} of many") for n in range(done, done + 500))
            done += 500
            time.sleep(0.02)
        browser.find(".events", f"event {upto - 1} of many")
        held.append(process.memory_info().rss / 1e6)
    return held


@pytest.mark.timeout(900)
def test_bench_dashboard(tmp_path: Path) -> None:
    live = tmp_path / "live"
    shutil.copytree(GOLDEN, live)
    recorded = RECORDED.read_text(encoding="utf-8").splitlines(keepends=True)
    (live / STATUS).write_text("".join(recorded[: len(recorded) // 2]), encoding="utf-8")
    with page(live, tmp_path) as url, chromium(url) as browser:
        (process,) = [each for each in psutil.Process().children() if "dashboard" in each.cmdline()]
        browser.enter("operator-password")
        for name, cleared in (("browser's cache empty", True), ("filled", False)):
            tries = [paints(browser, cleared=cleared) for _ in range(3)]
            print(f"{name}, s:", {what: f"{min(t[what] for t in tries) / 1e3:.2f}" for what in tries[0]})
        took = latencies(browser, live / STATUS)
        print(f"event to screen, s: median {statistics.median(took):.2f}, longest {max(took):.2f} of {EVENTS}")
        print(f"idle, share of a core: {busy(process, IDLE_S, live / STATUS):.1%}")
        held = after_many(process, browser, live / STATUS)
        print(f"memory, MB: {held[0]:.0f}, after {MANY // 10:,} events {held[1]:.0f}, after {MANY:,} {held[2]:.0f}")
    assert held[2] < 1.2 * held[1]
