"""Progress bars: redrawn on a terminal and in a notebook, absent elsewhere and where they are switched off."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from agent.status.console import ConsoleProgress
from agent.status.redrawn import SWITCH, Redrawn, progress_bar


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's cell showed, one after another."""
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    def display(html: str, **_: Any) -> Handle:
        shown.append(html)
        return Handle()

    module = ModuleType("IPython.display")
    module.HTML, module.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    console = terminal()
    with progress_bar("reconstructing", console) as done:
        done(0.5)
    assert "reconstructing" in output(console)


def test_a_pipe_shows_none() -> None:
    console = Console(file=io.StringIO())
    with progress_bar("reconstructing", console) as done:
        done(0.5)
    assert output(console) == ""


def test_a_notebook_shows_a_bar_that_is_gone_at_the_end(cells: list[str]) -> None:
    with progress_bar("reconstructing", Console(file=io.StringIO(), force_jupyter=True)) as done:
        done(0.25)
        done(0.5)  # at once: a cell is not redrawn for each pass
    assert len(cells) == 2
    assert "reconstructing" in cells[0]
    assert "25%" in cells[0]
    assert cells[1] == ""


@pytest.mark.parametrize("kind", ["terminal", "notebook"])
def test_bars_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, cells: list[str], kind: str) -> None:
    console = terminal() if kind == "terminal" else Console(file=io.StringIO(), force_jupyter=True)
    with progress_bar("reconstructing", console, wanted=False) as done:
        done(0.5)
    monkeypatch.setenv(SWITCH, "off")
    with progress_bar("reconstructing", console) as done:
        done(0.5)
    assert output(console) == ""
    assert cells == []
    assert not Redrawn(console, str).shown
    assert Redrawn(console, str, wanted=True).shown, "who asks for them gets them"


def test_a_campaign_without_bars_tells_its_phases_in_lines() -> None:
    from agent.events import PhaseChanged

    for bars, expected in ((True, False), (False, True)):
        console = terminal()
        with ConsoleProgress(console, bars=bars) as progress:
            progress.on_event(PhaseChanged(phase="connecting", message="tcp://it"))
        assert ("connecting – tcp://it" in output(console)) == expected
