"""A campaign's file on its way to the page: all of it, in order, however much there is and whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from agent.dashboard import panels
from agent.dashboard.sources import FolderSource
from agent.dashboard.view import EVENTS_KEPT
from agent.status.record_file import STATUS

RECORDED = Path(__file__).parents[1] / "status" / "golden" / "status.jsonl"
CHUNK = 1 << 14
GOLDEN = Path(__file__).parents[3] / "integration" / "golden_campaigns" / "finished"


def event(number: int) -> str:
    payload = {"ts": "", "seq": number + 1, "severity": "info", "code": "X", "text": f"event {number}.", "trial": None}
    return json.dumps({"topic": "event", "payload": payload}) + "\n"


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "one"
    made.mkdir()
    shutil.copy(GOLDEN / "journal.sqlite", made)
    shutil.copy(RECORDED, made / STATUS)
    return made


async def test_a_page_is_drawn_while_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.dashboard.sources.CHUNK", CHUNK)
    status = folder(tmp_path) / STATUS
    source = FolderSource(tmp_path)
    view = source.views["one"]
    await source.want(view)
    following = asyncio.create_task(source.run())
    many = "".join(map(event, range(1500)))
    assert len(many) > 10 * CHUNK
    with status.open("a") as file:
        file.write(many + "no message\n" + event(1500)[:-20])
    drawn: set[str] = set()
    async with asyncio.timeout(120):
        while "event 1499." not in (text := panels.events_html(view)):
            drawn.add(text)
            await asyncio.sleep(0.01)
        assert len(drawn) > 1, "pages are drawn between two parts of a long file"
        assert len(view.events) == EVENTS_KEPT
        assert view.garbled == 1
        with status.open("a") as file:
            file.write(event(1500)[-20:])  # the rest of a line that was half written
        while "event 1500." not in panels.events_html(view):
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.wait([following])
