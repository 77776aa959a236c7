"""What this command prints on: a console that shows every text on every terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from agent.status.redrawn import progress_wanted
from instrument.text import encodable


class Terminal(Console):
    """A rich console whose text is spelled in the characters of its stream: Å is A on an ASCII terminal.

    Spelled out before it is laid out, so that columns stay straight.
    """

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        """The text as rich draws it, with its markup."""
        return super().render_str(encodable(text, self.encoding), *args, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinning line, made of ASCII where there is nothing else; nothing where no progress is to be shown."""
        if not progress_wanted():
            return Status(status, console=Console(quiet=True), **options)
        if self.options.ascii_only:
            options.setdefault("spinner", "line")
        return super().status(status, **options)


def has_display() -> bool:
    """Whether a browser could be opened here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
