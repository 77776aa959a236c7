"""Lines that are redrawn in place while something runs: on a terminal or in a notebook's cell, and nowhere else.

`PTYCHOPILOT_PROGRESS=off` switches them off for a whole process; what matters is then printed as plain lines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SWITCH = "PTYCHOPILOT_PROGRESS"
BAR_WIDTH = 34
_OFF = ("off", "0", "no", "false")
_EVERY_S = 0.2
"""A cell is redrawn no more often."""
_CELL_WIDTH = 100
_PRE = '<pre style="line-height:normal">{code}</pre>'


def progress_wanted() -> bool:
    """Whether the environment lets lines be redrawn."""
    return os.environ.get(SWITCH, "").lower() not in _OFF


class Redrawn:
    """A context in which `render()` is shown and kept up to date.

    Args:
        console: where; its kind decides how.
        render: what to show, a renderable of rich.
        wanted: False shows nothing; None: unless PTYCHOPILOT_PROGRESS is `off`.
    """

    def __init__(self, console: Console, render: Callable[[], Any], wanted: bool | None = None) -> None:
        if wanted is None:
            wanted = progress_wanted()
        self._render = render
        self._live: Live | None = None
        self._cell: _Cell | None = None
        if wanted and console.is_jupyter:
            self._cell = _Cell()
        elif wanted and console.is_terminal:
            self._live = Live(get_renderable=render, console=console, refresh_per_second=5, transient=True)

    @property
    def shown(self) -> bool:
        """Whether anything is redrawn; otherwise lines have to tell."""
        return self._live is not None or self._cell is not None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._cell is not None:
            self._cell.clear()

    def changed(self) -> None:
        """What is to be shown has changed. A terminal is redrawn by the clock, a cell now and then by this."""
        if self._cell is not None:
            self._cell.show(self._render)


@contextmanager
def progress_bar(
    label: str, console: Console | None = None, *, wanted: bool | None = None
) -> Iterator[Callable[[float], None]]:
    """One bar, for a reconstruction in a script or a notebook.

    >>> with progress_bar("reconstructing", wanted=False) as done:
    ...     done(0.5)

    Args:
        label: what is going on.
        console: where it is shown; None: standard output, or the notebook's cell.
        wanted: see Redrawn.

    Yields:
        The function to call with the fraction done.
    """
    fraction = 0.0

    def render() -> Table:
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=fraction, width=BAR_WIDTH)
        grid.add_row(Text(label), bar, f"{fraction:.0%}")
        return grid

    def done(now: float) -> None:
        nonlocal fraction
        fraction = now
        redrawn.changed()

    with Redrawn(console or Console(), render, wanted) as redrawn:
        yield done


class _Cell:
    """An output of a notebook's cell that is replaced, not added to."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = -_EVERY_S

    def show(self, render: Callable[[], Any]) -> None:
        now = time.monotonic()
        if now - self._drawn < _EVERY_S:
            return
        self._drawn = now
        drawing = Console(record=True, file=StringIO(), width=_CELL_WIDTH, force_jupyter=False)
        drawing.print(render())
        self._write(drawing.export_html(inline_styles=True, code_format=_PRE))

    def clear(self) -> None:
        if self._handle is not None:
            self._write("")

    def _write(self, html: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))
